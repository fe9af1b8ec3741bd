"""The trainer of language experts: Seq2SeqTrainer with distillation, the gate budget and expert checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import WhisperProcessor
from transformers.trainer import TRAINING_ARGS_NAME

from ..checkpoints import check_base, read_expert
from ..compact_experts import CompactExpert
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from ..untrusted_files import ExpertFileError
from .arguments import DistilWhisperTrainingArguments
from .collator import SpeechBatch
from .hub_pushes import HubPushMixin
from .losses import BudgetMode, Divergence, distillation, gate_budget, mask_from_lengths
from .schedules import (
    AverageCallback,
    CompressionCallback,
    GateNoiseCallback,
    InterpolationCallback,
    SkipGateCallback,
    put_tensors,
)
from .speech_trainer import SpeechTrainer
from .teacher import BaseTeacher, Teacher
from .teacher_cache import CachedTeacher
from .top_tokens import TopTokens, top_distillation


class DistilWhisperTrainer(HubPushMixin, SpeechTrainer):
    """Train the experts of a DistilWhisper on batches of one or several languages.

        loss = CE + gate_budget_weight · mean over experts of budget + distillation_weight · KD

    (arXiv 2311.01070; see `losses` for the parts.) Whisper's own weights are frozen; each row trains the expert of its
    language token, or the one that the data names. Checkpoints and the outcome hold experts, never the base.

    Rows that are anchors have, in place of CE, KD and budget, `anchor_weight · KL` from what the model says without its
    expert: they hold the expert to Whisper where it has nothing to teach.

    Args:
        model: with at least one expert (`add_expert`).
        args: DistilWhisperTrainingArguments.
        processing_class: the model's WhisperProcessor.
        teacher: needed unless `args.distillation` is "none".
        train_experts: names of the experts to train; the others stay as they are. None: all.
        kwargs: as for Seq2SeqTrainer.

    With `expert_interpolation="auto"` the weights stay as trained: `distil-whisper train` chooses the share after.

    Raises:
        ValueError: a model without experts, an expert that is not there, or a teacher that is missing or not used.
    """

    args: DistilWhisperTrainingArguments

    def __init__(
        self,
        model: DistilWhisperForConditionalGeneration,
        args: DistilWhisperTrainingArguments,
        *,
        processing_class: WhisperProcessor,
        teacher: Teacher | CachedTeacher | BaseTeacher | None = None,
        train_experts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if (teacher is None) != (args.distillation == "none"):
            got = "no teacher" if teacher is None else f"the teacher {teacher.name}"
            raise ValueError(
                f"Expected a teacher exactly where there is a distillation, got {got} with distillation "
                f"{args.distillation!r}. Give `teacher=`, or set distillation to 'none'."
            )
        if isinstance(teacher, CachedTeacher) and args.temperature != 1.0:
            raise ValueError(
                f"Expected temperature 1 with a teacher's cache, whose probabilities are at 1, got {args.temperature}: "
                "leave out the cache, or the temperature."
            )
        self.train_experts = tuple(model.expert_names if train_experts is None else train_experts)
        unknown = [name for name in self.train_experts if name not in model.expert_names]
        if unknown:
            raise ValueError(
                f"Expected experts of the model ({', '.join(model.expert_names) or 'none'}), got {unknown[0]!r}: "
                f"call model.add_expert({unknown[0]!r}) first."
            )
        self.teacher = teacher
        model.freeze_shared()
        for name in set(model.expert_names) - set(self.train_experts):
            for _, layer in model.expert_layers(name):
                layer.language_experts[name].requires_grad_(False)
        if args.for_export:
            for name in self.train_experts:
                keep_gates_open(model, name)
        for name in self.train_experts:
            entry = model.config.language_experts[name]
            summary = {**args.summary(), "teacher": None if teacher is None else teacher.name}
            # An expert that goes on keeps what it was trained with before.
            entry["training"] = {**summary, "before": entry["training"]} if entry.get("training") else summary
        super().__init__(model, args, processing_class=processing_class, **kwargs)
        self.add_callback(GateNoiseCallback(args.gate_noise))
        if args.skip_gate_probability is not None:
            self.add_callback(SkipGateCallback(args.skip_gate_probability))
        if args.average_last is not None:
            self.add_callback(AverageCallback(self.train_experts, args.average_last))
        if args.interpolation is not None and args.interpolation < 1.0:
            self.add_callback(InterpolationCallback(self.train_experts, args.interpolation))
        if args.compress_to is not None:
            for name in self.train_experts:
                model.config.check_form(replace(model.config.expert_form(name), rank=args.compress_to))
            self.add_callback(CompressionCallback(self.train_experts, args.compress_to))

    def _batch(self, inputs: Mapping[str, Any]) -> SpeechBatch:
        """The batch with the expert of each row: the one it names, else that of its language token."""
        batch = super()._batch(inputs)
        model = self._whisper()
        _, expert_ids = model.model.route(batch.prompt)
        for row, name in enumerate(batch.expert_names):
            if name is not None:
                expert_ids[row] = model.expert_index(name)
        own = {"expert_ids": expert_ids, "output_gate_values": True}
        return replace(batch, expert_ids=expert_ids, model_inputs={**batch.model_inputs, **own})

    def _loss_parts(
        self, outputs: Any, batch: SpeechBatch, num_items_in_batch: Tensor | int | None
    ) -> dict[str, Tensor]:
        parts = super()._loss_parts(outputs, batch.taught, num_items_in_batch)
        if self.teacher is not None:
            parts["kd"] = self._distillation(outputs.logits, batch, num_items_in_batch)
        if batch.anchors is not None:
            parts["anchor"] = self._anchor_loss(outputs.logits, batch, num_items_in_batch)
        # A mean, not a sum: the optimiser step has the mean of its batches.
        accumulated = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
        parts["gate"] = self._gate_loss(outputs, batch) / accumulated
        return parts

    def _distillation(self, logits: Tensor, batch: SpeechBatch, normalizer: Tensor | int | None) -> Tensor:
        divergence = cast(Divergence, self.args.distillation)
        said, labels = self._asked(batch), batch.labels
        if batch.anchors is not None:
            logits, labels = logits[~batch.anchors], labels[~batch.anchors]
        if isinstance(said, TopTokens):
            return top_distillation(logits, said, labels, divergence=divergence, normalizer=normalizer)
        return distillation(
            logits,
            said,
            labels,
            divergence=divergence,
            temperature=self.args.temperature,
            normalizer=normalizer,
        )

    def _asked(self, batch: SpeechBatch) -> Tensor | TopTokens:
        """What the teacher says of the rows that are no anchors."""
        teacher = cast(Teacher | CachedTeacher | BaseTeacher, self.teacher)
        heard = batch.teacher_input_features if teacher.own_features else batch.model_inputs["input_features"]
        rows = torch.ones_like(batch.labels[:, 0], dtype=torch.bool) if batch.anchors is None else ~batch.anchors
        heard, labels, prompt = cast(Tensor, heard)[rows], batch.labels[rows], batch.prompt[rows]
        if not isinstance(teacher, CachedTeacher):
            return teacher(heard, labels, prompt)
        known = batch.windows or [None] * len(rows)
        windows = [window for window, taught in zip(known, rows.tolist(), strict=True) if taught]
        return teacher(heard, labels, windows, prompt)

    def _anchor_loss(self, logits: Tensor, batch: SpeechBatch, normalizer: Tensor | int | None) -> Tensor:
        rows = cast(Tensor, batch.anchors)
        labels = batch.labels[rows]
        if not len(labels):
            return logits.new_zeros(())
        said = BaseTeacher(self._whisper())(batch.model_inputs["input_features"][rows], labels, batch.prompt[rows])
        return distillation(logits[rows], said, labels, divergence="kl", temperature=1.0, normalizer=normalizer)

    def ask_teacher(self, inputs: dict[str, Any]) -> None:
        """Let a teacher's cache have what a batch of the collator needs."""
        self._asked(super()._batch(self._prepare_inputs(inputs)))

    def _gate_loss(self, outputs: Any, batch: SpeechBatch) -> Tensor:
        """Mean distance from the budget over the experts that have a row in the batch."""
        masks = {} if self.args.gate_budget_counts_padding else _padding_masks(outputs, batch)
        # Set by `_batch`.
        expert_ids = cast(Tensor, batch.expert_ids)
        if batch.anchors is not None:
            # Where an expert has nothing to teach, it has no budget either.
            expert_ids = expert_ids.masked_fill(batch.anchors, -1)
        present = sorted(set(expert_ids.tolist()) - {-1})
        losses = []
        for index in present:
            rows = expert_ids == index
            sides = self._sides(index)
            losses.append(
                gate_budget(
                    outputs.encoder_gate_values if "encoder" in sides else (),
                    outputs.decoder_gate_values if "decoder" in sides else (),
                    budget=self.args.gate_budget,
                    mode=cast(BudgetMode, self.args.gate_budget_mode),
                    row_mask=rows,
                    **masks,
                )
            )
            if self.model.training:
                self._record_gates(outputs, batch, rows, index)
        if self.model.training and not losses and batch.anchors is None:
            raise ValueError(
                f"Expected rows with an expert ({', '.join(self.train_experts)}) in every training batch, got one "
                "without: leave out clips of other languages, or name their expert in the data."
            )
        return torch.stack(losses).mean() if losses else outputs.logits.new_zeros(())

    def _sides(self, index: int) -> tuple[str, ...]:
        model = self._whisper()
        return model.config.expert_sides(model.expert_names[index])

    def _record_gates(self, outputs: Any, batch: SpeechBatch, rows: Tensor, index: int) -> None:
        """Mean gate of each side over speech and targets, by expert."""
        masks = _padding_masks(outputs, batch)
        name = self._whisper().expert_names[index]
        for side in self._sides(index):
            counted = masks[f"{side}_mask"] & rows.unsqueeze(-1)
            gates = torch.stack([layer[counted].float().mean() for layer in getattr(outputs, f"{side}_gate_values")])
            self._record({f"gate_{side}_{name}": gates.detach().mean()}, count=1.0)

    def _weight(self, part: str) -> float:
        weights = {
            "kd": self.args.distillation_weight,
            "anchor": self.args.anchor_weight,
            "gate": self.args.gate_budget_weight,
        }
        return weights.get(part, super()._weight(part))

    def _process_scale(self, part: str) -> int:
        return 1 if part == "gate" else super()._process_scale(part)

    def _generation_arguments(self, inputs: dict[str, Any]) -> dict[str, Any]:
        arguments = super()._generation_arguments(inputs)
        return {**arguments, "expert": inputs["expert"]} if inputs.get("expert") else arguments

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Experts, configuration and processor; the base is named, not copied."""
        if not self.args.should_save:
            return
        folder = Path(cast(str, self.args.output_dir) if output_dir is None else output_dir)
        model = self._whisper()
        with self._beside(output_dir) as beside:
            if model.config.base_model_name_or_path is None:
                for name in self.train_experts:
                    model.save_expert(name, folder)
            else:
                model.save_pretrained(folder, experts_only=True)
            self.processing_class.save_pretrained(beside)
            torch.save(self.args, beside / TRAINING_ARGS_NAME)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a push writes the card, from what is known of each expert (see `cards`)."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Put a checkpoint's experts into the model, in place: the optimiser holds these very parameters.

        Raises:
            FileNotFoundError: the checkpoint lacks an expert.
            ExpertFileError: an expert of another base, name, geometry or sides.
        """
        model = self._whisper()
        fingerprint = model.base_fingerprint()
        for name in self.train_experts:
            file = read_expert(name, resume_from_checkpoint, model.config)
            check_base(file, fingerprint, model.config.base_model_name_or_path)
            form = model.config.expert_form(name)
            if file.form != form:
                raise ExpertFileError(
                    f"Expected expert {name!r} to be made as this run makes it ({form.entry or 'a full one'}), got "
                    f"{file.form.entry or 'a full one'} in {resume_from_checkpoint}. "
                    "Go on with the same sides, rank and targets."
                )
            put_tensors(model, name, file.tensors)

    def _load_best_model(self) -> None:
        self._rotate(over=True)
        self._load_from_checkpoint(os.fspath(cast(str, self.state.best_model_checkpoint)))


def keep_gates_open(model: DistilWhisperForConditionalGeneration, name: str) -> None:
    """Freeze an expert's gates, and let them be 1 in training as they are in evaluation.

    Raises:
        ValueError: gates that tokens can close, of an expert that was trained with them.
    """
    for key, layer in model.expert_layers(name):
        expert = layer.language_experts[name]
        if isinstance(expert, CompactExpert) and expert.fc1 is None:
            continue
        if not expert.always_open:
            raise ValueError(
                f"Expected an expert whose gates are open for for_export, those of {name!r} close in {key}. "
                "Train a new one."
            )
        expert.gate_in.requires_grad_(False)
        expert.gate_out.requires_grad_(False)
        layer.language_experts.straight_through = True


def _padding_masks(outputs: Any, batch: SpeechBatch) -> dict[str, Tensor]:
    """Frames of speech `(batch, frames)` and targets `(batch, tokens)`."""
    frames = outputs.encoder_gate_values[0].shape[1]
    return {
        "encoder_mask": mask_from_lengths(cast(Tensor, batch.num_frames), size=frames),
        "decoder_mask": batch.target_mask,
    }
