"""Which clips can be trained on, and a report of those that cannot: what, why and how many.

Everything is decided from text and file headers, about a millisecond a clip, before training starts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from .audio import AudioError, audio_digest, audio_seconds, read_audio
from .clips import Clip
from .labels import LabelBuilder
from .text import clean_text

Reason = Literal["empty_text", "too_many_tokens", "unreadable", "empty_audio", "too_long"]
REASONS: tuple[Reason, ...] = get_args(Reason)

# Any rate serves to find out whether a clip decodes.
_CHECK_RATE = 16000


@dataclass(frozen=True)
class Rejection:
    """A clip that is left out.

    Attributes:
        id: of the clip.
        reason: one of `REASONS`.
        detail: the number or the error behind it.
    """

    id: str
    reason: Reason
    detail: str


@dataclass
class ScreeningReport:
    """What came through and what did not.

    Attributes:
        kept: number of clips.
        seconds: their length together, in s.
        rejections: one for each clip left out, in the order of the source.
    """

    kept: int = 0
    seconds: float = 0.0
    rejections: list[Rejection] = field(default_factory=list)

    def counts(self) -> dict[Reason, int]:
        """Number of clips left out for each reason that occurred."""
        found = Counter(rejection.reason for rejection in self.rejections)
        return {reason: found[reason] for reason in REASONS if found[reason]}

    def summary(self) -> str:
        """One line, such as "812 clips (1.31 h); left out 5: 3 unreadable, 2 too_long"."""
        parts = ", ".join(f"{number} {reason}" for reason, number in self.counts().items())
        left_out = f"; left out {len(self.rejections)}: {parts}" if self.rejections else "; left out none"
        return f"{self.kept} clips ({self.seconds / 3600:.2f} h){left_out}"

    def save(self, path: str | Path) -> None:
        """Write one JSON object (id, reason, detail) for each clip left out."""
        lines = [json.dumps(asdict(rejection), ensure_ascii=False) + "\n" for rejection in self.rejections]
        Path(path).write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True)
class Screen:
    """Decide about one clip.

    Attributes:
        labels: makes a transcript token ids: once, for counting and for training.
        max_seconds: longest clip, in s; Whisper's window is 30.
        min_seconds: shortest clip, in s; below it there is no word.
        max_tokens: most labels, prompt and end included; Whisper's decoder has 448 positions.
        decode: decode every clip instead of trusting its header. Some milliseconds a clip, for evaluation sets and for
            files whose download may have broken off.
    """

    labels: LabelBuilder
    max_seconds: float = 30.0
    min_seconds: float = 0.1
    max_tokens: int = 448
    decode: bool = False

    def __call__(self, clip: Clip) -> Clip | Rejection:
        """The clip with cleaned text, its labels, length and digest, or why it is left out.

        Raises:
            ValueError: a language that the tokenizer has no token for.
        """
        text = clean_text(clip.text)
        if not text:
            return Rejection(clip.id, "empty_text", repr(clip.text))
        labels = self.labels(text, language=clip.language)
        if len(labels) > self.max_tokens:
            return Rejection(clip.id, "too_many_tokens", f"{len(labels)} tokens, {self.max_tokens} fit")
        try:
            seconds = audio_seconds(clip.audio)
            if self.decode:
                seconds = len(read_audio(clip.audio, sampling_rate=_CHECK_RATE)) / _CHECK_RATE
            digest = audio_digest(clip.audio)
        except AudioError as error:
            return Rejection(clip.id, "unreadable", str(error))
        if seconds < self.min_seconds:
            return Rejection(clip.id, "empty_audio", f"{seconds:.3f} s")
        if seconds > self.max_seconds:
            return Rejection(clip.id, "too_long", f"{seconds:.2f} s, {self.max_seconds:g} s fit")
        return replace(clip, text=text, seconds=seconds, digest=digest, labels=tuple(labels))


def screen_clips(
    clips: Iterable[Clip], screen: Screen, *, limit: int | None = None
) -> tuple[list[Clip], ScreeningReport]:
    """All clips that can be trained on, in order, and a report of the others.

    Args:
        clips: from any source.
        screen: the decision.
        limit: stop after this many usable clips; with clips ranked by votes, a subset of exactly this size.
    """
    kept: list[Clip] = []
    report = ScreeningReport()
    for clip in clips:
        if limit is not None and len(kept) >= limit:
            break
        outcome = screen(clip)
        if isinstance(outcome, Rejection):
            report.rejections.append(outcome)
        else:
            kept.append(outcome)
            report.kept += 1
            report.seconds += outcome.seconds or 0.0
    return kept, report
