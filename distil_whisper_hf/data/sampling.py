"""Fewer clips than there are: to be scored, whatever the program, and to be trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from .clips import Clip


def choose_clips(clips: Sequence[Clip], limit: int | None) -> list[Clip]:
    """At most `limit` clips, in their own order: as many speakers as possible, and of each about as many clips.

    Chosen by a hash of the id, so the order of the table does not matter, a larger choice contains a smaller one, and
    every program takes the same. None takes all.
    """
    if limit is None or len(clips) <= limit:
        return list(clips)
    hashed = sorted(range(len(clips)), key=lambda index: _hash(clips[index].id))
    turn: dict[str, int] = {}
    ranks = []
    for index in hashed:
        speaker = clips[index].speaker
        turn[speaker] = turn.get(speaker, 0) + 1
        ranks.append((turn[speaker], _hash(clips[index].id), index))
    return [clips[index] for index in sorted(index for _, _, index in sorted(ranks)[:limit])]


def training_subset(clips: Sequence[Clip], size: int) -> list[Clip]:
    """At most `size` clips to train on: the paper's choice where listeners have voted (`select_subset`), otherwise by a
    hash of the audio. A larger subset has every smaller one."""
    if size >= len(clips):
        return list(clips)
    if all(clip.up_votes is not None for clip in clips):
        return select_subset(clips, size)
    return sorted(clips, key=lambda clip: clip.digest or "")[:size]


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


def _rank(clip: Clip) -> tuple[int, int, str]:
    if clip.up_votes is None or clip.down_votes is None:
        raise ValueError(f"Clip {clip.id} has no votes. Expected up_votes and down_votes, as in a Common Voice dump.")
    return -clip.up_votes, clip.down_votes, hashlib.sha256(clip.id.encode()).hexdigest()


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
