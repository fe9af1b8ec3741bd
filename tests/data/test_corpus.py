"""The speech of a run: which rows of which source, what is left out, and when a run does not begin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from speech_files import write
from transformers import WhisperFeatureExtractor

from distil_whisper_hf.data.arguments import DataArguments
from distil_whisper_hf.data.corpus import Corpus, read_corpus
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.data.screening import TooManyRejected


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    for number in range(10):
        write(folder / f"{number}.wav", 0.3, hertz=200 + 20 * number)
    return folder


@pytest.fixture
def read(tokenizer):
    def read_arguments(*data: Path, **changes) -> Corpus:
        given = {"language": ["ca"], "dev_share": 0.1, "test_share": 0.1, **changes}
        arguments = DataArguments(data=[str(one) for one in data], **given)
        return read_corpus(arguments, LabelBuilder(tokenizer), WhisperFeatureExtractor())

    return read_arguments


def csv_table(path: Path, *, split: bool = False, files: int = 10) -> Path:
    parts = ["train"] * 6 + ["Validation"] * 2 + ["test"] * 2
    rows = [f'"{n}.wav","text, {n}"' + (f',"{parts[n]}"' if split else "") for n in range(files)]
    path.write_text("\n".join(['"file_name","text"' + (',"split"' if split else ""), *rows]))
    return path


def names(clips) -> list[str]:
    return [clip.id.removesuffix(".wav") for clip in clips]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_given_parts_are_the_same_in_every_format(read, speech, form: str) -> None:
    """Prevents a quoted header whose column `split` is not found, and rows called validation that are in no part."""
    path = csv_table(speech / "given.csv", split=True)
    if form == "tsv":
        path = speech / "given.tsv"
        path.write_text((speech / "given.csv").read_text().replace('","', '"\t"'))
    elif form == "jsonl":
        path = speech / "given.jsonl"
        parts = [{"split": "train"}] * 6 + [{"split": "dev"}] * 2 + [{"split": "TEST"}] * 2
        rows = [{"file_name": f"{n}.wav", "text": f"text, {n}", **part} for n, part in enumerate(parts)]
        path.write_text("\n".join(map(json.dumps, [{"file_name": "0.wav", "text": "in no part"}, *rows])))
    splits = read(path, split_by="given").splits
    assert [names(clips) for clips in (splits.train, splits.dev, splits.test)] == [
        list("012345"),
        ["6", "7"],
        ["8", "9"],
    ]
    if form != "jsonl":
        assert len(read(path, where=["split=train"]).splits.train) < 6


def test_columns_to_choose_by_are_looked_for_in_all_sources(read, speech) -> None:
    """Prevents training on every row because of a slip in a column's name."""
    plain = csv_table(speech / "plain.csv", files=5)
    rows = [
        {"file_name": f"{n}.wav", "text": f"t {n}", **({"keep": [True, 0][n % 2]} if n > 5 else {})} for n in range(10)
    ]
    marked = speech / "marked.jsonl"
    marked.write_text("\n".join(map(json.dumps, rows)))
    splits = read(plain, marked, where=["keep=TRUE"], dev_share=0.0, test_share=0.0).splits
    assert names(splits.train) == ["0", "1", "2", "3", "4", "6", "8"]
    with pytest.raises(ValueError, match="got 'keeep'; there are file_name, keep, text"):
        read(plain, marked, where=["keeep=TRUE"])
    with pytest.raises(ValueError, match=r"Expected rows in .*plain\.csv, found none with text=other"):
        read(plain, where=["text=other"])


@pytest.mark.parametrize(
    ("files", "missing", "share", "taken"),
    [
        (0, 4, 0.5, False),
        (0, 4, 1.0, False),
        (5, 5, 0.5, True),
        (4, 6, 0.5, False),
        (4, 6, 0.6, True),
        (9, 1, 0.0, False),
    ],
)
def test_too_little_that_is_left_is_refused(read, speech, files, missing, share, taken) -> None:
    """Prevents an expert trained on the few rows whose files happened to be there."""
    path = csv_table(speech / "some.csv", files=files)
    path.write_text(path.read_text() + "".join(f"\nnowhere/{n}.wav,lost" for n in range(missing)))
    if taken:
        assert read(path, max_rejected=share).report.counts() == {"missing": missing}
        return
    with pytest.raises(TooManyRejected) as refused:
        read(path, max_rejected=share)
    first = str(refused.value).split(". ")[0]
    rows = files + missing
    assert first.startswith(f"Of {rows} rows of {path} {missing} were left out: {missing} missing (row {files + 1} of")
    assert ("--max_rejected" in str(refused.value)) == (files > 0)
    assert [one.row for one in refused.value.report.rejections] == list(range(files + 1, rows + 1))


def test_a_bad_row_is_counted_once(read, speech) -> None:
    """Prevents one row from being rejected with every part that it is not in."""
    path = csv_table(speech / "bad.csv", split=True)
    path.write_text(path.read_text() + "\n0.wav,too few\n")
    report = read(path, split_by="given").report
    assert [(one.row, one.reason) for one in report.rejections] == [(11, "bad_row")]


def test_each_source_has_its_language_also_without_dev_data(read, speech) -> None:
    """Silent: nobody could name the languages of two sources, as none was said for the dev data that there is not."""
    tables = [csv_table(speech / name) for name in ("one.csv", "two.csv")]
    corpus = read(*tables, language=["ca", "gl"])
    assert {clip.language for clip in corpus.splits.train} == {"ca", "gl"}
    assert DataArguments(language=["ca"], dev_data=[str(speech)]).dev_sources()[0].language == "ca"
    for given in ({"language": ["ca", "gl"], "dev_data": [str(speech)]}, {"dev_language": ["ca", "gl"]}):
        with pytest.raises(ValueError, match="Expected one dev_language for all"):
            DataArguments(**given).dev_sources()


def test_mistakes_in_flags_stop_at_once(read, speech) -> None:
    """Prevents every clip from being opened before a slip of the pen is found."""
    path = csv_table(speech / "plain.csv")
    with pytest.raises(ValueError, match=r"did you mean Catalan \(ca\)"):
        read(path, language=["catala"])
    with pytest.raises(ValueError, match="one value for each column in --where, got a=1 a=2"):
        DataArguments(where=["a=1", "a=2"])
    with pytest.raises(ValueError, match="share from 0 to 1 in --max_rejected, got 50"):
        DataArguments(max_rejected=50)


def test_one_audio_under_two_texts_is_reported_over_all_sources(read, speech) -> None:
    """Prevents two tables that contradict each other from training one expert without a word."""
    (speech / "other.csv").write_text("file_name,text\n0.wav,hola\n1.wav,text 1\n2.wav,adeu\n")
    corpus = read(csv_table(speech / "all.csv"), speech / "other.csv", split_by="clip")
    assert [(note.reason, note.row, note.table) for note in corpus.report.notes] == [
        ("same_audio_other_text", 1, "other.csv"),
        ("same_audio_other_text", 3, "other.csv"),
    ]
    assert corpus.report.notes[0].detail == "'hola', in row 1 of all.csv 'text, 0'"
