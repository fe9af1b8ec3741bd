"""Test scores at the end of a training run: a model on test sets, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel, WhisperProcessor

from .. import markdown
from ..data.clips import Clip
from ..data.labels import LabelBuilder
from ..evaluation.report.analysis import capped
from ..evaluation.scores.metrics import UtteranceScore, aggregate, score_utterance
from ..evaluation.scores.normalization import get_normalizer
from ..training.collator import SpeechCollator
from ..training.datasets import RowMaker, SpeechDataset


@dataclass(frozen=True)
class ScoreRow:
    """One system on one test set.

    Attributes:
        system: name of the model or method.
        dataset: name of the set.
        domain: "in" or "out".
        language: Whisper's code.
        wer, cer: in %.
        wer_capped: WER in % with no clip counted above 100 %, so that one endless loop does not decide it.
        insertions, deletions, substitutions: of words.
        loops: hypotheses that repeat a phrase endlessly.
        clips: number of clips, all of them scored.
        normalizer: of both texts.
    """

    system: str
    dataset: str
    domain: str
    language: str
    wer: float
    wer_capped: float
    cer: float
    insertions: int
    deletions: int
    substitutions: int
    loops: int
    clips: int
    normalizer: str


def transcribe(
    model: PreTrainedModel,
    processor: WhisperProcessor,
    clips: Sequence[Clip],
    *,
    batch_size: int = 16,
    max_new_tokens: int = 200,
    num_beams: int = 1,
    title: str = "Transcribing",
) -> list[str]:
    """The model's transcripts, in the order of the clips; every clip is given its language, and its expert by name.

    Args:
        clips: screened clips of at most one window.
        max_new_tokens: most tokens of a transcript, where a loop is cut off.
    """
    order = sorted(range(len(clips)), key=lambda index: clips[index].seconds or 0.0)
    rows = SpeechDataset([clips[i] for i in order], RowMaker(processor.feature_extractor), on_unreadable="raise")
    batches = DataLoader(rows, batch_size=batch_size, collate_fn=SpeechCollator(LabelBuilder(processor.tokenizer)))
    texts: list[str] = []
    for batch in tqdm(batches, desc=title, leave=False):
        start = len(texts)
        chosen = [clips[i] for i in order[start : start + len(batch["labels"])]]
        named = {"expert": [clip.expert for clip in chosen]} if any(clip.expert for clip in chosen) else {}
        tokens = model.generate(
            batch["input_features"].to(model.device, model.dtype),
            language=[clip.language for clip in chosen],
            task="transcribe",
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            **named,
        )
        texts += processor.batch_decode(tokens, skip_special_tokens=True)
    in_order = [""] * len(clips)
    for place, text in zip(order, texts, strict=True):
        in_order[place] = text
    return in_order


def score(clips: Sequence[Clip], hypotheses: Sequence[str], *, system: str) -> list[UtteranceScore]:
    """Scores of the clips, in their order, under the mark-preserving Unicode normaliser."""
    return [
        score_utterance(
            clip.text,
            hypothesis,
            normalizer=get_normalizer("unicode", clip.language),
            utterance_id=clip.id,
            system=system,
            language=clip.language,
            speaker=clip.speaker or None,
        )
        for clip, hypothesis in zip(clips, hypotheses, strict=True)
    ]


def score_rows(scores: Sequence[UtteranceScore], *, dataset: str, domain: str) -> list[ScoreRow]:
    """A row for each language of one system's scores on one set."""
    rows = []
    by = ("system", "language")
    limited = aggregate([capped(score) for score in scores], by=by)
    for cell, limited_cell in zip(aggregate(scores, by=by), limited, strict=True):
        counts = cell.words
        rows.append(
            ScoreRow(
                system=str(cell.key["system"]),
                dataset=dataset,
                domain=domain,
                language=str(cell.key["language"]),
                wer=cell.wer,
                wer_capped=limited_cell.wer,
                cer=cell.cer,
                insertions=counts.insertions,
                deletions=counts.deletions,
                substitutions=counts.substitutions,
                loops=len(cell.loops),
                clips=cell.utterances,
                normalizer=cell.normalizer,
            )
        )
    return rows


def score_model(
    model: PreTrainedModel,
    processor: WhisperProcessor,
    test_sets: Mapping[str, Sequence[Clip]],
    *,
    system: str,
    out_of_domain: Sequence[str] = (),
    **generation: Any,
) -> tuple[list[ScoreRow], dict[str, list[str]]]:
    """Rows and transcripts (by set) of one system on all sets."""
    model.eval()
    rows, texts = [], {}
    for name, clips in test_sets.items():
        if clips:
            texts[name] = transcribe(model, processor, clips, title=f"{system} on {name}", **generation)
            domain = "out" if name in out_of_domain else "in"
            rows += score_rows(score(clips, texts[name], system=system), dataset=name, domain=domain)
    return rows, texts


@torch.no_grad()
def gate_use(
    model: Any, processor: WhisperProcessor, clips: Sequence[Clip], *, batch_size: int = 8
) -> dict[str, list[float]]:
    """Share of open gates in every layer, over speech frames and the tokens of the true transcripts.

    Returns:
        "encoder" and "decoder" -> a share in [0, 1] for each layer.
    """
    from ..training.losses import mask_from_lengths

    model.eval()
    rows = SpeechDataset(clips, RowMaker(processor.feature_extractor), on_unreadable="raise")
    batches = DataLoader(rows, batch_size=batch_size, collate_fn=SpeechCollator(LabelBuilder(processor.tokenizer)))
    opened: dict[str, torch.Tensor] = {}
    counted: dict[str, int] = {}
    for batch in batches:
        names = batch.get("expert")
        ids = None if names is None else torch.tensor([-1 if n is None else model.expert_index(n) for n in names])
        outputs = model(
            batch["input_features"].to(model.device, model.dtype),
            labels=batch["labels"].to(model.device),
            expert_ids=ids,
            output_gate_values=True,
        )
        frames = outputs.encoder_gate_values[0].shape[1]
        masks = {
            "encoder": mask_from_lengths(batch["num_frames"], size=frames),
            "decoder": batch["labels"] >= 0,
        }
        for side, mask in masks.items():
            gates = torch.stack([layer[mask].float().sum() for layer in getattr(outputs, f"{side}_gate_values")])
            opened[side] = opened.get(side, torch.zeros_like(gates)) + gates
            counted[side] = counted.get(side, 0) + int(mask.sum())
    return {side: (gates / counted[side]).tolist() for side, gates in opened.items()}


def table(rows: Sequence[ScoreRow]) -> str:
    """Rows as Markdown, rates with one decimal."""
    header = (
        "set", "domain", "language", "system", "WER %", "capped", "CER %", "ins", "del", "sub", "loops", "clips",
    )  # fmt: skip
    lines = []
    for row in rows:
        names = (row.dataset, row.domain, row.language, row.system)
        rates = (f"{rate:.1f}" for rate in (row.wer, row.wer_capped, row.cer))
        counts = (row.insertions, row.deletions, row.substitutions, row.loops, row.clips)
        lines.append((*names, *rates, *counts))
    normalizers = ", ".join(sorted({row.normalizer for row in rows}))
    note = (
        f"Normaliser: {normalizers}. Capped: WER with no clip counted above 100 %, so that no single loop decides it."
    )
    return f"{markdown.table(header, lines)}\n\n{note}"


def as_dicts(rows: Sequence[ScoreRow]) -> list[dict[str, Any]]:
    """Rows for a JSON file."""
    return [asdict(row) for row in rows]
