"""Dumps of Common Voice as they are unpacked: which folder, which tables, which rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from speech_files import write

from distil_whisper_hf.data.manifests import read_manifest
from distil_whisper_hf.data.rejections import Rejection
from distil_whisper_hf.data.sources import Source, read_parts, read_source

HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\tlocale\tsegment\n"


def dump(folder: Path, *tables: str, locale: str = "ca", votes: str = "2", extension: str = ".mp3") -> Path:
    """Tables of three clips each; the clips of all of them are the same."""
    for number in range(3):
        write(folder / "clips" / f"{number}.mp3", 0.3)
    for table in tables:
        rows = [f"s\t{n}{extension}\t{table} {n}\t{votes}\t0\t\t\t{locale}\t\n" for n in range(3)]
        (folder / f"{table}.tsv").write_text(HEADER + "".join(rows))
    return folder


@pytest.mark.parametrize(
    ("tables", "read"),
    [
        (("train", "dev", "test", "validated", "other"), ("train", "dev", "test")),
        (("test", "other"), ("test",)),
        (("validated", "other", "invalidated"), ("validated",)),
        (("other", "invalidated"), ("other",)),
        (("mine", "invalidated"), ("mine",)),
    ],
)
def test_the_best_tables_are_read(tmp_path, tables: tuple[str, ...], read: tuple[str, ...]) -> None:
    """Prevents clips read twice, and clips that listeners rejected."""
    dump(tmp_path, *tables)
    (tmp_path / "reported.tsv").write_text("sentence\treason\n")
    clips = read_source(Source(str(tmp_path)))
    assert [clip.text for clip in clips] == [f"{table} {number}" for table in read for number in range(3)]
    if len(read) == 1:
        assert read_source(Source(str(tmp_path)), split="test") == clips


def test_the_folder_above_the_locale(tmp_path) -> None:
    """Prevents one of several locales from being taken by its place in a listing."""
    dump(tmp_path / "ca", "train")
    assert len(read_source(Source(str(tmp_path)))) == 3
    dump(tmp_path / "pl", "train", locale="pl")
    assert {clip.language for clip in read_source(Source(str(tmp_path), language="Polish"))} == {"pl"}
    for language in (None, "it"):
        with pytest.raises(ValueError, match=r"Expected one locale .* found ca, pl: name its folder, or its language"):
            read_source(Source(str(tmp_path), language=language))


@pytest.mark.parametrize("through", ["folder", "table"])
def test_paths_without_their_extension_are_found(tmp_path, through: str) -> None:
    """Prevents a whole dump of missing files."""
    table = dump(tmp_path, "validated", extension="") / "validated.tsv"
    clips = read_manifest(table) if through == "table" else read_source(Source(str(tmp_path)))
    assert [clip.id for clip in clips] == ["0", "1", "2"]
    assert [clip.audio for clip in clips] == [str(tmp_path / "clips" / f"{number}.mp3") for number in range(3)]


def test_spontaneous_speech(tmp_path) -> None:
    """Prevents it from being asked for columns of read speech, and its parts from being lost."""
    for number in range(4):
        write(tmp_path / "audios" / f"{number}.mp3", 0.3)
    header = "client_id\taudio_id\taudio_file\tduration_ms\tprompt_id\tprompt\ttranscription\tvotes\tlanguage\tsplit\n"
    splits = ["train", "dev", "test", ""]
    rows = [f"s\t{n}\t{n}.mp3\t300\t1\tCom?\tresposta {n}\t1\tca\t{split}\n" for n, split in enumerate(splits)]
    (tmp_path / "ss-corpus-ca.tsv").write_text(header + "".join(rows))
    (tmp_path / "ss-reported-audios-ca.tsv").write_text("audio_id\taudio_file\treason\n")
    source = Source(str(tmp_path))
    assert [clip.text for clip in read_source(source)] == [f"resposta {number}" for number in range(4)]
    rejected: list[Rejection] = []
    parts = read_parts(source, reject=rejected.append)
    assert {name: [clip.id for clip in clips] for name, clips in parts.items()} == {
        "train": ["0.mp3"], "dev": ["1.mp3"], "test": ["2.mp3"],
    }  # fmt: skip
    assert [(one.row, one.reason) for one in rejected] == [(4, "unknown_split")]


def test_one_bad_row_is_listed_and_the_rest_is_read(tmp_path) -> None:
    """Prevents a run of hours that one row of a hundred thousand ends."""
    table = dump(tmp_path, "train") / "train.tsv"
    bad = ["s\t3.mp3\ta tab\ttoo many\t2\t0\t\t\tca\t\n", "s\t\tblank\t2\t0\t\t\tca\t\n"]
    bad += ["s\t4.mp3\tvotes\t2.0\t0\t\t\tca\t\n", "s\t5.mp3\tno locale\t2\t0\t\t\t\t\n"]
    table.write_text(table.read_text() + "".join(bad))
    rejected: list[Rejection] = []
    assert len(read_source(Source(str(tmp_path)), reject=rejected.append)) == 3
    assert [(one.table, one.row) for one in rejected] == [("train.tsv", number) for number in (4, 5, 6, 7)]
    assert [one.detail.split(",")[0] for one in rejected] == [
        "expected 9 fields", "path names no audio file", "up_votes has '2.0' votes",
        "it has no language: fill it in",
    ]  # fmt: skip
    # As pandas writes a column with gaps, all of them are whole numbers.
    clips = read_source(Source(str(dump(tmp_path / "pandas", "train", votes="2.0"))))
    assert [(clip.up_votes, clip.down_votes) for clip in clips] == [(2, 0)] * 3
