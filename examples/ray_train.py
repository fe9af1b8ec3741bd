"""Train a language expert on several machines with Ray Train; `distil-whisper train` in every worker, with its flags.

    python examples/ray_train.py --workers 2 --storage_path s3://bucket/runs --name ca \
        examples/recipes/paper_js.json --model openai/whisper-small --teacher openai/whisper-large-v2 \
        --data FOLDER --language ca --save_strategy steps --save_steps 500 --output_dir runs/ca

Needs `pip install "distil_whisper_hf[train,ray]"` on all machines, and speech that all of them see under the same name:
a shared folder, or a data set on the Hub. Workers write on disks of their own. Checkpoints go to --storage_path, which
is a folder that all machines share, or an address for pyarrow (s3://, gs://, hdfs://) or else fsspec. When a worker or
a machine is lost, Ray starts all workers anew, at most --max_failures times, and they go on from the last checkpoint;
the same command goes on too, where the program itself was killed. At the end, expert, scores and records of the run are
in --output_dir, on the machine of this program, as after `distil-whisper train`.

Without a cluster (`ray start --head`, `--address auto`) the workers are processes of this machine.
"""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from fsspec.core import url_to_fs
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from transformers import TrainerCallback

from distil_whisper_hf.commands.mistakes import program
from distil_whisper_hf.commands.output_folders import check_output_dir, locked
from distil_whisper_hf.commands.run_records import run_files
from distil_whisper_hf.commands.runs import command_line
from distil_whisper_hf.commands.train import read_arguments, train


def report(folder: Path, names: Iterable[str], **metrics: Any) -> None:
    """Put files of the first worker's folder into the storage; all workers wait until they are there."""
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        for name in names:
            source, target = folder / name, Path(beside, name)
            if source.is_dir():
                shutil.copytree(source, target, copy_function=os.link)
            elif source.exists():
                os.link(source, target)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(beside))


def restore(folder: Path) -> None:
    """Make a worker's folder what was last put into the storage."""
    shutil.rmtree(folder, ignore_errors=True)
    kept = ray.train.get_checkpoint()
    if kept is None:
        folder.mkdir(parents=True)
    else:
        kept.to_directory(folder)


def share(folder: Path) -> None:
    """Give all workers what the first one has trained: each tests a share of the clips with it."""
    files: list[Any] = [None]
    main = ray.train.get_context().get_world_rank() == 0
    if main:
        files = [{name: (folder / name).read_bytes() for name in outcome(folder)}]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(files)
    for name, content in () if main else files[0].items():
        (folder / name).write_bytes(content)


class Reporter(TrainerCallback):
    """Puts each checkpoint into the storage, with the record that says which run it is of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best = state.best_model_checkpoint
        names = {f"checkpoint-{state.global_step}", *([Path(best).name] if best else [])}
        report(self.folder, ["run.json", *sorted(names)], step=state.global_step)


def work(config: dict[str, Any]) -> None:
    """One worker: what one process of torchrun does, on a disk of its own."""
    os.chdir(config["directory"])
    rank = ray.train.get_context().get_world_rank()
    # The same after a restart: records of a run name the files beside them.
    folder = Path(tempfile.gettempdir(), f"distil-whisper-{getpass.getuser()}", config["name"], str(rank))
    restore(folder)
    # Of a flag that is given twice the last one counts.
    words = [*config["words"], "--output_dir", str(folder)]
    train([*words, "--resume", "--test", "none"], command=config["command"], callbacks=[Reporter(folder)])
    report(folder, outcome(folder), trained=True)
    if config["test"] != "none":
        share(folder)
        train([*words, "--test_only", "--test", config["test"]], command=config["command"])
        report(folder, outcome(folder), tested=True)
    shutil.rmtree(folder, ignore_errors=True)


def outcome(folder: Path) -> list[str]:
    """Names of all that a run leaves but its checkpoints."""
    hidden = (".", "checkpoint-")
    return [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(hidden)]


def storage_at(place: str) -> tuple[str, FileSystem | None]:
    """A folder or an address as Ray takes it: with its file system, where pyarrow does not know it by its scheme."""
    scheme, separator, _ = place.partition("://")
    if not separator:
        return str(Path(place).absolute()), None
    if scheme in ("abfs", "abfss", "file", "gcs", "gs", "hdfs", "s3"):
        return place, None
    filesystem, path = url_to_fs(place)
    return path, PyFileSystem(FSSpecHandler(filesystem))


@program("ray_train.py")
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workers", type=int, default=2, help="processes in all, each with a GPU or a CPU [2]")
    parser.add_argument("--gpus", action="store_true", help="a GPU for every worker")
    parser.add_argument("--storage_path", required=True, help="folder or address that all machines can write to")
    parser.add_argument("--name", required=True, help="of the run in the storage; the same one goes on with it")
    parser.add_argument("--max_failures", type=int, default=3, help="restarts before the run fails [3]")
    parser.add_argument("--address", help="of a Ray cluster, such as auto; else this machine alone")
    own, words = parser.parse_known_args(arguments)
    run, *_, training = read_arguments(words)
    if run.resume or run.overwrite or run.test_only or run.dry_run:
        raise ValueError(
            "Expected none of --resume, --overwrite, --test_only, --dry_run: a run goes on by its --name, and another "
            "--name begins anew."
        )
    output = Path(training.output_dir)
    check_output_dir(output, writes="experts")
    if run_files(output):
        raise ValueError(f"Expected an --output_dir without a run, {str(output)!r} holds one. Set another one.")
    storage, filesystem = storage_at(own.storage_path)
    ray.init(address=own.address, **({} if own.address else {"include_dashboard": False}))
    result = TorchTrainer(
        work,
        train_loop_config={
            "words": words,
            "test": run.test,
            "name": own.name,
            "command": command_line("train", words),
            "directory": os.getcwd(),
        },
        scaling_config=ScalingConfig(num_workers=own.workers, use_gpu=own.gpus),
        run_config=RunConfig(
            name=own.name,
            storage_path=storage,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=own.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()
    with locked(output), tempfile.TemporaryDirectory(dir=output, prefix=".part-") as beside:
        result.checkpoint.to_directory(beside)
        for path in sorted(Path(beside).iterdir()):
            os.replace(path, output / path.name)
    print(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
