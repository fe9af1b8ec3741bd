"""`distil-whisper transcribe`: what it writes, what it leaves alone, what it says of bad input."""

import json
import sys

import pytest
import soundfile
from models import generation_config, save_whisper, with_experts
from speech_files import tone, write
from tiny import tiny_tokenizer
from transformers import WhisperFeatureExtractor, WhisperProcessor

from distil_whisper_hf.cli import main

ENDINGS = ["json", "srt", "tsv", "txt", "vtt"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A base with windows of one second, and a folder with its expert of Catalan."""
    folder = tmp_path_factory.mktemp("models")
    base = save_whisper(folder / "base", max_source_positions=50, max_target_positions=24)
    WhisperProcessor(WhisperFeatureExtractor(chunk_length=1), tiny_tokenizer()).save_pretrained(base)
    config = generation_config()
    config.max_length = 24
    config.save_pretrained(base)
    with_experts(base, "ca").save_expert("ca", folder / "experts")
    return ["--model", str(base), "--experts", str(folder / "experts")]


@pytest.fixture
def run(model, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        plain = ["--temperature_increment_on_fallback", "None"]
        status = main(["transcribe", *map(str, words), *model, *plain])
        return status, *capsys.readouterr()

    return call


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_transcribed_once(run, tmp_path):
    """Silent: work done twice, done recordings of other settings taken for these, files of other runs lost."""
    talks = tmp_path / "talks"
    write(talks / "one.wav", 1.2)
    write(talks / "below" / "two.flac", 0.7, rate=44100)
    (talks / "notes.md").write_text("no recording")
    out = tmp_path / "out"
    status, printed, _ = run(talks, "--language", "ca", "--output_dir", out)
    assert status == 0
    written = [f"{stem}.{ending}" for stem in ("below/two", "one") for ending in ENDINGS]
    assert names(out) == sorted([".transcribed.jsonl", *written])
    assert "one.wav: Catalan (given), expert ca (gates open: " in printed and "one.txt, one.vtt" in printed
    assert "2 recordings, 1.9 s of audio in " in printed and "real-time factor " in printed
    found = json.loads((out / "one.json").read_text())
    assert found["language"] == "ca" and found["expert"] == "ca" and found["duration"] == 1.2
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}

    status, printed, _ = run(talks, "--language", "ca", "--output_dir", out)
    assert status == 0 and printed == "2 of 2 recordings are transcribed already.\n"
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    # Other settings: refused by name, and only what they would write over.
    (out / "below" / "two.txt").unlink()
    status, _, said = run(talks, "--language", "en", "--output_dir", out, "--output_format", "txt")
    assert status == 1 and "one.txt" in said and "--overwrite" in said and "1 of 2 recordings could not" in said
    assert (out / "below" / "two.txt").exists() and json.loads((out / "one.json").read_text())["language"] == "ca"
    status, printed, _ = run(talks, "--language", "en", "--output_dir", out, "--overwrite")
    assert status == 0 and "English (given), plain Whisper" in printed
    assert json.loads((out / "one.json").read_text())["language"] == "en"
    # Another recording under the old name.
    write(talks / "one.wav", 0.6)
    assert run(talks, "--language", "en", "--output_dir", out)[0] == 1


def test_a_bad_recording_is_named_and_the_rest_goes_on(run, tmp_path):
    """Silent: a thousand recordings lost by one, or an exit status that says that all went well."""
    (tmp_path / "empty.mp3").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no sound at all")
    write(tmp_path / "good.ogg", 0.5)
    soundfile.write(tmp_path / "silent.wav", tone(0.0), 16000)
    files = [tmp_path / name for name in ("empty.mp3", "text.wav", "silent.wav", "good.ogg")]
    status, printed, said = run(*files, "--output_format", "srt")
    assert status == 1 and "good.ogg: " in printed and "(detected, " in printed
    for name in ("empty.mp3", "text.wav", "silent.wav"):
        (line,) = [line for line in said.splitlines() if f"{name}: Expected" in line]
        assert "Traceback" not in line
    assert said.splitlines()[-1].endswith("3 of 4 recordings could not be transcribed (see above).")
    assert {path.name for path in tmp_path.iterdir()} == {
        "empty.mp3", "text.wav", "silent.wav", "good.ogg", "good.srt", ".transcribed.jsonl"
    }  # fmt: skip


def test_recordings_of_one_name_stay_apart(run, tmp_path):
    """Silent: one transcript in place of two."""
    write(tmp_path / "a" / "talk.wav", 0.5)
    write(tmp_path / "a" / "talk.flac", 0.4)
    write(tmp_path / "b" / "talk.wav", 0.6)
    status, _, said = run("a/talk.wav", "b/talk.wav", "-o", "out")
    assert status == 2 and "different names" in said and not (tmp_path / "out").exists()
    assert run("a/*.*", "--language", "ca", "en", "-o", "out", "-f", "json")[0] == 0
    assert names(tmp_path / "out") == [".transcribed.jsonl", "talk.flac.json", "talk.wav.json"]
    found = [json.loads((tmp_path / "out" / f"talk.{one}.json").read_text()) for one in ("flac", "wav")]
    assert [(one["duration"], one["language"]) for one in found] == [(0.4, "ca"), (0.5, "en")]


def test_words_and_subtitles_are_laid_out(run, tmp_path):
    """Silent: flags of layout that do nothing."""
    write(tmp_path / "talk.wav", 0.9)
    words = ["--word_timestamps", "True", "--max_words_per_line", "1", "--highlight_words"]
    assert run("talk.wav", "-o", "out", "--language", "ca", *words)[0] == 0
    found = json.loads((tmp_path / "out" / "talk.json").read_text())
    assert all(segment["words"] for segment in found["segments"]) and found["segments"]
    assert (tmp_path / "out" / "talk.srt").read_text().count("<u>") >= 1


MISTAKES = {
    "nothing there": (["none.wav"], "'none.wav' does not exist"),
    "a folder without sound": (["empty"], "found none"),
    "a pattern without files": (["*.opus"], "found none"),
    "a layout without words": (["talk.wav", "--highlight_words"], "Expected --word_timestamps beside"),
    "lines without a width": (["talk.wav", "--word_timestamps", "--max_line_count", "2"], "max_line_width beside"),
    "no format": (["talk.wav", "--output_format", "doc"], "invalid choice: 'doc'"),
    "no language": (["talk.wav", "--language", "xyzzy"], "'xyzzy'"),
    "languages": (["talk.wav", "--language", "ca", "en"], "one for each of 1, got 2"),
    "no expert": (["talk.wav", "--expert", "xx"], "Expected a loaded expert, got 'xx'"),
    "no device": (["talk.wav", "--device", "abacus"], "Expected a device"),
    "no truth": (["talk.wav", "--vad_filter", "maybe"], "True or False"),
    "a file for a folder": (["talk.wav", "--output_dir", "talk.wav"], "is a file"),
    "no batch": (["talk.wav", "--batch_size", "0"], "batch size of at least 1"),
    "increment": (["talk.wav", "--temperature_increment_on_fallback", "-1"], "increment above 0"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(model, capsys, monkeypatch, tmp_path, case):
    """Silent: a traceback, or half of the work done before the mistake is found."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "talk.wav", 0.5)
    (tmp_path / "empty").mkdir()
    words, wanted = MISTAKES[case]
    assert main(["transcribe", *words, *model]) == 2
    printed, said = capsys.readouterr()
    assert wanted in said and said.count("\n") == 1 and printed == ""
    assert {path.name for path in tmp_path.iterdir()} == {"talk.wav", "empty"}


def test_a_missing_extra_is_named(model, capsys, monkeypatch, tmp_path):
    """Silent: a run of hours that fails at its first silence."""
    write(tmp_path / "talk.wav", 0.5)
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    words = [str(tmp_path / "talk.wav"), "--vad_filter", "--output_dir", str(tmp_path / "out")]
    assert main(["transcribe", *words, *model]) == 2
    assert "pip install" in capsys.readouterr().err and not (tmp_path / "out").exists()
