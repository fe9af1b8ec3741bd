"""The forms in which people bring a table, and what a row means in all of them."""

from __future__ import annotations

import codecs
import csv
import json
from pathlib import Path

import pandas
import pytest

from distil_whisper_hf.data.columns import plain_value
from distil_whisper_hf.data.manifests import read_folder, read_manifest
from distil_whisper_hf.data.rejections import Rejection
from distil_whisper_hf.data.tables import read_table

TEXTS = ['Va dir "prou", i prou; tot.', "Bon | dia", '"Hola"', "dues\nlínies, i\nuna més", "tab\tdins", "últim"]


def frame(texts: list[str] = TEXTS) -> pandas.DataFrame:
    return pandas.DataFrame({"file_name": [f"{number}.wav" for number in range(len(texts))], "text": texts})


def texts(path: Path) -> list[str]:
    return [row["text"] for row in read_table(path).rows]


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_pandas_writes_is_read_back(tmp_path, delimiter: str, quoting: int, end: str) -> None:
    """Prevents doubled quotes in texts, and texts cut at a sign that is a delimiter elsewhere."""
    path = tmp_path / "speech.TSV"
    options = {"sep": delimiter, "quoting": quoting, "lineterminator": end}
    frame().to_csv(path, index=False, **options)
    assert texts(path) == TEXTS
    # With the index as a column without a name.
    frame().to_csv(path, **options)
    assert texts(path) == TEXTS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be with mark"])
@pytest.mark.parametrize("suffix", [".csv", ".JSONL", ".json"])
def test_encodings_with_a_mark_are_read(tmp_path, encoding: str, suffix: str) -> None:
    """Prevents a first column that goes by another name, and texts of zero bytes."""
    path = tmp_path / f"speech{suffix}"
    rows = frame()
    orient = {"orient": "records", "force_ascii": False}
    text = rows.to_csv(index=False) if suffix == ".csv" else rows.to_json(lines=suffix == ".JSONL", **orient)
    mark = codecs.BOM_UTF16_BE if encoding.endswith("mark") else b""
    path.write_bytes(mark + text.encode(encoding.removesuffix(" with mark")))
    assert texts(path) == TEXTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name,text\na.wav,ok\nb.wav,Déjà\n".encode("cp1252"), r"in speech\.csv, .* line 3 \(byte 0xe9; cp1252"),
        ("file_name,text\na.wav,zażółć\n".encode("iso-8859-2"), r"in speech\.csv, .* line 2 \(byte 0xbf"),
        ("file_name,text\na.wav,ok\n".encode("utf-16-le"), "line 1 .*UTF-16 without its mark.*iconv -f utf-16le"),
        ("file_name,text\na.wav,ok\n".encode("utf-16-be"), "line 1 .*UTF-16 without its mark.*iconv -f utf-16be"),
        ("file_name,text\na.wav,ok\n".encode("utf-16")[:-1], r"speech\.csv to be utf-16, as its mark says, .* line 2"),
    ],
)
def test_other_encodings_are_refused_in_a_sentence(tmp_path, content: bytes, message: str) -> None:
    """Prevents replaced characters in training texts."""
    path = tmp_path / "speech.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(path)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # Common Voice: a quote is a part of the text, and does not reach for another one some rows below.
        ('path\ttext\tup\n1\t"Hola\t2\n2\tdos\t2\n3\tadéu"\t2\n', ['"Hola', "dos", 'adéu"']),
        ('path\ttext\n1\t"a" i "b"\n2\t""x"\n3\tsí ""no""\n', ['"a" i "b"', '""x"', 'sí ""no""']),
        ('path|text\n1|"Hola, nens\n2|adéu"\n', ['"Hola, nens', 'adéu"']),
        # What a spreadsheet leaves behind, and lines as on old Macs.
        ("path;text\n1;u, dos\n;\n\n", ["u, dos"]),
        ("path,text\r1,u\r2,dos\r", ["u", "dos"]),
        # A carriage return in a text ends no row.
        ('path\ttext\n1\tVa dir "prou"\r i va marxar.\n', ['Va dir "prou"\r i va marxar.']),
        ('path, text\n1, "u, dos"\n', ["u, dos"]),
        # The delimiter is that of the header.
        ("path;text\n1;a,b\n2;c,d\n", ["a,b", "c,d"]),
    ],
)
def test_tables_that_no_library_wrote(tmp_path, table: str, expected: list[str]) -> None:
    """Prevents rows that a lone quote swallows, and texts that lose what is theirs."""
    path = tmp_path / "speech.csv"
    path.write_bytes(table.encode())
    assert texts(path) == expected


