"""Short clips joined to fill Whisper's window.

Whisper computes 30 s whatever the clip lasts, so a data set of clips of 4 s spends most of a step on silence. With
joined clips the same step hears several times as many words. Lengths of joined clips are drawn evenly up to the limit,
so that single short clips stay among them and the model does not forget how those end.

Long audio is transcribed window by window with timestamps and, if wanted, with the text of the window before. A model
that is trained on neither forgets them, so a share of the windows may have the times at which their clips begin and
end, and a share the text of another window of the speaker before them.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from .audio import AudioSegment, JoinedAudio, StoredAudio
from .clips import Clip
from .labels import LabelBuilder

if TYPE_CHECKING:

    class _Screened(Clip):
        """A clip that screening has measured."""

        seconds: float
        digest: str
        labels: tuple[int, ...]


# What silence lies between two clips, in s: enough to end a sentence, too little for Whisper to stop.
GAP_SECONDS = 0.4
# Whisper's decoder has 448 positions, and the start token takes one.
MAX_TOKENS = 447
# Of earlier text, without `<|startofprev|>`: as many as Whisper's own long transcription gives.
MAX_PREVIOUS_TOKENS = 223


@dataclass(frozen=True)
class WindowStyle:
    """How joined clips are written as labels.

    Attributes:
        timestamps: probability that a window has times.
        previous: probability that a window has the text of the speaker's window before it as a prompt.

    Raises:
        ValueError: a probability that is not from 0 to 1.
    """

    timestamps: float = 0.0
    previous: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("timestamps", self.timestamps), ("previous text", self.previous)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"Expected a probability of {name} from 0 to 1, got {value:g}.")


# Without times and without earlier text.
PLAIN = WindowStyle()


def join_clips(
    clips: Sequence[Clip],
    *,
    labels: LabelBuilder,
    max_seconds: float = 28.0,
    copies: int = 1,
    seed: int = 0,
    style: WindowStyle = PLAIN,
) -> list[Clip]:
    """Clips of the same language, expert and speaker joined; every clip is used `copies` times, none is cut.

    Args:
        clips: screened clips, whose `seconds` and `labels` are known.
        labels: makes the labels of joined texts.
        max_seconds: most that a joined clip may last, in s, up to Whisper's 30.
        copies: how often the whole set is joined anew, each time in another order.
        seed: the same clips and seed give the same joined clips on every machine.
        style: which windows have times and earlier text; it does not change which clips are joined.

    Returns:
        Joined clips, shuffled; a clip that is longer than `max_seconds` stays alone. Their digests are made of those of
        their parts.

    Raises:
        ValueError: clips that are not screened, or sizes out of range.
    """
    if not 0.0 < max_seconds <= 30.0 or copies < 1:
        raise ValueError(f"Expected max_seconds in (0, 30] and copies of at least 1, got {max_seconds} and {copies}.")
    groups: dict[tuple[str, str | None, str], list[_Screened]] = defaultdict(list)
    for clip in clips:
        if clip.seconds is None or clip.digest is None or clip.labels is None:
            raise ValueError(f"Clip {clip.id} has no length: screen the clips before they are joined.")
        groups[clip.language, clip.expert, clip.speaker].append(cast("_Screened", clip))
    joined: list[Clip] = []
    # Two, so that the style does not change what is joined.
    generator, style_generator = random.Random(seed), random.Random(f"style {seed}")
    for _ in range(copies):
        for group in groups.values():
            windows = _windows(group, max_seconds, generator)
            joined += _written(windows, labels, style, style_generator)
    generator.shuffle(joined)
    return joined


def _windows(clips: list[_Screened], max_seconds: float, generator: random.Random) -> Iterator[list[_Screened]]:
    """What is heard in one window, window by window."""
    parts: list[_Screened] = []
    seconds, tokens, limit = 0.0, 0, generator.uniform(0.0, max_seconds)
    for clip in generator.sample(clips, len(clips)):
        # Counted with its prompt and end, which joined clips share: a little too many.
        own_tokens = len(clip.labels)
        longer = seconds + GAP_SECONDS + clip.seconds
        if parts and (longer > limit or tokens + own_tokens > MAX_TOKENS):
            yield parts
            parts, seconds, tokens, limit = [], 0.0, 0, generator.uniform(0.0, max_seconds)
            longer = clip.seconds
        parts.append(clip)
        seconds, tokens = longer if len(parts) > 1 else clip.seconds, tokens + own_tokens
    yield parts


def _written(
    windows: Iterable[list[_Screened]], labels: LabelBuilder, style: WindowStyle, generator: random.Random
) -> Iterator[Clip]:
    """Windows of one speaker, in order, with their labels and what was said before."""
    before = ""
    for parts in windows:
        clip, language = _joined(parts, labels), parts[0].language
        if generator.random() < style.timestamps:
            clip = replace(clip, labels=tuple(labels.timed(_segments(parts), language=language)))
        if before and generator.random() < style.previous:
            most = min(MAX_PREVIOUS_TOKENS, MAX_TOKENS - len(clip.labels or ()))
            if most > 0:
                clip = replace(clip, previous=tuple(labels.previous(before, language=language, most=most)))
        before = clip.text
        yield clip


def _segments(parts: list[_Screened]) -> list[tuple[str, float, float]]:
    """Texts of clips with the times, in s, at which they begin and end in their window."""
    segments, begin = [], 0.0
    for part in parts:
        segments.append((part.text, begin, begin + part.seconds))
        begin += part.seconds + GAP_SECONDS
    return segments


def _joined(parts: list[_Screened], labels: LabelBuilder) -> Clip:
    if len(parts) == 1:
        return parts[0]
    # Those of a corpus: not joined yet, and not in memory.
    sources = [cast(str | bytes | StoredAudio | AudioSegment, part.audio) for part in parts]
    text = " ".join(part.text for part in parts)
    return replace(
        parts[0],
        id="+".join(part.id for part in parts),
        audio=JoinedAudio(tuple(sources), GAP_SECONDS),
        text=text,
        labels=tuple(labels(text, language=parts[0].language)),
        seconds=sum(part.seconds for part in parts) + GAP_SECONDS * (len(parts) - 1),
        digest=hashlib.blake2b(" ".join(part.digest for part in parts).encode(), digest_size=16).hexdigest(),
        row=None,
        up_votes=None,
        down_votes=None,
    )
