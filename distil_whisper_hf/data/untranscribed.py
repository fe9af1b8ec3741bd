"""Speech without transcripts: the audio files of folders, in stretches that fit a window."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .audio import AudioError, AudioSegment, AudioSource, audio_digest, audio_seconds
from .clips import Clip
from .manifests import AUDIO_SUFFIXES
from .rejections import Rejection
from .screening import Screen, audio_reason


def read_untranscribed(
    folder: str | Path, *, language: str, expert: str | None = None, max_seconds: float = 28.0
) -> tuple[list[Clip], list[Rejection]]:
    """Every recording in a folder and those below it; longer ones in stretches of `max_seconds`.

    A table beside them is not read. Files of one folder count as one speaker's.

    Args:
        folder: with audio files anywhere in it.
        language, expert: of all of them.
        max_seconds: most that a clip may last, in s.

    Returns:
        Clips without text and labels, with length and digest, in the order of their names; and what cannot be read.

    Raises:
        ValueError: no such folder, or one without audio files.
    """
    folder = Path(folder)
    clips, rejected = [], []
    for path in audio_files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            for part, audio, seconds in _stretches(str(path), audio_seconds(str(path)), max_seconds):
                clips.append(
                    Clip(
                        f"{name}{part}",
                        audio,
                        text="",
                        language=language,
                        speaker=path.parent.relative_to(folder).as_posix(),
                        expert=expert,
                        seconds=seconds,
                        digest=audio_digest(audio),
                        labels=(),
                    )
                )
        except AudioError as error:
            rejected.append(Rejection(name, audio_reason(error), str(error)))
    return clips, rejected


def audio_files(folder: str | Path) -> list[Path]:
    """The audio files in a folder and those below it, in the order of their names.

    Raises:
        ValueError: no such folder, or one without any.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        what = "one without any" if Path(folder).is_dir() else "no such folder"
        raise ValueError(
            f"Expected a folder of audio files ({', '.join(AUDIO_SUFFIXES)}), got {what}: {str(folder)!r}."
        )
    return files


def _stretches(path: str, seconds: float, most: float) -> Iterable[tuple[str, AudioSource, float]]:
    """Name, audio and length in s of the parts of a file."""
    least = Screen.min_seconds
    if seconds < least:
        raise AudioError(f"Expected at least {least} s in {Path(path).name}, got {seconds:.3f} s.")
    if seconds <= most:
        return [("", path, seconds)]
    starts = [number * most for number in range(int(seconds / most) + 1) if seconds - number * most >= least]
    lengths = [min(most, seconds - start) for start in starts]
    return [
        (f"@{start:g}", AudioSegment(path, start, length), length)
        for start, length in zip(starts, lengths, strict=True)
    ]
