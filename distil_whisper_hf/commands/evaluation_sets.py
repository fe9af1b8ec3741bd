"""Data sets as utterances: what joins the readers of `training` with `evaluation`, which know nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.audio import AudioError, AudioSource, audio_digest, audio_seconds, read_audio
from ..data.clips import Clip
from ..data.columns import Columns
from ..data.hub_datasets import load_hub_dataset, read_dataset
from ..data.manifests import read_common_voice, read_folder, read_manifest
from ..evaluation.recipes import DatasetSpec, choose
from ..evaluation.utterances import SAMPLING_RATE, AudioUnreadable, Samples, Utterance, unique_ids


@dataclass(frozen=True)
class ClipAudio:
    """Reads the samples of one clip when called."""

    source: AudioSource

    def __call__(self) -> Samples:
        """Mono samples `(samples,)` at 16 kHz; raises `AudioUnreadable`."""
        if isinstance(self.source, str) and not Path(self.source).is_file():
            raise AudioUnreadable(f"no file {Path(self.source).name}", outcome="missing")
        try:
            return read_audio(self.source, sampling_rate=SAMPLING_RATE)
        except AudioError as error:
            raise AudioUnreadable(str(error)) from error


def read_set(spec: DatasetSpec) -> list[Clip]:
    """The clips of a data set, in its order.

    Raises:
        ValueError: a path that is none of the kinds, or a table that cannot be read (see the readers).
    """
    path = Path(spec.path)
    kind = spec.kind or _kind(path)
    columns = Columns(**spec.columns) if spec.columns else None
    options = {"language": spec.language, "expert": spec.expert, "where": spec.where}
    if kind == "folder":
        return read_folder(path, columns=columns, **options)
    if kind == "manifest":
        return read_manifest(path, columns=columns, **options)
    if kind == "common_voice":
        return read_common_voice(path, split=spec.split, **options)
    dataset = load_hub_dataset(spec.path, config=spec.config, split=spec.split, revision=spec.revision)
    return read_dataset(dataset, name=spec.name, columns=columns, **options)


def _kind(path: Path) -> str:
    if path.is_file():
        return "manifest"
    if path.is_dir():
        return "common_voice" if (path / "clips").is_dir() and any(path.glob("*.tsv")) else "folder"
    raise ValueError(
        f'expected a folder or a manifest, got {str(path)!r}, which does not exist: a Hub data set needs "kind": "hub"'
    )


def read_utterances(spec: DatasetSpec) -> tuple[list[Utterance], dict[str, int], int]:
    """The utterances that are evaluated, full ids that occur more than once with how often, and the data set's size."""
    clips = [_utterance(clip, spec) for clip in read_set(spec)]
    utterances, repeated = unique_ids(clips)
    chosen = choose(utterances, spec.limit)
    return list(_with_headers(chosen)), repeated, len(utterances)


def _utterance(clip: Clip, spec: DatasetSpec) -> Utterance:
    return Utterance(
        id=clip.id,
        dataset=spec.name,
        language=clip.language,
        reference=clip.text,
        audio=ClipAudio(clip.audio),
        speaker=clip.speaker or None,
        labels={"gender": clip.gender or None, "age": clip.age or None, "domain": spec.domain, "dataset": spec.name},
        task=spec.task,
        expert=clip.expert,
    )


def _with_headers(utterances: list[Utterance]) -> Iterator[Utterance]:
    """With digest and length, as far as the clips can be read."""
    for utterance in utterances:
        changes: dict[str, str | float] = {}
        source = utterance.audio.source
        try:
            changes = {"digest": audio_digest(source), "seconds": audio_seconds(source)}
        except AudioError:
            # Reading it will say what is wrong; until then it has no length.
            changes = {"digest": "unreadable"}
        yield replace(utterance, **changes)
