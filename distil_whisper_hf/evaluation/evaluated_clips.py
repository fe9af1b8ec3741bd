"""The clips of an evaluation's data sets: read, named apart, limited, with digest and length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..data.audio import AudioError, audio_digest, audio_seconds
from ..data.clips import Clip, unique_ids
from ..data.columns import Columns
from ..data.sampling import choose_clips
from ..data.sources import Source, read_source
from .recipes import DatasetSpec


class EvaluatedClips(NamedTuple):
    """Clips to evaluate, full ids that occur more than once with how often, and the set's size before any limit."""

    clips: list[Clip]
    repeated: dict[str, int]
    size: int


def read_evaluated_clips(spec: DatasetSpec) -> EvaluatedClips:
    """The clips of one data set.

    Raises:
        ValueError: a path that is none of the kinds, or a table that cannot be read (see the readers).
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
    clips, repeated = unique_ids([replace(clip, **belonging) for clip in read_source(source, split=split)])
    chosen = choose_clips(clips, spec.limit)
    return EvaluatedClips(list(_with_headers(chosen)), repeated, len(clips))


def _with_headers(clips: Sequence[Clip]) -> Iterator[Clip]:
    """With digest and length, as far as the clips can be read."""
    for clip in clips:
        try:
            yield replace(clip, digest=audio_digest(clip.audio), seconds=audio_seconds(clip.audio))
        except AudioError:
            # Reading it will say what is wrong; until then it has no length.
            yield replace(clip, digest="unreadable")
