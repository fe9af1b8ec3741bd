"""What a transcription is written as: a pure function for each format, from a `Transcription` to the text of a file."""

from __future__ import annotations

import html
import json
from collections.abc import Callable

from .results import Transcription
from .subtitles import Cue, SubtitleOptions, cues


def to_txt(transcription: Transcription, options: SubtitleOptions | None = None) -> str:
    """A segment a line."""
    return "".join(f"{_line(segment.text)}\n" for segment in transcription.segments)


def to_srt(transcription: Transcription, options: SubtitleOptions | None = None) -> str:
    """SubRip: numbered cues, times as 00:01:02,345, no line empty but those between cues."""
    found = enumerate(cues(transcription, options), start=1)
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_marked(cue, str)}\n" for number, cue in found
    )


def to_vtt(transcription: Transcription, options: SubtitleOptions | None = None) -> str:
    """WebVTT; what HTML would take for a sign of its own is written as WebVTT has it."""
    blocks = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_marked(cue, _escaped)}\n"
        for cue in cues(transcription, options)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def to_tsv(transcription: Transcription, options: SubtitleOptions | None = None) -> str:
    """Start and end in ms and the text of every segment, under a line of names."""
    rows = [
        f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{_line(segment.text)}\n"
        for segment in transcription.segments
    ]
    return "".join(["start\tend\ttext\n", *rows])


def to_json(transcription: Transcription, options: SubtitleOptions | None = None) -> str:
    """Everything that is known (see `results`)."""
    return json.dumps(transcription.as_json(), ensure_ascii=False) + "\n"


# In the order in which they are written.
WRITERS: dict[str, Callable[[Transcription, SubtitleOptions | None], str]] = {
    "txt": to_txt,
    "vtt": to_vtt,
    "srt": to_srt,
    "tsv": to_tsv,
    "json": to_json,
}


def _line(text: str) -> str:
    return " ".join(text.split())


def _clock(milliseconds: int, sign: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{sign}{rest:03}"


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _marked(cue: Cue, write: Callable[[str], str]) -> str:
    if cue.marked is None:
        return write(cue.text)
    first, behind = cue.marked
    return f"{write(cue.text[:first])}<u>{write(cue.text[first:behind])}</u>{write(cue.text[behind:])}"
