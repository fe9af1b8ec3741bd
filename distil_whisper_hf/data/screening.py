"""Which clips can be trained on, and a report of those that cannot: what, why and how many.

Everything is decided from text and file headers, about a millisecond a clip, before training starts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from .atomic_files import write_json_lines
from .audio import AudioError, SegmentError, audio_digest, audio_seconds, read_audio
from .clips import Clip
from .labels import LabelBuilder
from .rejections import REASONS, Note, Reason, Rejection
from .text import clean_text, text_fault, text_key, text_notes

REJECTIONS_FILE = "rejections.jsonl"
NOTES_FILE = "notes.jsonl"
# Any rate serves to find out whether a clip decodes.
_CHECK_RATE = 16000


@dataclass
class ScreeningReport:
    """What came through and what did not.

    Attributes:
        clips: those that came through, in the order of the source.
        kept: number of clips.
        seconds: their length together, in s.
        rejections: one for each row and clip left out, in the order of the source: first what describes no clip.
        notes: what is worth knowing of clips that came through.
    """

    kept: int = 0
    seconds: float = 0.0
    rejections: list[Rejection] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list, repr=False)
    notes: list[Note] = field(default_factory=list)

    def counts(self) -> dict[Reason, int]:
        """Number of clips left out for each reason that occurred."""
        found = Counter(rejection.reason for rejection in self.rejections)
        return {reason: found[reason] for reason in REASONS if found[reason]}

    def summary(self) -> str:
        """One line, such as "812 clips (1.31 h); left out 5: 3 unreadable, 2 too_long"."""
        left_out = f"; left out {len(self.rejections)}: {self._parts()}" if self.rejections else "; left out none"
        return f"{self.kept} clips ({self.seconds / 3600:.2f} h){left_out}"

    def _parts(self) -> str:
        return ", ".join(f"{number} {reason}" for reason, number in self.counts().items())

    def __iadd__(self, other: ScreeningReport) -> ScreeningReport:
        self.clips += other.clips
        self.kept += other.kept
        self.seconds += other.seconds
        self.rejections += other.rejections
        self.notes += other.notes
        return self

    def fault(self, source: str, max_rejected: float) -> str | None:
        """Why a source is not to be used: nothing of it is left, or a larger share than this is left out.

        Its first sentence says how many rows for which reason, with an example of the most frequent one.
        """
        rows = self.kept + len(self.rejections)
        if not self.rejections or (self.kept and len(self.rejections) <= max_rejected * rows):
            return None
        counts = self.counts()
        first = next(one for one in self.rejections if one.reason == max(counts, key=lambda reason: counts[reason]))
        allow = f", or allow a larger share than {max_rejected:g} with --max_rejected" if self.kept else ""
        return (
            f"Of {rows} rows of {source} {len(self.rejections)} were left out: {self._parts()} ({first.place}: "
            f"{first.detail.rstrip('.')}). {REJECTIONS_FILE} lists them: mend them{allow}."
        )

    def save(self, path: Path) -> None:
        """Write one JSON object (id, reason, detail, table, row) for each clip left out, whole or not at all; beside
        it, in `NOTES_FILE`, one for each note."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_lines(path, map(asdict, self.rejections))
        write_json_lines(path.with_name(NOTES_FILE), map(asdict, self.notes))


class TooManyRejected(ValueError):
    """A source of which too little is left; `report` has all that was left out so far."""

    def __init__(self, message: str, report: ScreeningReport) -> None:
        super().__init__(message)
        self.report = report


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
        """The clip with cleaned text, its labels, length and digest, or why it is left out."""
        try:
            self.labels.prompt(clip.language)
        except ValueError as error:
            return Rejection(clip.id, "unknown_language", str(error))
        fault = text_fault(clip.text)
        if fault is not None:
            return Rejection(clip.id, *fault)
        text = clean_text(clip.text)
        labels = self.labels(text, language=clip.language)
        if len(labels) > self.max_tokens:
            return Rejection(clip.id, "too_many_tokens", f"{len(labels)} tokens, {self.max_tokens} fit")
        try:
            seconds = audio_seconds(clip.audio)
            if self.decode:
                seconds = len(read_audio(clip.audio, sampling_rate=_CHECK_RATE)) / _CHECK_RATE
            digest = audio_digest(clip.audio)
        except AudioError as error:
            return Rejection(clip.id, audio_reason(error), str(error))
        if seconds < self.min_seconds:
            return Rejection(clip.id, "empty_audio", f"{seconds:.3f} s")
        if seconds > self.max_seconds:
            return Rejection(clip.id, "too_long", f"{seconds:.2f} s, {self.max_seconds:g} s fit")
        return replace(clip, text=text, seconds=seconds, digest=digest, labels=tuple(labels))


def audio_reason(error: AudioError) -> Reason:
    """The reason to leave out a clip whose audio cannot be had."""
    if error.missing:
        return "missing"
    return "bad_segment" if isinstance(error, SegmentError) else "unreadable"


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
    report = ScreeningReport(clips=kept)
    for clip in clips:
        if limit is not None and len(kept) >= limit:
            break
        outcome = screen(clip)
        if isinstance(outcome, Rejection):
            report.rejections.append(replace(outcome, table=clip.table, row=clip.row))
        else:
            kept.append(outcome)
            report.kept += 1
            report.notes += notes_on_text(clip)
            report.seconds += outcome.seconds or 0.0
    return kept, report


def notes_on_text(clip: Clip) -> list[Note]:
    """What cleaning mends in the text of a clip that was not screened yet."""
    return [Note(clip.id, kind, repr(clip.text), clip.table, clip.row) for kind in text_notes(clip.text)]


def notes_on_audio(clips: Iterable[Clip]) -> list[Note]:
    """One for each screened clip with the audio of another one before it, and other words: one of the two is wrong."""
    said: dict[str, dict[str, Note]] = defaultdict(dict)
    found = []
    for clip in clips:
        note = Note(clip.id, "same_audio_other_text", repr(clip.text), clip.table, clip.row)
        words, others = text_key(clip.text), said[clip.digest or clip.id]
        if words and others.setdefault(words, note) is note and len(others) > 1:
            first = next(iter(others.values()))
            found.append(replace(note, detail=f"{clip.text!r}, in {first.place} {first.detail}"))
    return found
