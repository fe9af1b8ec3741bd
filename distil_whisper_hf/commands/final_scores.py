"""Test scores at the end of a training run: a model on test sets, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..data.clips import Clip
from ..evaluation.report.analysis import capped
from ..evaluation.scores.metrics import UtteranceScore, aggregate, score_utterance
from ..evaluation.scores.normalization import get_normalizer
from ..evaluation.systems.hypotheses import GenerationSettings, transcribe_clips
from ..evaluation.systems.opening import System
from ..evaluation.systems.processes import running
from ..markdown import table as markdown_table


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


def score_system(
    system: System, test_sets: Mapping[str, Sequence[Clip]], settings: GenerationSettings
) -> tuple[list[ScoreRow], dict[str, list[str]]]:
    """Rows and transcripts (by set) of one system on all sets; every clip is given its language, and its expert.

    The processes of a training share the clips, and each has the scores of all.
    """
    processes = running()
    rows, texts = [], {}
    for name, clips in test_sets.items():
        if clips:
            made = transcribe_clips(system, clips, settings, progress=processes.main, processes=processes)
            # Screened clips that cannot be decoded after all: as if nothing had been recognised.
            texts[name] = [hypothesis.text or "" for hypothesis in made]
            scores = score(clips, texts[name], system=system.name)
            rows += score_rows(scores, dataset=name, domain=clips[0].domain)
    return rows, texts


def table(rows: Sequence[ScoreRow]) -> str:
    """Rows as Markdown, rates with one decimal."""
    header = ("set", "domain", "language", "system", "WER %", "capped", "CER %", "ins", "del", "sub", "loops", "clips")
    cells = [
        (
            *(row.dataset, row.domain, row.language, row.system),
            *(f"{rate:.1f}" for rate in (row.wer, row.wer_capped, row.cer)),
            *(row.insertions, row.deletions, row.substitutions, row.loops, row.clips),
        )
        for row in rows
    ]
    normalizers = ", ".join(sorted({row.normalizer for row in rows}))
    note = (
        f"Normaliser: {normalizers}. Capped: WER with no clip counted above 100 %, so that no single loop decides it."
    )
    return f"{markdown_table(header, cells)}\n\n{note}"
