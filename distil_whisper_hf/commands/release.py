"""Make the folder that would be pushed, from the output of training.

    distil-whisper release runs/pl runs/el --model openai/whisper-base --repo user/whisper-pl-el --output_dir release

Each folder holds `expert.<name>.safetensors` and, where there are measured figures, `results.<name>.json` (or
`results.json`, if it holds one expert). The release gets the experts, a configuration that names the base, processor,
card, results, the model's code, and `SHA256SUMS`. Every expert is checked against the base before anything is written.
Seconds, and no network if the base is a folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..places import check_hub_name, local_or_hub, missing_path
from .command_line import Parser
from .mistakes import program
from .output_folders import check_disk_space, check_output_dir

HASHES = "SHA256SUMS"
# What git carries without a thought: a compact expert of most sizes of Whisper, no full one.
RECORDED_BYTES = 20_000_000
PROGRAM = "distil-whisper release"


@program(PROGRAM)
def main(arguments: Sequence[str]) -> int:
    """Run the program; returns the exit status."""
    args = _parser().read(arguments)
    for folder in args.folders:
        if not folder.is_dir():
            raise ValueError(missing_path(folder, "a folder with experts"))
    check_hub_name(args.repo)
    names = make_release(
        args.folders,
        local_or_hub(args.model, "the base (--model)"),
        args.repo,
        args.output_dir,
        base_model=args.base_model,
        with_code=not args.without_code,
    )
    print(f"{args.output_dir}: experts {', '.join(names)}")
    print((args.output_dir / HASHES).read_text(encoding="utf-8"), end="")
    if args.record is not None:
        record(args.output_dir, args.record)
        print(f"{args.record}: {', '.join(sorted(path.name for path in args.record.iterdir()))}")
    print(f"push it: distil-whisper push {args.output_dir} {args.repo}")
    return 0


def _parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="outputs of training, each with one expert or more")
    parser.add_argument("--model", "--base", required=True, help="what they were trained on: folder or Hub name")
    parser.add_argument("--base_model", help="the base's name on the Hub, where --model is a folder")
    parser.add_argument("--repo", required=True, section="release", help="the repository that it is for, as user/name")
    parser.add_argument("--output_dir", "--output", required=True, type=Path, section="release", help="folder to make")
    parser.add_argument(
        "--without_code", action="store_true", section="release", help="leave the model's code out of it"
    )
    parser.add_argument(
        "--record",
        type=Path,
        section="release",
        help="also copy card, configuration, results, hashes and experts of at most 20 MB here, for git",
    )
    return parser


def make_release(
    folders: Sequence[Path],
    base: str,
    repo_id: str,
    output: Path,
    *,
    base_model: str | None = None,
    with_code: bool = True,
) -> list[str]:
    """Make a release of all experts in `folders`; returns their names. The folder appears whole or not at all.

    Raises:
        FileExistsError: `output` is there already.
        FileNotFoundError: a folder without an expert.
        ValueError: two experts of one name, a base without a public name, bad results, too little space.
        ExpertFileError: an expert that is damaged or does not fit the base.
    """
    from transformers import AutoProcessor

    from ..checkpoints import local_experts, read_expert
    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
    from ..publishing.release import complete_release, public_base, write_experts

    check_output_dir(output, new=True)
    public = public_base(base, base_model)
    found: dict[str, Path] = {}
    for folder in folders:
        here = local_experts(folder)
        if not here:
            raise FileNotFoundError(f"Expected expert.<name>.safetensors in {str(folder)!r}, found none.")
        doubled = sorted(here.keys() & found.keys())
        if doubled:
            raise ValueError(
                f"Expected each expert once, got {doubled[0]!r} in {found[doubled[0]].parent} and {folder}."
            )
        found |= here
    check_disk_space(output, sum(path.stat().st_size for path in found.values()), "the release")
    model = DistilWhisperForConditionalGeneration.from_pretrained(base, experts=[])
    for name, path in found.items():
        model.load_expert(name, path)
    files = [read_expert(name, path, model.config) for name, path in found.items()]
    results = {name: path for name in found if (path := _results_of(name, found[name].parent)) is not None}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".release-") as name:
        beside = Path(name) / output.name
        write_experts(model, files, beside, base_model=public)
        processor = AutoProcessor.from_pretrained(base)
        complete_release(beside, repo_id, processor=processor, results=results, with_code=with_code)
        (beside / HASHES).write_text(hashes(beside), encoding="utf-8")
        os.replace(beside, output)
    return list(found)


def _results_of(name: str, folder: Path) -> Path | None:
    from ..checkpoints import local_experts

    for path in (folder / f"results.{name}.json", folder / "results.json"):
        if path.exists() and (path.name != "results.json" or len(local_experts(folder)) == 1):
            return path
    return None


def hashes(folder: Path) -> str:
    """SHA-256 of every file in a folder, in the form that `sha256sum --check` reads."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != HASHES):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    return "".join(lines)


def record(release: Path, folder: Path) -> None:
    """Copy what belongs in git: card, configuration, results, hashes and small experts; no code, no tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [
        path for pattern in ("README.md", "config.json", "results.*.json", HASHES) for path in release.glob(pattern)
    ]
    experts = [path for path in release.glob("expert.*.safetensors") if path.stat().st_size <= RECORDED_BYTES]
    for path in [*kept, *experts]:
        shutil.copyfile(path, folder / path.name)
