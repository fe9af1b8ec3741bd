"""One schema for speech with transcripts, whatever source it comes from, and the paper's choice of subsets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from .audio import AudioSource

_GENDERS = {"f": "female", "female_feminine": "female", "m": "male", "male_masculine": "male"}


@dataclass(frozen=True)
class Clip:
    """An utterance.

    Attributes:
        id: name of the clip in reports, the same on every machine.
        audio: path, encoded bytes, or a row of a table.
        text: transcript.
        language: Whisper's code, such as "ca"; for a language without one, the code of the language it is prompted as.
        speaker: identity of the speaker; empty if unknown.
        gender: "male", "female" or the source's own word; empty if unknown.
        age: as in the source, such as "twenties"; empty if unknown.
        expert: name of the expert to train, where the language token does not say it.
        up_votes: listeners who confirmed the transcript (Common Voice).
        down_votes: listeners who rejected it.
        seconds: length, filled in by screening.
        digest: of the encoded audio, filled in by screening.
    """

    id: str
    audio: AudioSource
    text: str
    language: str
    speaker: str = ""
    gender: str = ""
    age: str = ""
    expert: str | None = None
    up_votes: int | None = None
    down_votes: int | None = None
    seconds: float | None = None
    digest: str | None = None


def select_subset(clips: Sequence[Clip], size: int) -> list[Clip]:
    """The `size` clips with the most up-votes and, among equals, the fewest down-votes ("Multilingual DistilWhisper").

    What is equal in both is ordered by a hash of the id, which favours no speaker and no date, and does not depend on
    the order of the file. A larger subset therefore contains every smaller one.

    Raises:
        ValueError: clips without votes, or fewer clips than asked for.
    """
    if size > len(clips):
        raise ValueError(f"Expected at least {size} clips to choose from, got {len(clips)}: ask for a smaller subset.")
    return rank_by_votes(clips)[:size]


def rank_by_votes(clips: Sequence[Clip]) -> list[Clip]:
    """All clips in the order in which `select_subset` takes them.

    Raises:
        ValueError: clips without votes.
    """
    return sorted(clips, key=_rank)


def gender_name(gender: str) -> str:
    """Lower case, with the older and newer words of Common Voice made one."""
    lowered = gender.strip().lower()
    return _GENDERS.get(lowered, lowered)


def _rank(clip: Clip) -> tuple[int, int, str]:
    if clip.up_votes is None or clip.down_votes is None:
        raise ValueError(f"Clip {clip.id} has no votes. Expected up_votes and down_votes, as in a Common Voice dump.")
    return -clip.up_votes, clip.down_votes, hashlib.sha256(clip.id.encode()).hexdigest()
