"""Recordings to transcribe, found by files, folders and patterns, and what is written of them."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..audio_files import file_state
from ..data.atomic_files import append_lines, replacing
from ..places import missing_path

# Of files in folders; a file that is named is tried whatever it is called.
_FORMATS = (
    "aac aif aiff amr au avi caf flac flv m4a m4v mka mkv mov mp2 mp3 mp4 mpeg mpg oga ogg ogv opus ts wav webm wma wmv"
)
SUFFIXES = frozenset({".3gp", *(f".{name}" for name in _FORMATS.split())})
# Which outputs are of which recording and settings: what a second run need not do again.
RECORD = ".transcribed.jsonl"


@dataclass(frozen=True)
class Source:
    """A recording, and what its files in the output folder are called, without their endings."""

    path: Path
    stem: str


def find_sources(names: Sequence[str]) -> list[Source]:
    """The recordings that names on the command line stand for, each once.

    A folder stands for all recordings in it and below; what is written of them keeps the folders below it. Recordings
    that would be written under one name keep their endings in it.

    Raises:
        ValueError: nothing there, a folder or pattern without recordings, or two recordings under one name.
    """
    found: dict[Path, str] = {}
    for name in names:
        for path, stem in _matches(name):
            found.setdefault(path, stem)
    shared = Counter(found.values())
    sources = [Source(path, stem if shared[stem] == 1 else f"{stem}{path.suffix}") for path, stem in found.items()]
    taken: dict[str, Path] = {}
    for source in sources:
        other = taken.setdefault(source.stem, source.path)
        if other is not source.path:
            raise ValueError(
                f"Expected recordings of different names, got {str(other)!r} and {str(source.path)!r}, which would be "
                "written into the same files: give their folder, or run them into two --output_dir."
            )
    return sources


def _matches(name: str) -> Iterable[tuple[Path, str]]:
    path = Path(name)
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        if not files:
            raise ValueError(f"Expected recordings in the folder {name!r}, found none ({', '.join(sorted(SUFFIXES))}).")
        return [(one, one.relative_to(path).with_suffix("").as_posix()) for one in files]
    if path.exists():
        return [(path, path.stem)]
    if glob.has_magic(name):
        files = sorted(Path(one) for one in glob.glob(name, recursive=True) if Path(one).is_file())
        if not files:
            raise ValueError(f"Expected recordings for the pattern {name!r}, found none.")
        return [(one, one.stem) for one in files]
    raise ValueError(missing_path(path, "a recording"))


class Outputs:
    """The output folder: what is done already, and what is written.

    Args:
        folder: there already.
        endings: of the formats that are wanted.
        settings: digest of all that decides what is written.
    """

    def __init__(self, folder: Path, endings: Sequence[str], settings: str) -> None:
        self.folder = folder
        self.endings = endings
        self._settings = settings
        self._records: dict[str, dict[str, object]] = {}
        path = folder / RECORD
        # A line that was cut off by a kill is no record.
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                record = json.loads(line)
                self._records[record["output"]] = record
            except (ValueError, KeyError, TypeError):
                continue

    def files(self, source: Source) -> list[Path]:
        """What is written of a recording."""
        return [self.folder / f"{source.stem}.{ending}" for ending in self.endings]

    def is_done(self, source: Source) -> bool:
        """Whether all of it is there, of this recording as it is and with these settings."""
        return self._records.get(source.stem) == self._record(source) and all(
            path.is_file() for path in self.files(source)
        )

    def check_free(self, source: Source) -> None:
        """Refuse to write over what is of another recording or of other settings.

        Raises:
            FileExistsError: something is there, and not from a run with the same input.
        """
        there = [path for path in self.files(source) if path.exists()]
        if there and self._records.get(source.stem) != self._record(source):
            raise FileExistsError(
                f"{str(there[0])!r} is there, of another recording, with other settings, or not from here: --overwrite "
                "replaces it, another --output_dir keeps it."
            )

    def write(self, source: Source, contents: Sequence[str]) -> None:
        """Write the formats, in their order; each file is whole or not there."""
        for path, content in zip(self.files(source), contents, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as beside:
                beside.write_text(content, encoding="utf-8", newline="\n")
        record = self._record(source)
        append_lines(self.folder / RECORD, [json.dumps(record, ensure_ascii=False)])
        self._records[source.stem] = record

    def _record(self, source: Source) -> dict[str, object]:
        size, changed = file_state(str(source.path))
        return {
            "output": source.stem,
            "recording": source.path.name,
            "bytes": size,
            "changed_ns": changed,
            "settings": self._settings,
        }
