"""Cues of subtitles: in order, none over another, none of no length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .results import Transcription, Word

# Of a cue whose words have no length, in ms.
_SHORTEST = 20
# A longer pause begins a new cue where lines are laid out anew, in s.
_PAUSE = 3.0


@dataclass(frozen=True)
class SubtitleOptions:
    """How subtitles are laid out; all of it by the times of words.

    Attributes:
        max_line_width: characters of a line; None: no limit, or 42 where only lines are counted.
        max_line_count: lines of a cue; None: as many as its segment fills.
        max_words_per_line: words of a cue, where there is no width.
        highlight_words: a cue for every word, with that word underlined.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    max_words_per_line: int | None = None
    highlight_words: bool = False

    def __post_init__(self) -> None:
        for name in ("max_line_width", "max_line_count", "max_words_per_line"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Expected {name} of at least 1, got {value}.")
        if self.max_line_count is not None and self.max_line_width is None:
            raise ValueError("Expected max_line_width beside max_line_count: without a width a cue has one line.")
        if self.max_words_per_line is not None and self.max_line_width is not None:
            raise ValueError("Expected max_line_width or max_words_per_line, got both.")

    @property
    def need_words(self) -> bool:
        """Whether they can only be kept where words have times."""
        return self != SubtitleOptions()


@dataclass(frozen=True)
class Cue:
    """A subtitle: from `start` to `end`, in ms. A part of the text may be marked, `(first, behind)` in characters."""

    start: int
    end: int
    text: str
    marked: tuple[int, int] | None = None


def cues(transcription: Transcription, options: SubtitleOptions | None = None) -> list[Cue]:
    """The subtitles of a transcription: a segment each, or laid out by words.

    Raises:
        ValueError: options that need the times of words, which are not there.
    """
    options = options or SubtitleOptions()
    if options.need_words and any(segment.words is None for segment in transcription.segments):
        raise ValueError(
            "Expected the times of words for max_line_width, max_line_count, max_words_per_line and highlight_words: "
            "transcribe with word_timestamps."
        )
    if options.need_words:
        found = [cue for lines in _laid_out(transcription, options) for cue in _cues_of_words(lines, options)]
    else:
        found = [
            Cue(_milliseconds(segment.start), _milliseconds(segment.end), _clean(segment.text))
            for segment in transcription.segments
        ]
    return list(_in_order(cue for cue in found if cue.text))


def _in_order(found: Iterable[Cue]) -> Iterator[Cue]:
    """Each cue from the end of the last one at the earliest, and with a length; one that ends behind the beginning of
    the next is cut there."""
    waiting: Cue | None = None
    for cue in found:
        if waiting is not None:
            end = max(waiting.start + _SHORTEST, min(waiting.end, cue.start))
            yield replace(waiting, end=end)
            cue = replace(cue, start=max(cue.start, end))
        waiting = cue
    if waiting is not None:
        yield replace(waiting, end=max(waiting.end, waiting.start + _SHORTEST))


def _laid_out(transcription: Transcription, options: SubtitleOptions) -> Iterator[list[list[Word]]]:
    """The lines of every cue."""
    width, count = options.max_line_width, options.max_line_count
    # Whoever counts lines wants them full, across segments.
    across = count is not None
    lines: list[list[Word]] = [[]]
    end: float | None = None
    for segment in transcription.segments:
        for place, word in enumerate(segment.words or ()):
            begins = place == 0 and not across
            paused = across and end is not None and word.start - end > _PAUSE
            line = lines[-1]
            letters = sum(len(one.word) for one in line) + len(word.word.rstrip())
            full = bool(line) and width is not None and letters - (line[0].word[:1] == " ") > width
            counted = options.max_words_per_line is not None and len(line) >= options.max_words_per_line
            over = counted or (full and count is not None and len(lines) >= count)
            if (begins or paused or over) and lines != [[]]:
                yield lines
                lines = [[]]
            elif full:
                lines.append([])
            lines[-1].append(word)
            end = word.end
    if lines != [[]]:
        yield lines


def _cues_of_words(lines: list[list[Word]], options: SubtitleOptions) -> Iterator[Cue]:
    words = [word for line in lines for word in line]
    text, places = "", []
    for line in lines:
        text += "\n" if text else ""
        for number, word in enumerate(line):
            written = _one_line(word.word)
            written = written.lstrip() if number == 0 else written
            first = len(text) + len(written) - len(written.lstrip())
            text += written
            places.append((first, len(text.rstrip())))
    start, end = _milliseconds(words[0].start), _milliseconds(words[-1].end)
    if not options.highlight_words:
        yield Cue(start, end, text.rstrip())
        return
    at = start
    for word, place in zip(words, places, strict=True):
        begin, behind = _milliseconds(word.start), _milliseconds(word.end)
        if begin > at:
            yield Cue(at, begin, text)
        if behind > begin:
            yield Cue(begin, behind, text, place)
        at = max(at, behind)


def _milliseconds(seconds: float) -> int:
    return max(0, round(1000 * seconds))


def _one_line(text: str) -> str:
    # An empty line would end a cue, and what the times of a cue are written with would begin one.
    return " ".join(text.replace("-->", "->").split("\n")) if text.strip() else text


def _clean(text: str) -> str:
    return " ".join(text.replace("-->", "->").split())
