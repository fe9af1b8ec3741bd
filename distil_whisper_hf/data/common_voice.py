"""Dumps of Common Voice as clips: which folder, which of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..languages import language_tag
from .clips import Clip
from .columns import Columns
from .manifests import CLIP_FOLDERS, metadata_files, read_manifest
from .rejections import Reject, refuse
from .tables import read_table

SPLITS = ("train", "dev", "test")
# Without those, the best table that there is; what listeners rejected is never taken by itself.
_WHOLE = ("validated", "other")
_REJECTED = "invalidated"


def read_common_voice(
    folder: str | Path,
    *,
    split: str,
    language: str | None = None,
    expert: str | None = None,
    columns: Columns | None = None,
    where: Mapping[str, str] | None = None,
    reject: Reject = refuse,
) -> list[Clip]:
    """Read one table of a Common Voice dump.

    Args:
        folder: the folder of one locale, with `train.tsv`, `dev.tsv`, `test.tsv` and `clips`, or of spontaneous speech,
            with `audios`.
        split: name of the table without `.tsv`, such as "train".
        language: None reads the locale; name another language for one that Whisper has no token for.
        expert: name of the expert to train, where the language token does not say it.
        columns, where, reject: as for `read_manifest`.

    Raises:
        ValueError: no such table, or one that cannot be read.
    """
    table = Path(folder) / f"{split}.tsv"
    if not table.is_file():
        present = sorted(path.stem for path in Path(folder).glob("*.tsv"))
        raise ValueError(f"{folder} has no {split}.tsv; it has {', '.join(present) or 'no table at all'}.")
    clips = read_manifest(table, language=language, expert=expert, columns=columns, where=where, reject=reject)
    return [replace(clip, split=split) for clip in clips] if split in SPLITS else clips


def is_dump(folder: Path) -> bool:
    """Whether a folder is that of a locale: it has tables of Common Voice's names, or others beside its clips."""
    if any((folder / f"{name}.tsv").is_file() for name in SPLITS):
        return True
    has_clips = any((folder / name).is_dir() for name in CLIP_FOLDERS)
    return has_clips and any(folder.glob("*.tsv")) and not metadata_files(folder)


def locales(folder: Path) -> list[Path]:
    """The folders of locales in a folder."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_dump(path))


def locale_folder(folder: Path, language: str | None) -> Path:
    """The folder of a locale: the folder itself, the one in it, or of several that of the language.

    Raises:
        ValueError: several, and none or more than one of the language.
    """
    if is_dump(folder):
        return folder
    found = locales(folder)
    if len(found) > 1:
        meant = None if language is None else language_tag(language)
        of_language = [path for path in found if language_tag(path.name) == meant]
        if len(of_language) != 1:
            raise ValueError(
                f"Expected one locale of Common Voice in {folder}, found {', '.join(path.name for path in found)}: "
                "name its folder, or its language with --language."
            )
        found = of_language
    return found[0]


def clip_tables(folder: Path) -> list[str]:
    """Names of the tables to read: train, dev and test as far as they are there, else validated, else other, else the
    one that describes clips.

    Raises:
        ValueError: none, or several that it could be.
    """
    present = [path.stem for path in sorted(folder.glob("*.tsv"))]
    for names in (SPLITS, *((name,) for name in _WHOLE)):
        if not set(names).isdisjoint(present):
            return [name for name in names if name in present]
    tables = [name for name in present if name != _REJECTED and _describes_clips(folder / f"{name}.tsv")]
    if len(tables) != 1:
        raise ValueError(
            f"Expected train.tsv, dev.tsv, test.tsv, validated.tsv or other.tsv in {folder}, found "
            f"{', '.join(f'{name}.tsv' for name in present) or 'no table'}: call one so, or name a table itself."
        )
    return tables


def _describes_clips(table: Path) -> bool:
    try:
        Columns().find(read_table(table).header, where=table.name)
    except ValueError:
        return False
    return True