def test_a_bad_row_is_one_row(tmp_path) -> None:
    """Prevents half a text under a row that lacks a field, and the loss of the rows around it."""
    path = tmp_path / "speech.csv"
    path.write_text(
        'file_name,text,split\na.wav,"u, dos",train\nb.wav,"tres, quatre"\nc.wav,cinc,train,x\nd.wav,sis,dev\n'
    )
    rejected: list[Rejection] = []
    clips = read_manifest(path, language="ca", reject=rejected.append)
    assert [(clip.text, clip.split, clip.row) for clip in clips] == [("u, dos", "train", 1), ("sis", "dev", 4)]
    assert [(one.row, one.table, one.detail) for one in rejected] == [
        (2, "speech.csv", "expected 3 fields, got 2 (line 3)"),
        (3, "speech.csv", "expected 3 fields, got 4 (line 4)"),
    ]
    path.write_text("file_name,text,text\na.wav,u,dos\n")
    with pytest.raises(ValueError, match=r"different names in speech\.csv, got text twice"):
        read_table(path)


def test_json_of_every_shape(tmp_path) -> None:
    """Prevents rows known by the keys of the first, a file's name that is an object, and a run ended by one line."""
    path = tmp_path / "speech.json"
    rows: list[object] = [
        {"audio": {"path": "a.wav"}, "text": "u"},
        {"audio": {"path": "b.wav"}, "text": "dos", "keep": True},
        {"audio": {"bytes": "…"}, "text": "tres", "keep": True},
        {"audio": "d.wav", "text": ["quatre"], "keep": 1},
        {"audio": "e\0.wav", "text": "cinc", "keep": 1},
        {"audio": "f.wav", "text": "\ud800", "keep": 1},
        {"audio": "g.wav", "text": float("nan"), "keep": "yes"},
        [1],
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"audio":\n' + "[" * 100_000)
    assert read_table(path).header == ["audio", "text", "keep"]
    rejected: list[Rejection] = []
    clips = read_manifest(path, language="ca", where={"keep": "true"}, reject=rejected.append)
    assert [(clip.id, clip.text) for clip in clips] == [("b.wav", "dos"), ("g.wav", "")]
    assert [one.row for one in rejected] == [3, 4, 5, 6, 8, 9, 10]
    path.write_text(json.dumps(rows[:2], indent=2))
    assert [clip.text for clip in read_manifest(path, language="ca")] == ["u", "dos"]
    path.write_text(json.dumps({"rows": rows}, indent=2))
    with pytest.raises(ValueError, match=r"Row 1 of speech\.json: line 1 is not JSON"):
        read_manifest(path, language="ca")
    path.write_text(json.dumps(rows)[:-9])
    with pytest.raises(ValueError, match=r"speech\.json to be JSON, a list or an object a line"):
        read_manifest(path, language="ca")


@pytest.mark.parametrize(
    "same",
    [
        [True, 1, 1.0, "true", "TRUE", "True", "yes", "1", "1.0", " 1 "],
        [False, 0, 0.0, "false", "No", "0", "0.00"],
        [None, float("nan"), "", " ", "None", "null"],
        [2.5, "2.5", "2.50"],
        [1e16, 10**16, str(10**16)],
        ["007"],
        ["7", 7, "7.0"],
        ["Train"],
        ["train"],
        ["nan"],
    ],
)
def test_equal_values_are_equal_in_every_format(same: list[object]) -> None:
    """Prevents `--where keep=true` that finds JSON's true and not a spreadsheet's TRUE, and speaker 007 taken for 7."""
    (value,) = {plain_value(one) for one in same}
    others = [plain_value(one) for one in ("x", 3, "007", "7", "Train", "train", "nan", True, False, None, 2.5, 1e16)]
    assert others.count(value) == 1


def test_a_folder_is_read_through_a_table_of_any_form(tmp_path) -> None:
    """Prevents a folder with metadata.TSV from counting as one without."""
    frame().to_csv(tmp_path / "metadata.TSV", sep="\t", index=False)
    assert [clip.text for clip in read_folder(tmp_path, language="ca")] == TEXTS
