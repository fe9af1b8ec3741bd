"""The clips of an evaluation's data sets: read, named apart, limited, with digest and length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..data.audio import AudioError, audio_digest, audio_seconds
from ..data.clips import Clip, unique_ids
from ..data.columns import Columns
from ..data.rejections import Note, Rejection
from ..data.sampling import choose_clips
from ..data.screening import ScreeningReport, TooManyRejected, audio_reason, notes_on_audio, notes_on_text
from ..data.sources import Source, read_source
from ..data.text import clean_text, text_fault
from .recipes import DatasetSpec


class EvaluatedClips(NamedTuple):
    """Clips to evaluate, full ids that occur more than once with how often, the set's size before any limit, the rows
    that describe no clip or whose text is none, why clips cannot be heard, and what is worth knowing of the others."""

    clips: list[Clip]
    repeated: dict[str, int]
    size: int
    rejected: list[Rejection]
    unheard: list[Rejection]
    notes: list[Note]


def read_evaluated_clips(spec: DatasetSpec, *, max_rejected: float) -> EvaluatedClips:
    """The clips of one data set, those whose audio cannot be had among them.

    Args:
        max_rejected: largest share of the rows that may describe no clip, and of the clips that may have no audio or no
            text that could be scored.

    Raises:
        ValueError: a path that is none of the kinds, or a table that cannot be read (see the readers).
        TooManyRejected: a larger share, or all.
    """
    if not spec.kind and not Path(spec.path).exists():
        raise ValueError(
            f"expected a folder or a manifest, got {spec.path!r}, which does not exist: a Hub data set needs "
            '"kind": "hub"'
        )
    source = Source(
        spec.path,
        kind=spec.kind or None,
        language=spec.language,
        expert=spec.expert,
        columns=Columns(**spec.columns),
        where=spec.where,
        config=spec.config,
        revision=spec.revision,
        hub_splits={spec.split: spec.split},
    )
    split = spec.split if source.kind_found in ("common_voice", "hub") else None
    belonging = {"dataset": spec.name, "domain": spec.domain, "task": spec.task}
    rejected: list[Rejection] = []
    read = read_source(source, split=split, reject=rejected.append)
    clips, repeated = unique_ids([replace(clip, **belonging) for clip in read])
    chosen = choose_clips(clips, spec.limit)
    misspelt: list[Rejection] = []
    unheard: list[Rejection] = []
    found = list(_with_headers(_with_texts(chosen, misspelt), unheard))
    unusable = [*misspelt, *unheard]
    for left, left_out in ((len(clips), rejected), (len(chosen) - len(unusable), unusable)):
        fault = ScreeningReport(kept=left, rejections=left_out).fault(spec.path, max_rejected)
        if fault is not None:
            raise TooManyRejected(fault, ScreeningReport(rejections=[*rejected, *unusable]))
    heard = [clip for clip in found if clip.seconds is not None]
    notes = [note for clip in chosen for note in notes_on_text(clip)]
    return EvaluatedClips(
        found, repeated, len(clips), [*rejected, *misspelt], unheard, [*notes, *notes_on_audio(heard)]
    )


def _with_texts(clips: Sequence[Clip], misspelt: list[Rejection]) -> Iterator[Clip]:
    """With texts as they are trained on; those that say something else than what is spoken are added to `misspelt`."""
    for clip in clips:
        fault = text_fault(clip.text)
        # A clip in which nothing is said is transcribed all the same.
        if fault is None or fault[0] == "empty_text":
            yield replace(clip, text=clean_text(clip.text))
        else:
            misspelt.append(Rejection(clip.id, *fault, clip.table, clip.row))


def _with_headers(clips: Iterable[Clip], unheard: list[Rejection]) -> Iterator[Clip]:
    """With digest and length, as far as the clips can be read; the others are added to `unheard`."""
    for clip in clips:
        try:
            yield replace(clip, digest=audio_digest(clip.audio), seconds=audio_seconds(clip.audio))
        except AudioError as error:
            # Reading it will say what is wrong; until then it has no length.
            unheard.append(Rejection(clip.id, audio_reason(error), str(error), clip.table, clip.row))
            yield replace(clip, digest="unreadable")
