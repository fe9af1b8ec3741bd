"""Tables on disk as rows: delimited text and JSON, whose encoding, delimiter and quoting are found by looking.

A delimited table is read line by line. A field is quoted if it is so from its first character to its last, with quotes
inside it doubled; any other quote is a part of the text, as in Common Voice. One stray quote harms no row after it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_DELIMITERS = "\t,;|"
# Rows that are looked at to find the delimiter.
_LOOKED_AT = 100
# The longer mark first: that of UTF-16 begins it.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_QUOTED = re.compile(r' *"([^"]*+(?:""[^"]*+)*+)" *')
_OPENED = re.compile(r' *"')

Row: TypeAlias = dict[str, Any] | str


@dataclass(frozen=True)
class Table:
    """What a file holds.

    Attributes:
        name: of the file, for errors.
        header: names of the columns; of JSON those that any row has.
        rows: column to value, strings in delimited text; for a row that cannot be read, what is wrong with it.
    """

    name: str
    header: list[str]
    rows: list[Row]


def read_table(path: str | Path) -> Table:
    """Read a table: `.csv` and `.tsv` with a header, `.jsonl`, `.ndjson` and `.json` with an object a line or one list.

    The suffix, in any case, decides between the two. The delimiter is a tab, comma, semicolon or bar: the one that
    parts header and rows alike. Empty lines are no rows.

    Raises:
        ValueError: another kind of file, an encoding other than UTF-8 or UTF-16 and UTF-32 with their marks, two
            columns of one name, or a JSON list that is broken.
    """
    path = Path(path)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(f"Expected a manifest that ends in {', '.join(TABLE_SUFFIXES)}, got {path.name}.")
    text = _read_text(path)
    if path.suffix.lower() in _JSON_SUFFIXES:
        rows = _json_rows(text, path.name)
        names = dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row)
        return Table(path.name, list(names), rows)
    # Spreadsheets on old Macs end lines so; anywhere else a carriage return is a part of the text.
    lines = text.split("\n" if "\n" in text else "\r")
    lines = [line.removesuffix("\r") for line in lines]
    first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if first == len(lines):
        return Table(path.name, [], [])
    delimiter = _delimiter(lines[first], [line for line in lines[first + 1 :] if line.strip()][:_LOOKED_AT])
    header = [name.strip() for name in _fields(lines[first], delimiter)[0]]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise ValueError(
            f"Expected columns of different names in {path.name}, got {', '.join(twice)} twice: rename one."
        )
    return Table(path.name, header, list(_delimited_rows(lines, first + 1, header, delimiter)))


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    first_zero = content.partition(b"\n")[0].find(b"\0")
    if encoding == "utf-8" and first_zero >= 0:
        guess = "utf-16le" if first_zero % 2 else "utf-16be"
        raise _other_encoding(path.name, 1, "zero bytes; UTF-16 without its mark, perhaps", guess)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "ignore").count("\n") + 1
        if encoding == "utf-8":
            found = f"byte 0x{content[error.start]:02x}; cp1252, perhaps"
            raise _other_encoding(path.name, line, found, "cp1252") from error
        raise ValueError(
            f"Expected {path.name} to be {encoding}, as its mark says, got what is not in line {line}: fetch it again."
        ) from error


def _other_encoding(name: str, line: int, found: str, guess: str) -> ValueError:
    return ValueError(
        f"Expected UTF-8, or UTF-16 with its mark, in {name}, got another encoding in line {line} ({found}): convert "
        f"it, `iconv -f {guess} -t utf-8` does."
    )


def _json_rows(text: str, name: str) -> list[Row]:
    if text.lstrip().startswith("["):
        try:
            return [_json_row(value) for value in json.loads(text)]
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"Expected {name} to be JSON, a list or an object a line, got neither: {error}."
            ) from error
    # Not by splitlines(), which also takes signs for ends of lines that JSON leaves in a text.
    lines = enumerate(text.split("\n"), start=1)
    return [_json_line(line, number) for number, line in lines if line.strip()]


def _json_line(line: str, number: int) -> Row:
    try:
        return _json_row(json.loads(line))
    except (ValueError, RecursionError) as error:
        return f"line {number} is not JSON ({error})"


def _json_row(value: object) -> Row:
    return value if isinstance(value, dict) else f"expected a JSON object, got {type(value).__name__}"


def _delimiter(header: str, rows: list[str]) -> str:
    """The delimiter that the header has, and by which most rows have as many fields as it."""

    def agreement(delimiter: str) -> tuple[bool, int, int]:
        width = len(_fields(header, delimiter)[0])
        return width > 1, sum(len(_fields(row, delimiter)[0]) == width for row in rows), width

    return max(_DELIMITERS, key=agreement)


def _delimited_rows(lines: list[str], number: int, header: list[str], delimiter: str) -> Iterator[Row]:
    while number < len(lines):
        fields, is_open = _fields(lines[number], delimiter)
        end = number + 1
        if is_open:
            fields, end = _record(lines, number, delimiter, len(header)) or (fields, end)
        # Spreadsheets may leave rows of delimiters at the end.
        if any(field.strip() for field in fields):
            yield (
                dict(zip(header, fields, strict=True))
                if len(fields) == len(header)
                else f"expected {len(header)} fields, got {len(fields)} (line {number + 1})"
            )
        number = end


def _record(lines: list[str], start: int, delimiter: str, width: int) -> tuple[list[str], int] | None:
    """Fields of a row over several lines, and the line after it; None where the open quote is a part of the text.

    Programs that write tabs or bars seldom quote. There a quote is one only if the lines that it would enclose are not
    rows of their own.
    """
    for end in range(start + 2, len(lines) + 1):
        if '"' not in lines[end - 1]:
            continue
        fields, is_open = _fields("\n".join(lines[start:end]), delimiter)
        if is_open:
            continue
        own_rows = all(len(_fields(line, delimiter)[0]) == width for line in lines[start + 1 : end] if line.strip())
        return None if len(fields) != width or (own_rows and delimiter in "\t|") else (fields, end)
    return None


def _fields(record: str, delimiter: str) -> tuple[list[str], bool]:
    """The fields of a record, and whether a quote before one of them is not closed in it.

    A record of several lines that it cannot be has no fields.
    """
    if '"' not in record:
        return record.split(delimiter), False
    fields: list[str] = []
    start, is_open = 0, False
    while True:
        quoted = _QUOTED.match(record, start)
        if quoted is not None and record[quoted.end() : quoted.end() + 1] in ("", delimiter):
            fields.append(quoted[1].replace('""', '"'))
            end = quoted.end()
        else:
            is_open |= quoted is None and _OPENED.match(record, start) is not None
            found = record.find(delimiter, start)
            end = len(record) if found < 0 else found
            fields.append(record[start:end])
            # Only a quoted field may hold the end of a line.
            if "\n" in fields[-1]:
                return [], is_open
        if end == len(record):
            return fields, is_open
        start = end + 1
