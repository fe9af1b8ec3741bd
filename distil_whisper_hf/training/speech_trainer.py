"""A Seq2SeqTrainer for any Whisper: per-row languages, whole checkpoints, one cross-entropy for all methods.

Full fine-tuning and LoRA train with it as it is; `DistilWhisperTrainer` adds experts, gates and a teacher.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from transformers import PreTrainedModel, Seq2SeqTrainer, WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.modeling_whisper import shift_tokens_right
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.atomic_files import UNFINISHED
from ..data.labels import LabelBuilder
from .arguments import SpeechTrainingArguments, without_secrets
from .collator import SpeechBatch, SpeechCollator
from .datasets import SpeechDataset, StreamingSpeechDataset
from .loaders import SeededByEpoch, stream_loader
from .losses import IGNORED, cross_entropy
from .resuming import (
    CheckpointError,
    DamagedCheckpointError,
    check_checkpoint,
    disk_faults,
    last_checkpoint,
    rotate,
    seal,
)

_BY_LENGTH = ("group_by_length", "batch_rebalance")
# Where a checkpoint is written before it is renamed into place: not a name that a resumed run looks for.
_STAGING = f"{UNFINISHED}checkpoint"


class SpeechTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer for batches of `SpeechCollator`.

    Beyond Seq2SeqTrainer:

    - the loss is normalised over all accumulated batches and processes, whatever the model does itself;
    - with `predict_with_generate` each row is generated in the language of its label, and by its expert;
    - a checkpoint appears under its name when it is complete, and a run goes on from whole ones alone, to the same bits
      (see `resuming`); whatever else is saved is renamed into place, and no token is in it;
    - each part of the loss is logged (`loss_ce`, ...).

    Args:
        model: a Whisper with its head, or a peft model of one.
        args: SpeechTrainingArguments.
        processing_class: the model's WhisperProcessor; saved with every checkpoint.
        data_collator: by default a SpeechCollator that transcribes.
        kwargs: as for Seq2SeqTrainer.

    Attributes:
        run_id: what checkpoints are known by: those that name another run are never gone on from.
        seconds: of training so far, those before the checkpoint that a run went on from included.

    Raises:
        ValueError: no processor, or a stream of rows that are to be grouped by length.
    """

    args: SpeechTrainingArguments
    model: PreTrainedModel | nn.Module
    processing_class: WhisperProcessor

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: SpeechTrainingArguments,
        *,
        processing_class: WhisperProcessor,
        data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(processing_class, WhisperProcessor):
            raise ValueError(
                f"processing_class must be the model's WhisperProcessor, got {type(processing_class).__name__}: "
                "AutoProcessor.from_pretrained(model) opens it."
            )
        if data_collator is None:
            data_collator = SpeechCollator(LabelBuilder(processing_class.tokenizer))
        if args.train_sampling_strategy in _BY_LENGTH and isinstance(kwargs.get("train_dataset"), IterableDataset):
            raise ValueError(
                "Expected rows that can be chosen by their length for --train_sampling_strategy "
                f"{args.train_sampling_strategy}, got a stream. Leave out --streaming, or the strategy."
            )
        super().__init__(model, args, data_collator=data_collator, processing_class=processing_class, **kwargs)
        # compute_loss divides by the number of targets in all accumulated batches, also where the model would not.
        self.model_accepts_loss_kwargs = True
        self._parts: dict[str, Tensor] = {}
        self._counts: dict[str, float] = defaultdict(float)
        self._staging: Path | None = None
        self.run_id: str | None = None
        self._seconds_before, self._started = 0.0, time.perf_counter()
        # The epoch's batches, torch's random numbers before its first one, and those that a resumed epoch began with.
        self._epoch_batches: Iterator[Any] | None = None
        self._epoch_random = torch.get_rng_state()
        self._resumed_random: Tensor | None = None

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def train(self, resume_from_checkpoint: str | os.PathLike | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, from a checkpoint that is whole.

        Args:
            resume_from_checkpoint: a checkpoint, or True for the last whole one of the output folder.
            args, kwargs: as for Trainer.

        Raises:
            CheckpointError: a checkpoint that is damaged, or lacks a state; with True, or none that can be used.
        """
        checkpoint, processes = resume_from_checkpoint, self.args.world_size
        if checkpoint is True:
            folder = Path(cast(str, self.args.output_dir))
            checkpoint = last_checkpoint(folder, self.run_id, processes=processes)
            if checkpoint is None:
                raise CheckpointError(f"Expected a checkpoint to go on from in {str(folder)!r}, found none.")
        self._seconds_before, self._started = 0.0, time.perf_counter()
        if not checkpoint:
            return super().train(None, *args, **kwargs)
        try:
            self._seconds_before = check_checkpoint(Path(checkpoint), processes=processes)["seconds"]
        except DamagedCheckpointError as error:
            raise CheckpointError(f"Expected a checkpoint as it was written, {error}: name another one.") from error
        self._resumed_random = torch.load(Path(checkpoint) / self._epoch_random_file, weights_only=True)
        outcome = super().train(os.fspath(checkpoint), *args, **kwargs)
        # A program that was killed right after its last save left one more than wanted.
        self._rotate(over=True)
        return outcome

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """As the Trainer's, which would take one more step where a run goes on from its last one.

        Some samplers draw the order of an epoch from torch's random numbers, with its first batch: a run that goes on
        in the middle of an epoch has those of its beginning.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        if epoch_iterator is not self._epoch_batches:
            if self._resumed_random is not None:
                torch.set_rng_state(self._resumed_random)
                self._resumed_random = None
            self._epoch_batches, self._epoch_random = epoch_iterator, torch.get_rng_state()
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        # Before the first batch: an epoch begins where the checkpoint was made.
        self._resumed_random = None
        super()._load_rng_state(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        folder = Path(output_dir)
        torch.save(self._epoch_random, folder / self._epoch_random_file)
        if self.args.world_size > 1:
            # On machines without a disk in common, a checkpoint is whole on the one that saves it.
            names = [self._epoch_random_file, f"rng_state_{self.args.process_index}.pth"]
            for name, content in gather_object([(name, (folder / name).read_bytes()) for name in names]):
                if self.args.should_save and not (folder / name).exists():
                    (folder / name).write_bytes(content)

    @property
    def _epoch_random_file(self) -> str:
        return f"epoch_rng_state_{self.args.process_index}.pth"

    def _load_best_model(self) -> None:
        # Before the Trainer does it, and leaves a part of a checkpoint where it is killed.
        self._rotate(over=True)
        super()._load_best_model()

    def _rotate(self, *, over: bool = False) -> None:
        if self.args.should_save:
            folder, best = Path(self._get_output_dir(None)), self.state.best_model_checkpoint
            rotate(folder, self.args.save_total_limit, best=best, over=over)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the Trainer's; it leaves no trace in the random numbers of training: a resumed run may not repeat it."""
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The training loss of a batch: a float32 scalar, in nats.

        Args:
            num_items_in_batch: target tokens in the whole optimiser step, over all accumulated batches and processes;
                None (evaluation): those of this batch.
        """
        batch = self._batch(inputs)
        # The prompt and not the labels, so that the model computes no loss of its own.
        outputs = model(**batch.model_inputs, decoder_input_ids=batch.prompt, use_cache=False)
        parts = self._loss_parts(outputs, batch, num_items_in_batch)
        # Processes average their gradients: sums over a number of targets that counts all processes must be scaled up.
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            parts = {name: part * self._process_scale(name) for name, part in parts.items()}
        if model.training:
            share = 1.0 if num_items_in_batch is None else 1.0 / self.current_gradient_accumulation_steps
            self._record({f"loss_{name}": part.detach() for name, part in parts.items()}, count=share)
        loss = torch.stack([self._weight(name) * part for name, part in parts.items()]).sum()
        return (loss, outputs) if return_outputs else loss

    def _batch(self, inputs: Mapping[str, Any]) -> SpeechBatch:
        """What the collator made, with the prompt of each row."""
        rest = dict(inputs)
        labels, prompt = rest.pop("labels"), rest.pop("decoder_input_ids", None)
        config, padding = self._whisper().config, cast(int, self._whisper().config.pad_token_id)
        prompt = shift_tokens_right(labels, padding, config.decoder_start_token_id) if prompt is None else prompt
        return SpeechBatch(
            labels=labels,
            prompt=prompt.masked_fill(prompt == IGNORED, padding),
            num_frames=rest.pop("num_frames", None),
            teacher_input_features=rest.pop("teacher_input_features", None),
            expert_names=rest.pop("expert", ()),
            windows=rest.pop("windows", ()),
            anchors=rest.pop("anchors", None),
            model_inputs=rest,
        )

    def _loss_parts(
        self, outputs: Any, batch: SpeechBatch, num_items_in_batch: Tensor | int | None
    ) -> dict[str, Tensor]:
        """Every part of the loss before its weight: name -> float32 scalar."""
        smoothing = self.args.label_smoothing_factor
        ce = cross_entropy(outputs.logits, batch.labels, label_smoothing=smoothing, normalizer=num_items_in_batch)
        return {"ce": ce}

    def _weight(self, part: str) -> float:
        return 1.0

    def _process_scale(self, part: str) -> int:
        """Factor that undoes the averaging over processes for a part that is a sum over targets."""
        return self.accelerator.num_processes

    def _whisper(self) -> WhisperForConditionalGeneration:
        """The Whisper under whatever wraps it for several processes."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def _record(self, values: dict[str, Tensor], *, count: float) -> None:
        """Add up values for the next log, which divides their sum by the sum of `count`."""
        for name, value in values.items():
            self._parts[name] = self._parts.get(name, torch.zeros_like(value)) + value
            self._counts[name] += count

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer's; a training log also has every part of the loss and the gates since the last one."""
        if "loss" in logs:
            logs = {**logs, **self._means()}
        super().log(logs, start_time)

    def _means(self) -> dict[str, float]:
        """What was recorded since the last call, averaged over steps and processes."""
        # In one collective call, and the same names on every process: one may not have met every expert.
        names = sorted(set(gather_object(list(self._parts))))
        missing = torch.zeros((), device=self.args.device)
        sums = torch.stack([self._parts.get(name, missing).float() for name in names] or [missing])
        counts = torch.tensor([self._counts[name] for name in names] or [0.0], device=self.args.device)
        sums, counts = (self.accelerator.reduce(values, reduction="sum") for values in (sums, counts))
        self._parts.clear()
        self._counts.clear()
        return dict(zip(names, (sums / counts).tolist(), strict=False))

    def prediction_step(  # type: ignore[override]  # the stock one returns the loss as a tensor as well
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, tokens and labels `(batch, tokens)` of a batch; -100 after the end of labels.

        Tokens are generated in the language of each label; without `predict_with_generate` they are the most likely
        ones at every position.
        """
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        if not self.args.predict_with_generate:
            return loss.detach(), outputs.logits.argmax(dim=-1), labels
        arguments = {**getattr(self, "_gen_kwargs", {}), **gen_kwargs, **self._generation_arguments(inputs)}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        tokens = self._whisper().generate(input_features=inputs["input_features"], **arguments)
        return loss.detach(), tokens, labels

    def _generation_arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Language and task of every row, from the two tokens that its label begins with."""
        tokens = self.processing_class.tokenizer.convert_ids_to_tokens
        languages = [token.strip("<|>") for token in tokens(inputs["labels"][:, 0].tolist())]
        (task,) = {token.strip("<|>") for token in tokens(inputs["labels"][:, 1].tolist())}
        return {"language": languages, "task": task}

    def get_train_dataloader(self) -> DataLoader:
        """As the Trainer's, but of a stream each process reads and decodes its own part, and none for the others."""
        rows = self.train_dataset
        if not isinstance(rows, StreamingSpeechDataset):
            return super().get_train_dataloader()
        return stream_loader(rows, self.args, batch_size=self._train_batch_size, collator=self.data_collator)

    # Both would open the audio of every row for its length, and find the same for all: the window's.
    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        rows = self._for_sampler(self.train_dataset if train_dataset is None else train_dataset)
        sampler = super()._get_train_sampler(rows)
        return SeededByEpoch(sampler, self.args) if isinstance(sampler, LengthGroupedSampler) else sampler

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        return super()._get_eval_sampler(self._for_sampler(eval_dataset))

    def _for_sampler(self, rows: Any) -> Any:
        """What a sampler is to look at in place of the rows."""
        by_length = self.args.train_sampling_strategy in _BY_LENGTH
        return rows.lengths() if by_length and isinstance(rows, SpeechDataset) else rows

    def _get_output_dir(self, trial: Any) -> str:
        run = super()._get_output_dir(trial)
        return run if self._staging is None else str(self._staging)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with self._beside(output_dir) as folder:
            super()._save(str(folder), state_dict)

    @contextmanager
    def _beside(self, output_dir: str | None) -> Iterator[Path]:
        """A folder to save in, whose files are renamed into `output_dir`; arguments hold no token until then."""
        target = Path(cast(str, self.args.output_dir) if output_dir is None else output_dir)
        target.mkdir(parents=True, exist_ok=True)
        args = self.args
        self.args = without_secrets(args)
        try:
            with disk_faults(target), tempfile.TemporaryDirectory(dir=target, prefix=UNFINISHED) as beside:
                yield Path(beside)
                for path in sorted(Path(beside).iterdir()):
                    os.replace(path, target / path.name)
        finally:
            self.args = args

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer's, but written beside and renamed into place when all of it is there."""
        run = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = run / _STAGING
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = staging
        try:
            with disk_faults(run / name):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.state.best_model_checkpoint == str(staging / name):
                    self.state.best_model_checkpoint = str(run / name)
                if self.args.should_save:
                    self.state.save_to_json(str(staging / name / TRAINER_STATE_NAME))
                    seal(staging / name, run_id=self.run_id, seconds=self.seconds)
                    _replace_folder(staging / name, run / name)
        finally:
            self._staging = None
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
        self._rotate()
        self.accelerator.wait_for_everyone()
        # On a disk of its own, a process has its own part there.
        shutil.rmtree(staging, ignore_errors=True)


def _replace_folder(source: Path, target: Path) -> None:
    """Rename a folder into place, past one of an earlier run; the caller removes what is beside `source`."""
    if target.exists():
        os.replace(target, source.with_name("replaced"))
    os.replace(source, target)
