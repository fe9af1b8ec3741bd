"""Clips left out and why; sets that share no clip, whatever else they share."""

from __future__ import annotations

import json

import pytest
from speech_files import encoded, tone, write

from distil_whisper_hf.data.audio import AudioSegment
from distil_whisper_hf.data.clips import Clip
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.data.rejections import Rejection, notices
from distil_whisper_hf.data.screening import Screen, notes_on_audio, screen_clips
from distil_whisper_hf.data.splits import Splits, join_splits, split_clips


@pytest.fixture
def folder_of_troubles(tmp_path) -> list[Clip]:
    """One clip of every kind that real data has."""
    audio = {
        "good": write(tmp_path / "good.wav", 1.0),
        "also good": write(tmp_path / "also.mp3", 2.0),
        "missing": tmp_path / "missing.wav",
        "web page": tmp_path / "page.mp3",
        "no samples": write(tmp_path / "empty.wav", 0.0),
        "blink": write(tmp_path / "blink.wav", 0.05),
        "just fits": write(tmp_path / "fits.wav", 30.0),
        "too long": write(tmp_path / "long.wav", 30.01),
        "broken off": tmp_path / "broken.flac",
    }
    audio["web page"].write_text("<html>not found</html>")
    flac = encoded(tone(2.0), extension="flac")
    audio["broken off"].write_bytes(flac[: len(flac) // 2])
    clips = [Clip(name, str(path), f"text of {name}", "ca") for name, path in audio.items()]
    clips.append(Clip("dots only", clips[0].audio, " … ", "ca"))
    # Prompt (3), text (one token for each byte) and end (1): 448 fit, 449 do not.
    clips.append(Clip("448 tokens", clips[0].audio, "x" * 444, "ca"))
    clips.append(Clip("449 tokens", clips[0].audio, "x" * 445, "ca"))
    return clips


def test_every_trouble_is_counted_under_its_reason(folder_of_troubles, tokenizer) -> None:
    """Prevents clips that vanish, that stop the run, or that are cut to fit: half a text for a whole sound."""
    screen = Screen(LabelBuilder(tokenizer, leading_space="never"))
    kept, report = screen_clips(folder_of_troubles, screen)
    assert [clip.id for clip in kept] == ["good", "also good", "just fits", "broken off", "448 tokens"]
    assert {rejection.id: rejection.reason for rejection in report.rejections} == {
        "missing": "missing",
        "web page": "unreadable",
        "no samples": "empty_audio",
        "blink": "empty_audio",
        "too long": "too_long",
        "dots only": "empty_text",
        "449 tokens": "too_many_tokens",
    }
    assert report.counts() == {
        "empty_text": 1,
        "too_many_tokens": 1,
        "missing": 1,
        "unreadable": 1,
        "empty_audio": 2,
        "too_long": 1,
    }
    details = {rejection.id: rejection.detail for rejection in report.rejections}
    assert details["449 tokens"] == "449 tokens, 448 fit"
    assert details["too long"] == "30.01 s, 30 s fit"
    assert "missing.wav" in details["missing"]
    assert report.kept == 5
    assert report.seconds == pytest.approx(sum(clip.seconds for clip in kept)) == pytest.approx(36, abs=0.2)


def test_texts_that_are_refused_or_mended_are_counted(tmp_path, tokenizer) -> None:
    """Prevents labels with timestamps spelled out, and a data set that is mended without a word."""
    path = str(write(tmp_path / "clip.wav", 1.0))
    texts = ("<|0.00|> bon dia<|2.00|>", "bon\0dia", "bon &amp; dia", "e\u0301s", "bon dia")
    clips = [Clip(f"{n}", path, text, "ca", table="t.csv", row=n) for n, text in enumerate(texts, start=1)]
    kept, report = screen_clips(clips, Screen(LabelBuilder(tokenizer, leading_space="never")))
    assert [tokenizer.decode(clip.labels[3:-1]) for clip in kept] == ["bon & dia", "és", "bon dia"]
    assert report.counts() == {"special_token": 1, "damaged_text": 1}
    assert notices(report.notes) == [
        "1 html_entities: row 3 of t.csv: 'bon &amp; dia'",
        "1 other_unicode_form: row 4 of t.csv: 'e\u0301s'",
    ]
    report.save(tmp_path / "rejections.jsonl")
    written = [json.loads(line) for line in (tmp_path / "notes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(note["reason"], note["row"]) for note in written] == [("html_entities", 3), ("other_unicode_form", 4)]


def test_one_audio_under_two_texts_is_known(tmp_path, tokenizer) -> None:
    """Prevents rows that teach two texts for one sound; other punctuation and other segments are no other text."""
    one, two = write(tmp_path / "one.wav", 2.0), write(tmp_path / "two.ogg", 1.0, hertz=300)
    (tmp_path / "copy.wav").write_bytes(one.read_bytes())
    rows = [
        (str(one), "bon dia"),
        (str(tmp_path / "copy.wav"), "Bon dia!"),
        (str(two), "bona nit"),
        (str(tmp_path / "copy.wav"), "adéu"),
        (AudioSegment(str(one), 0.0, 1.0), "bon"),
        (AudioSegment(str(one), 1.0, 1.0), "dia"),
        (AudioSegment(str(one), 1.0), "no"),
        (one.read_bytes(), "adéu"),
        (one.read_bytes(), "hola"),
    ]
    clips = [Clip(f"{n}.wav", audio, text, "ca") for n, (audio, text) in enumerate(rows)]
    kept, _ = screen_clips(clips, Screen(LabelBuilder(tokenizer)))
    assert [(note.id, note.reason, note.detail) for note in notes_on_audio(kept)] == [
        ("3.wav", "same_audio_other_text", "'adéu', in 0.wav 'bon dia'"),
        ("6.wav", "same_audio_other_text", "'no', in 5.wav 'dia'"),
        ("8.wav", "same_audio_other_text", "'hola', in 0.wav 'bon dia'"),
    ]
    (line,) = notices(notes_on_audio(kept) * 2)
    assert line.startswith("6 same_audio_other_text: 3.wav: 'adéu', in") and line.endswith("; and 3 more")


def test_decoding_finds_what_headers_hide(folder_of_troubles, tokenizer) -> None:
    """Prevents an evaluation set with a clip that only turns out unreadable in the middle of the evaluation."""
    labels = LabelBuilder(tokenizer, leading_space="never")
    kept, report = screen_clips(folder_of_troubles, Screen(labels, decode=True))
    assert [clip.id for clip in kept] == ["good", "also good", "just fits", "448 tokens"]
    assert report.counts()["unreadable"] == 2


def test_screened_clips_are_cleaned_measured_and_known_by_content(tmp_path, tokenizer) -> None:
    """Prevents one source from being cleaned and another not: cleaning is where every source passes."""
    path = write(tmp_path / "clip.wav", 1.5)
    outcome = Screen(LabelBuilder(tokenizer))(Clip("one", str(path), '"Bon  dia.\u200b"', "ca"))
    again = Screen(LabelBuilder(tokenizer))(Clip("two", path.read_bytes(), "Bon dia.", "ca"))
    assert outcome.text == again.text == "Bon dia."
    assert outcome.seconds == 1.5
    assert outcome.digest == again.digest
    assert len(outcome.digest) == 32


def test_the_report_can_be_read_and_kept(folder_of_troubles, tokenizer, tmp_path) -> None:
    """Prevents a count without the names of the clips that have to be mended."""
    _, report = screen_clips(folder_of_troubles, Screen(LabelBuilder(tokenizer, leading_space="never")))
    assert report.summary() == (
        "5 clips (0.01 h); left out 7: 1 empty_text, 1 too_many_tokens, 1 missing, 1 unreadable, 2 empty_audio, "
        "1 too_long"
    )
    report.save(tmp_path / "left_out.jsonl")
    lines = (tmp_path / "left_out.jsonl").read_text().splitlines()
    assert [Rejection(**json.loads(line)) for line in lines] == report.rejections
    _, clean = screen_clips([], Screen(LabelBuilder(tokenizer)))
    assert clean.summary() == "0 clips (0.00 h); left out none"


def test_a_limit_counts_usable_clips(folder_of_troubles, tokenizer) -> None:
    """Prevents a '3k' set with 2950 clips because 50 of the best voted were unreadable, and opening the other 900k."""
    screen = Screen(LabelBuilder(tokenizer, leading_space="never"))
    kept, report = screen_clips(folder_of_troubles, screen, limit=3)
    assert [clip.id for clip in kept] == ["good", "also good", "just fits"]
    assert len(report.rejections) == 4


def test_a_language_without_a_token_is_a_reason(tmp_path, tokenizer) -> None:
    """Prevents one row of a locale that Whisper does not know from ending the run of all others."""
    path = write(tmp_path / "clip.wav")
    kept, report = screen_clips(
        [Clip("one", str(path), "text", "catala", table="all.tsv", row=7), Clip("two", str(path), "text", "ca")],
        Screen(LabelBuilder(tokenizer)),
    )
    assert [clip.id for clip in kept] == ["two"]
    (rejection,) = report.rejections
    assert (rejection.reason, rejection.place) == ("unknown_language", "row 7 of all.tsv")
    assert "did you mean Catalan (ca)" in rejection.detail


def screened(number: int, *, text: str | None = None, speaker: str | None = None, digest: str | None = None) -> Clip:
    return Clip(
        f"clip{number}",
        "",
        f"text {number}" if text is None else text,
        "ca",
        speaker=f"speaker{number % 11}" if speaker is None else speaker,
        seconds=1.0,
        digest=f"{number:032x}" if digest is None else digest,
    )


def corpus() -> list[Clip]:
    """200 clips of 11 speakers and 60 texts that differ in case; two have the audio of a neighbour."""
    return [
        screened(i, text=f"{'Text' if i % 2 else 'text'} {i % 60}!", digest=f"{i - (i in (19, 59)):032x}")
        for i in range(200)
    ]


def ids(splits: Splits) -> tuple[list[str], list[str], list[str]]:
    return tuple([clip.id for clip in part] for part in (splits.train, splits.dev, splits.test))


@pytest.mark.parametrize("by", ["clip", "text", "speaker"])
def test_splits_share_neither_audio_nor_what_they_are_split_by(by: str) -> None:
    """Prevents test scores on memorised texts, voices or clips, also of the same audio under two names."""
    clips = corpus()
    splits = split_clips(clips, by=by, dev=0.15, test=0.2)
    assert sorted(clip_id for part in ids(splits) for clip_id in part) == sorted(clip.id for clip in clips)
    parts = (splits.train, splits.dev, splits.test)
    keys = {
        "clip": lambda clip: clip.digest,
        "text": lambda clip: clip.text.lower(),
        "speaker": lambda clip: clip.speaker,
    }
    for key in (keys["clip"], keys[by]):
        values = [{key(clip) for clip in part} for part in parts]
        assert values[0] & values[1] == values[0] & values[2] == values[1] & values[2] == set()
    assert len(splits.test) >= 40
    assert len(splits.dev) >= 30
    assert len(splits.train) >= 60


def test_splits_depend_on_clips_and_seed_alone() -> None:
    """Prevents a test set that changes with the order of a listing, the machine, or Python's hash seed."""
    clips = corpus()
    splits = split_clips(clips, by="text", dev=0.1, test=0.1)
    reverse = split_clips(clips[::-1], by="text", dev=0.1, test=0.1)
    assert [sorted(part) for part in ids(reverse)] == [sorted(part) for part in ids(splits)]
    assert ids(split_clips(clips, by="text", dev=0.1, test=0.1)) == ids(splits)
    assert ids(split_clips(clips, by="text", dev=0.1, test=0.1, seed=1)) != ids(splits)
    # Fixed for good: a change of the hash would move clips between published sets.
    few = split_clips([screened(i) for i in range(12)], by="clip", dev=0.2, test=0.2)
    assert (ids(few)[1], ids(few)[2]) == (["clip3", "clip7", "clip9"], ["clip2", "clip6", "clip11"])


def test_large_groups_are_not_held_out_first() -> None:
    """Prevents a test set of the busiest speakers: the earliest of many hashes is earlier than one hash."""
    first = 0
    for seed in range(40):
        many = [screened(i, speaker="busy") for i in range(50)]
        few = [screened(100 + i, speaker=f"speaker{i}") for i in range(10)]
        splits = split_clips(many + few, by="speaker", dev=0.0, test=0.01, seed=seed)
        first += splits.test[0].speaker == "busy"
    assert first < 15


def test_given_sets_lose_what_they_share() -> None:
    """Prevents a clip of the official test set that is in the training set too, under another name."""
    train = [screened(i) for i in range(6)]
    dev = [screened(10, digest=train[0].digest), screened(11)]
    test = [screened(20, digest=train[1].digest), screened(21, digest=dev[1].digest)]
    splits = join_splits(train=train, dev=dev, test=test)
    assert ids(splits) == (["clip2", "clip3", "clip4", "clip5"], ["clip10"], ["clip20", "clip21"])
    assert splits.dropped == ("clip11", "clip0", "clip1")
    assert "dropped 3 clips" in splits.report()
    with pytest.raises(ValueError, match="clip10 of dev is in train too"):
        Splits(train, dev, [])


def test_the_report_says_what_is_shared() -> None:
    """Prevents a score on unseen texts by a known voice from being taken for a score on unseen voices."""
    train = [screened(1, speaker="a"), screened(2, speaker="b")]
    dev = [screened(3, speaker="a", text="TEXT 1."), screened(4, speaker="c")]
    report = join_splits(train=train, dev=dev, test=[screened(5, speaker=""), screened(6, speaker="b")]).report()
    assert report.splitlines() == [
        "train: 2 clips, 0.00 h, 2 speakers",
        "dev: 2 clips, 0.00 h, 2 speakers",
        "test: 2 clips, 0.00 h, 1 speakers",
        "dev and train share no clip, the text of 1 of 2 clips, the speaker of 1 of 2 clips",
        "test and train share no clip, the text of 0 of 2 clips, the speaker of 1 of 2 clips (1 unknown)",
    ]
    unknown = join_splits(train=train, dev=[screened(7, speaker="")], test=[]).report()
    assert "dev: 1 clips, 0.00 h, speakers unknown" in unknown
    assert "the text of 0 of 1 clips, speakers unknown" in unknown


@pytest.mark.parametrize(
    ("clips", "arguments", "message"),
    [
        (corpus(), {"by": "voice", "dev": 0.1, "test": 0.1}, "clip, text, speaker, got 'voice'"),
        (corpus(), {"by": "clip", "dev": 0.5, "test": 0.5}, "together below 1, got 0.5 and 0.5"),
        (corpus(), {"by": "clip", "dev": -0.1, "test": 0.5}, "at least 0"),
        ([Clip("raw", "", "text", "ca")], {"by": "clip", "dev": 0.1, "test": 0.1}, "raw has no digest: screen"),
        ([screened(1, speaker="")], {"by": "speaker", "dev": 0.1, "test": 0.1}, "speaker of clip clip1 is unknown"),
        (
            [screened(i, speaker="only") for i in range(9)],
            {"by": "speaker", "dev": 0.1, "test": 0.1},
            "9 clips fall into 1 groups by speaker, which leaves dev and train empty",
        ),
    ],
)
def test_splits_that_cannot_be_made_are_refused(clips, arguments, message: str) -> None:
    """Prevents an empty test set, on which every model is perfect."""
    with pytest.raises(ValueError, match=message):
        split_clips(clips, **arguments)
