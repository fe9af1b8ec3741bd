"""Tables of every kind as clips: manifests, audio folders, Common Voice dumps, data sets of the Hub."""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import Audio, ClassLabel, Dataset
from speech_files import encoded, tone, write
from torch.utils.data import DataLoader, IterableDataset

from distil_whisper_hf.data.audio import audio_seconds
from distil_whisper_hf.data.clips import Clip
from distil_whisper_hf.data.columns import Columns
from distil_whisper_hf.data.common_voice import read_common_voice
from distil_whisper_hf.data.hub_datasets import ClipStream, load_hub_dataset, read_dataset, stream_dataset
from distil_whisper_hf.data.manifests import read_folder, read_manifest
from distil_whisper_hf.data.sampling import rank_by_votes, select_subset

ROWS = [
    {"file_name": "a/one.wav", "sentence": 'Va dir "prou", i prou.', "language": "ca", "speaker": "s1", "gender": "F"},
    {"file_name": "a/two.wav", "sentence": "Bon dia", "language": "Catalan", "speaker": "s2", "gender": "male"},
    {"file_name": "three.wav", "sentence": "Dzień dobry", "language": "pl-PL", "speaker": "", "gender": ""},
]


def write_table(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif path.suffix == ".csv":
        buffer = io.StringIO()
        table = csv.DictWriter(buffer, rows[0])
        table.writeheader()
        table.writerows(rows)
        text = buffer.getvalue()
    else:
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        text = "".join("\t".join(line) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("extension", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_manifest_gives_the_same_clips_in_every_format(tmp_path, extension: str, mark: str) -> None:
    """Prevents a lost first column (the mark that spreadsheets write), and quotes taken for syntax in a TSV."""
    path = write_table(tmp_path / f"speech.{extension}", ROWS)
    path.write_text(mark + path.read_text(encoding="utf-8"), encoding="utf-8")
    clips = read_manifest(path)
    assert [clip.id for clip in clips] == ["a/one.wav", "a/two.wav", "three.wav"]
    assert [clip.audio for clip in clips] == [str(tmp_path / row["file_name"]) for row in ROWS]
    assert clips[0].text == 'Va dir "prou", i prou.'
    assert [clip.language for clip in clips] == ["ca", "ca", "pl"]
    assert [clip.speaker for clip in clips] == ["s1", "s2", ""]
    assert [clip.gender for clip in clips] == ["female", "male", ""]
    assert {clip.expert for clip in clips} == {None}


def test_language_and_expert_can_be_said_for_all_rows(tmp_path) -> None:
    """Prevents a language without a token of its own from keeping the one in the table, and going without expert."""
    clips = read_manifest(write_table(tmp_path / "speech.csv", ROWS), language="it", expert="sc")
    assert {(clip.language, clip.expert) for clip in clips} == {("it", "sc")}


def test_rows_are_chosen_by_value(tmp_path) -> None:
    """Prevents training on rows that the maker of a set marked as suspect or as test."""
    rows = [{**row, "suspect": suspect} for row, suspect in zip(ROWS, ("0", "1", "0"), strict=True)]
    for extension in ("csv", "jsonl"):
        path = write_table(tmp_path / f"speech.{extension}", rows)
        assert [clip.id for clip in read_manifest(path, where={"suspect": "0"})] == ["a/one.wav", "three.wav"]
        with pytest.raises(ValueError, match="no column 'split' to choose rows by; it has file_name"):
            read_manifest(path, where={"split": "train"})


def test_columns_can_be_named_and_are_never_guessed(tmp_path) -> None:
    """Prevents normalised text in place of the text with punctuation, or one speaker column in place of another."""
    rows = [{"wav": "one.wav", "text": "bon dia", "sentence": "Bon dia!", "lang": "ca", "who": "s1"}]
    path = write_table(tmp_path / "speech.csv", rows)
    with pytest.raises(ValueError, match=r"2 columns for text: text, sentence\. Name the one to use"):
        read_manifest(path, columns=Columns(audio="wav"))
    with pytest.raises(ValueError, match="no audio column: expected one of file_name, audio"):
        read_manifest(path, columns=Columns(text="sentence"))
    with pytest.raises(ValueError, match="no column 'voice' for speaker; it has wav, text"):
        read_manifest(path, columns=Columns(audio="wav", text="sentence", speaker="voice"))
    (clip,) = read_manifest(path, columns=Columns(audio="wav", text="sentence", speaker="who"), audio_root="/speech")
    assert (clip.text, clip.speaker, clip.language, clip.audio) == ("Bon dia!", "s1", "ca", "/speech/one.wav")


def test_broken_tables_say_where(tmp_path) -> None:
    """Prevents the fields of a row from sliding under the wrong names."""
    path = tmp_path / "speech.tsv"
    path.write_text("file_name\ttext\nok.wav\tok\nbad.wav\ta\tb\n")
    with pytest.raises(ValueError, match=r"Row 2 of speech\.tsv: expected 2 fields, got 3 \(line 3\)"):
        read_manifest(path, language="ca")
    path = tmp_path / "speech.csv"
    path.write_text("file_name,text\nok.wav,ok\nbad.wav\n")
    with pytest.raises(ValueError, match=r"Row 2 of speech\.csv: expected 2 fields, got 1"):
        read_manifest(path, language="ca")
    path = tmp_path / "speech.jsonl"
    path.write_text('{"file_name": "a.wav", "text": "a"}\n{"file_name":\n')
    with pytest.raises(ValueError, match=r"Row 2 of speech\.jsonl: line 2 is not JSON"):
        read_manifest(path, language="ca")
    path.write_text('{"file_name": "a.wav", "text": "a"}\n{"text": "b"}\n')
    with pytest.raises(ValueError, match=r"Row 2 of speech\.jsonl: file_name names no audio file"):
        read_manifest(path, language="ca")
    path.write_text('{"file_name": "a.wav", "text": "a"}\n')
    with pytest.raises(ValueError, match="no language column"):
        read_manifest(path)
    with pytest.raises(ValueError, match=r"\.csv, \.tsv, .*\.json, got speech\.xlsx"):
        read_manifest(tmp_path / "speech.xlsx")


def test_values_that_are_missing_in_json_are_empty(tmp_path) -> None:
    """Prevents the text 'None', which would be trained on."""
    path = tmp_path / "speech.jsonl"
    path.write_text('{"file_name": "a.wav", "text": null, "speaker": 7}\n{"file_name": "b.wav", "age": "teens"}\n')
    one, two = read_manifest(path, language="ca")
    assert (one.text, one.speaker, one.age) == ("", "7", "")
    assert (two.text, two.speaker, two.age) == ("", "", "teens")


def test_an_audio_folder_is_read_through_its_metadata(tmp_path) -> None:
    """Prevents a folder with two tables (an old one left behind) from being read through the wrong one."""
    write_table(tmp_path / "metadata.jsonl", ROWS)
    assert len(read_folder(tmp_path)) == 3
    write_table(tmp_path / "metadata.csv", ROWS[:1])
    with pytest.raises(ValueError, match=r"got metadata\.csv and metadata\.jsonl"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="got none"):
        read_folder(tmp_path / "a")


@pytest.fixture
def common_voice(tmp_path) -> Path:
    """A dump as Common Voice makes it: tables without quoting, two names for a gender, votes as text."""
    header = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accents", "locale"]
    rows = [
        ["c1", "v_1.mp3", '"Hola', "2", "0", "twenties", "female_feminine", "", "ca"],
        ["c1", "v_2.mp3", 'Va dir "prou"\r i va marxar.', "3", "1", "twenties", "female", "", "ca"],
        ["c2", "v_3.mp3", "Bon dia.", "3", "0", "", "", "central", "ca"],
    ]
    (tmp_path / "train.tsv").write_bytes("".join("\t".join(row) + "\n" for row in [header, *rows]).encode())
    (tmp_path / "dev.tsv").write_bytes(("\t".join(header) + "\n").encode())
    for row in rows:
        write(tmp_path / "clips" / row[1], 0.5)
    return tmp_path


def test_a_common_voice_dump(common_voice) -> None:
    """Prevents a lone quote from swallowing the rows after it, and a carriage return from cutting one in two."""
    clips = read_common_voice(common_voice, split="train")
    assert [clip.text for clip in clips] == ['"Hola', 'Va dir "prou"\r i va marxar.', "Bon dia."]
    assert [clip.id for clip in clips] == ["v_1.mp3", "v_2.mp3", "v_3.mp3"]
    assert [clip.speaker for clip in clips] == ["c1", "c1", "c2"]
    assert [clip.gender for clip in clips] == ["female", "female", ""]
    assert [(clip.up_votes, clip.down_votes) for clip in clips] == [(2, 0), (3, 1), (3, 0)]
    assert {clip.language for clip in clips} == {"ca"}
    assert [audio_seconds(clip.audio) for clip in clips] == [pytest.approx(0.5, abs=0.1)] * 3
    assert [clip.id for clip in select_subset(clips, 2)] == ["v_3.mp3", "v_2.mp3"]
    assert read_common_voice(common_voice, split="dev") == []
    with pytest.raises(ValueError, match=r"no test\.tsv; it has dev, train"):
        read_common_voice(common_voice, split="test")


def voted(number: int) -> Clip:
    return Clip(f"clip{number}.mp3", "", "text", "ca", up_votes=number % 4, down_votes=number % 3)


def test_subsets_are_nested_and_follow_the_votes() -> None:
    """Prevents a 10k set that lacks clips of the 3k set, and ties broken by the order of the file or of a set()."""
    clips = [voted(number) for number in range(300)]
    ranked = rank_by_votes(clips)
    votes = [(-clip.up_votes, clip.down_votes) for clip in ranked]
    assert votes == sorted(votes)
    for size in (30, 100, 280):
        assert select_subset(clips, size) == ranked[:size]
        assert select_subset(clips[::-1], size) == ranked[:size]
    tied = [int(clip.id[4:-4]) for clip in ranked if votes.count((-clip.up_votes, clip.down_votes)) > 1]
    assert tied != sorted(tied)
    with pytest.raises(ValueError, match="at least 301 clips to choose from, got 300"):
        select_subset(clips, 301)
    with pytest.raises(ValueError, match="x has no votes"):
        rank_by_votes([Clip("x", "", "text", "ca")])


def test_votes_that_are_no_numbers_are_named(tmp_path) -> None:
    """Prevents '10' sorted below '9' as text."""
    path = write_table(tmp_path / "speech.csv", [{**ROWS[0], "up_votes": "many", "down_votes": "0"}])
    with pytest.raises(ValueError, match="'many' votes, expected a whole number"):
        read_manifest(path)


@pytest.fixture
def fleurs_like(tmp_path) -> Dataset:
    """As the Hub's tables of FLEURS: encoded audio, numbered classes, a sentence id that several clips share."""
    rows = {
        "id": [7, 7, 8, 9, 10],
        "path": [f"/elsewhere/{i}.wav" for i in range(5)],
        "audio": [{"bytes": encoded(tone(0.2 * (i + 1))), "path": f"{i}.wav"} for i in range(5)],
        "transcription": [f"text {i}" for i in range(5)],
        "raw_transcription": [f"Text {i}." for i in range(5)],
        "gender": [0, 1, 2, -1, 1],
        "language": ["Catalan"] * 5,
    }
    dataset = Dataset.from_dict(rows).cast_column("audio", Audio(sampling_rate=16000))
    return dataset.cast_column("gender", ClassLabel(names=["male", "female", "other"]))


def test_a_data_set_of_the_hub(fleurs_like) -> None:
    """Prevents class numbers for names, the sound of another row, and a decoder that has to be installed."""
    clips = read_dataset(fleurs_like, name="fleurs", columns=Columns(text="raw_transcription"))
    assert [clip.id for clip in clips] == [f"fleurs:{i}" for i in range(5)]
    assert [clip.text for clip in clips] == [f"Text {i}." for i in range(5)]
    assert [clip.gender for clip in clips] == ["male", "female", "other", "-1", "female"]
    assert {clip.language for clip in clips} == {"ca"}
    assert [audio_seconds(clip.audio) for clip in clips] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    women = read_dataset(fleurs_like, name="fleurs", where={"gender": "female"})
    assert [clip.id for clip in women] == ["fleurs:1", "fleurs:4"]
    assert [audio_seconds(clip.audio) for clip in women] == pytest.approx([0.4, 1.0])
    copied = pickle.loads(pickle.dumps(women))
    assert audio_seconds(copied[1].audio) == pytest.approx(1.0)


def test_a_streamed_data_set(fleurs_like) -> None:
    """Prevents a stream that can be read once, that differs from the table, or whose sound stays behind."""
    clips = read_dataset(fleurs_like, name="fleurs")
    stream = stream_dataset(fleurs_like.to_iterable_dataset(num_shards=3), name="fleurs")
    for _ in range(2):
        streamed = list(stream)
        assert [clip.text for clip in streamed] == [clip.text for clip in clips]
        assert [clip.gender for clip in streamed] == [clip.gender for clip in clips]
        assert [audio_seconds(clip.audio) for clip in streamed] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert streamed[3].id == "fleurs:3.wav"
    shuffled = stream_dataset(fleurs_like.to_iterable_dataset(3).shuffle(seed=1, buffer_size=5), name="fleurs")
    orders = []
    for epoch in (0, 1, 0):
        shuffled.set_epoch(epoch)
        orders.append([clip.text for clip in shuffled])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


class TextStream(IterableDataset):
    """The texts of a stream of clips."""

    def __init__(self, clips: ClipStream) -> None:
        self.clips = clips

    def __iter__(self) -> Iterator[str]:
        return (clip.text for clip in self.clips)


def test_workers_share_a_stream_without_overlap(fleurs_like) -> None:
    """Prevents every worker from reading the whole stream: each clip would be trained on once for each worker."""
    stream = TextStream(stream_dataset(fleurs_like.to_iterable_dataset(num_shards=5), name="fleurs"))
    loader = DataLoader(stream, batch_size=2, num_workers=2)
    assert sorted(text for batch in loader for text in batch) == [f"text {i}" for i in range(5)]


def test_data_sets_that_cannot_be_read_say_why(fleurs_like) -> None:
    """Prevents a guess between two audio columns, and a mapped stream that ends in an unrelated error."""
    two = fleurs_like.add_column("copy", [{"bytes": b"", "path": ""}] * 5).cast_column("copy", Audio())
    with pytest.raises(ValueError, match=r"fleurs has 2 audio columns \(audio, copy\): name the one"):
        read_dataset(two, name="fleurs")
    assert len(read_dataset(two, name="fleurs", columns=Columns(audio="audio"))) == 5
    mapped = fleurs_like.to_iterable_dataset().map(lambda row: row)
    with pytest.raises(ValueError, match="fleurs does not say which columns it has: pass `features`"):
        stream_dataset(mapped, name="fleurs")


@pytest.mark.parametrize("streaming", [False, True])
def test_tables_on_disk_load_like_those_of_the_hub(fleurs_like, tmp_path, streaming: bool) -> None:
    """Prevents loading from asking for the library's own decoder, and a dictionary of splits taken for one."""
    (tmp_path / "tables").mkdir()
    fleurs_like.to_parquet(tmp_path / "tables" / "train.parquet")
    dataset = load_hub_dataset(str(tmp_path / "tables"), split="train", streaming=streaming)
    read = stream_dataset if streaming else read_dataset
    clips = list(read(dataset, name="fleurs", columns=Columns(text="raw_transcription")))
    assert [clip.text for clip in clips] == [f"Text {i}." for i in range(5)]
    assert [audio_seconds(clip.audio) for clip in clips] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
