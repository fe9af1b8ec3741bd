"""Train, dev and test sets that share no clip, and an account of what they do share.

A split depends on the clips and a seed alone: groups of clips (the same text, the same speaker, or the same audio) are
put in the order of a hash and dealt out whole. Clips with the same encoded audio always fall on one side.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from .clips import Clip
from .text import text_key

SplitBy = Literal["clip", "text", "speaker"]


@dataclass(frozen=True)
class Splits:
    """Three sets of clips without a clip in common; made by `split_clips` or `join_splits`.

    Attributes:
        train: for training.
        dev: for choosing a checkpoint.
        test: for the reported score.
        dropped: ids of clips that were taken out because another set has the same audio.

    Raises:
        ValueError: two sets with the same audio, or clips that are not screened.
    """

    train: list[Clip]
    dev: list[Clip]
    test: list[Clip]
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        home: dict[str, str] = {}
        for name, clips in (("train", self.train), ("dev", self.dev), ("test", self.test)):
            for clip in clips:
                other = home.setdefault(_digest(clip), name)
                if other != name:
                    raise ValueError(f"Clip {clip.id} of {name} is in {other} too: use join_splits, which drops it.")

    def report(self) -> str:
        """A line for each set, then what the held-out sets share with the training set."""
        lines = []
        for name, clips in (("train", self.train), ("dev", self.dev), ("test", self.test)):
            speakers = {clip.speaker for clip in clips if clip.speaker}
            hours = sum(clip.seconds or 0.0 for clip in clips) / 3600
            known = f"{len(speakers)} speakers" if speakers else "speakers unknown"
            lines.append(f"{name}: {len(clips)} clips, {hours:.2f} h, {known}")
        for name, clips in (("dev", self.dev), ("test", self.test)):
            lines.append(f"{name} and train share {self._shared(clips)}")
        if self.dropped:
            lines.append(f"dropped {len(self.dropped)} clips whose audio is in another set too")
        return "\n".join(lines)

    def _shared(self, clips: list[Clip]) -> str:
        texts = {text_key(clip.text) for clip in self.train}
        speakers = {clip.speaker for clip in self.train if clip.speaker}
        of_clips = f"of {len(clips)} clips"
        text = f"no clip, the text of {sum(text_key(clip.text) in texts for clip in clips)} {of_clips}"
        if not speakers or not any(clip.speaker for clip in clips):
            return f"{text}, speakers unknown"
        unknown = sum(not clip.speaker for clip in clips)
        doubt = f" ({unknown} unknown)" if unknown else ""
        return f"{text}, the speaker of {sum(clip.speaker in speakers for clip in clips)} {of_clips}{doubt}"


def split_clips(clips: Sequence[Clip], *, by: SplitBy, dev: float, test: float, seed: int = 0) -> Splits:
    """Deal clips out to train, dev and test.

    Args:
        clips: screened clips.
        by: what the sets must not share beside audio: nothing ("clip"), texts compared without case and punctuation
            ("text"), or speakers ("speaker").
        dev: share of the clips for dev, 0 to 1. A set has at least its share, and more by at most one group.
        test: share of the clips for test.
        seed: another split of the same clips.

    Raises:
        ValueError: an unknown `by`, shares that leave nothing to train on, clips that are not screened, unknown
            speakers, or too few groups to give each set one.
    """
    if by not in get_args(SplitBy):
        raise ValueError(f"by must be one of {', '.join(get_args(SplitBy))}, got {by!r}.")
    if min(dev, test) < 0.0 or dev + test >= 1.0:
        raise ValueError(f"dev and test must be at least 0 and together below 1, got {dev} and {test}.")
    groups = sorted(_groups(clips, by), key=lambda group: _hash(group, seed))
    sets: dict[str, list[Clip]] = {"test": [], "dev": [], "train": []}
    quotas = {"test": test * len(clips), "dev": dev * len(clips), "train": float("inf")}
    order = {id(clip): number for number, clip in enumerate(clips)}
    for group in groups:
        name = next(name for name, quota in quotas.items() if len(sets[name]) < quota)
        sets[name].extend(group)
    empty = [name for name, quota in quotas.items() if quota > 0 and not sets[name]]
    if empty:
        raise ValueError(
            f"{len(clips)} clips fall into {len(groups)} groups by {by}, which leaves {' and '.join(empty)} empty. "
            "Split by something finer (speaker, text, clip), or take smaller shares; clips with the same audio "
            "(copies of one silent file, say) join the groups that they are in."
        )
    sets = {name: sorted(members, key=lambda clip: order[id(clip)]) for name, members in sets.items()}
    return Splits(train=sets["train"], dev=sets["dev"], test=sets["test"])


def join_splits(*, train: Sequence[Clip], dev: Sequence[Clip], test: Sequence[Clip]) -> Splits:
    """Sets that came apart already, such as those of Common Voice, without the clips that two of them share.

    A clip whose audio is in test is dropped from dev and train, one whose audio is in dev from train.

    Raises:
        ValueError: clips that are not screened.
    """
    seen: set[str] = set()
    dropped: list[str] = []
    kept: dict[str, list[Clip]] = {}
    for name, clips in (("test", test), ("dev", dev), ("train", train)):
        digests = [_digest(clip) for clip in clips]
        kept[name] = [clip for clip, digest in zip(clips, digests, strict=True) if digest not in seen]
        dropped += [clip.id for clip, digest in zip(clips, digests, strict=True) if digest in seen]
        seen.update(digests)
    return Splits(kept["train"], kept["dev"], kept["test"], tuple(dropped))


def _groups(clips: Sequence[Clip], by: SplitBy) -> list[list[Clip]]:
    """Clips that must stay together: linked by the same key or by the same audio, also over several steps."""
    parent = list(range(len(clips)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, clip in enumerate(clips):
        for key in (("audio", _digest(clip)), ("key", _key(by)(clip))):
            parent[root(number)] = root(first.setdefault(key, number))
    groups: dict[int, list[Clip]] = defaultdict(list)
    for number, clip in enumerate(clips):
        groups[root(number)].append(clip)
    return list(groups.values())


def _key(by: SplitBy) -> Callable[[Clip], str]:
    return {"clip": _digest, "text": lambda clip: text_key(clip.text), "speaker": _speaker}[by]


def _digest(clip: Clip) -> str:
    if clip.digest is None:
        raise ValueError(f"Clip {clip.id} has no digest: screen the clips before they are split.")
    return clip.digest


def _speaker(clip: Clip) -> str:
    if not clip.speaker:
        raise ValueError(f"The speaker of clip {clip.id} is unknown: split by text, or give every clip a speaker.")
    return clip.speaker


def _hash(group: list[Clip], seed: int) -> str:
    """Order of a group: whatever the order of its clips, and not earlier for a large group than for a small one."""
    return hashlib.sha256(f"{seed}:{min(_digest(clip) for clip in group)}".encode()).hexdigest()
