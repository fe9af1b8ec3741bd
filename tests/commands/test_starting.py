"""What is refused before a run begins, and what a dry run says."""

import json
import shutil

import pytest
from models import save_whisper
from speech_files import write
from tiny import tiny_tokenizer
from transformers import WhisperFeatureExtractor, WhisperProcessor

from distil_whisper_hf.commands import output_folders, starting
from distil_whisper_hf.configuration_distil_whisper import DistilWhisperConfig
from distil_whisper_hf.expert_form import ExpertForm


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = save_whisper(tmp_path_factory.mktemp("base"), max_source_positions=100)
    WhisperProcessor(WhisperFeatureExtractor(chunk_length=2), tiny_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech") / "calls"
    for number in range(12):
        write(folder / f"clip{number}.wav", 0.4, hertz=200 + 40 * number)
    rows = "".join(f"clip{number}.wav,text {number},s{number % 3}\n" for number in range(12))
    (folder / "metadata.csv").write_text(f"file_name,text,speaker\n{rows}gone.wav,lost,s0\n")
    return folder


def words(program, base, speech, output, *more):
    method = ["--distillation", "none"] if program == "train" else []
    data = ["--model", str(base), "--data", str(speech), "--language", "ca", "--output_dir", str(output)]
    steps = ["--max_steps", "1", "--use_cpu", "--report_to", "none", "--save_strategy", "no"]
    return [program, *data, *method, *steps, *more]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--test_max_new_tokens", "448"], "between 1 and 444"),
        (["--join_seconds", "28"], "at most the model's window of 2 s"),
        (["--test_limit", "0"], "test_limit must be at least 1"),
        (["--distillation", "js"], "Name a teacher"),
        (["--teacher", "base"], "--distillation none"),
        (["--test_only"], "Expected weights to test"),
        (["--streaming", "--max_steps", "-1"], "--max_steps 1000"),
    ],
)
def test_what_a_run_would_fail_by_at_its_end_is_refused_first(base, speech, tmp_path, refused, more, said):
    """Silent: hours of training lost to a number that was wrong from the start."""
    message = refused(words("train", base, speech, tmp_path / "out", *more))
    assert said in message and not (tmp_path / "out").exists()


def test_a_folder_with_a_base_in_it_is_refused_first(base, speech, tmp_path, refused):
    """Silent: a run that trains to its end, and then may not save beside the weights that lie there."""
    shutil.copy(base / "model.safetensors", tmp_path)
    assert "holds a whole model (model.safetensors)" in refused(words("train", base, speech, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(words("train", base, speech, tmp_path / "file"))


def test_a_path_that_is_not_there_is_not_asked_of_the_hub(base, speech, tmp_path, refused):
    """Silent: a slip in a folder's name answered by a wait for the network."""
    place = str(tmp_path / "nothing" / "here")
    for flag in ("--data", "--test_data", "--model"):
        message = refused(words("train", base, speech, tmp_path / "out", flag, place))
        assert "does not exist" in message and place in message
    message = refused(words("train", base, speech, tmp_path / "out", "--distillation", "js", "--teacher", place))
    assert "does not exist" in message and "(--teacher)" in message
    message = refused(words("train", base, speech, tmp_path / "out", "--data", str(speech) + "x"))
    assert "does not exist" in message and str(speech) in message


def test_a_full_disk_is_found_before_training(base, speech, tmp_path, refused, monkeypatch):
    """Silent: a checkpoint that cannot be written, hours later."""
    monkeypatch.setattr(output_folders.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 9, 9))
    message = refused(words("train", base, speech, tmp_path / "out"))
    assert "free for 1 experts and 0 checkpoints" in message


def test_room_is_counted_for_experts_and_their_optimiser(base):
    """Silent: an estimate that forgets a side, or AdamW's moments."""
    config = DistilWhisperConfig.from_pretrained(base)
    encoder = starting.expert_bytes(config, form=ExpertForm("encoder"), checkpoints=0)
    layer = 2 * 64 * 96 + 96 + 64 + 64 * 64 + 64 + 64
    assert encoder == 4 * 2 * layer
    both = starting.expert_bytes(config, form=ExpertForm(), checkpoints=0)
    assert both == encoder + starting.expert_bytes(config, form=ExpertForm("decoder"), checkpoints=0)
    assert starting.expert_bytes(config, form=ExpertForm(), checkpoints=2) == both * (4 + 2 * 12) // 4


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--resamples", "10"], "at least 100 resamples"),
        (["--max-new-tokens", "448"], "between 1 and 444"),
        (["--cost-clips", "0"], "cost_clips of at least 1"),
        (["--batch-size", "0"], "batch_size of at least 1"),
    ],
)
def test_an_evaluation_that_could_not_end_does_not_begin(base, speech, tmp_path, refused, more, said):
    """Silent: a report that fails after every clip has been transcribed."""
    data = ["--systems", str(base), "--data", str(speech), "--language", "ca", "--output", str(tmp_path / "out")]
    assert said in refused(["evaluate", *data, *more])
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    """Silent: an ImportError out of the middle of an evaluation."""
    monkeypatch.setattr(starting, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'Expected torchao for int8: .*pip install "distil_whisper_hf\[quant\]"'):
        starting.check_libraries(["torchao"], what="int8")


def test_a_dry_run_shows_what_would_be_trained_on(base, speech, tmp_path, capsys):
    """Silent: a preview that trains, or shows other rows than training would take."""
    from distil_whisper_hf.cli import main

    output, far = tmp_path / "out", tmp_path / "far"
    write(far / "clip.wav", 0.3, hertz=900.0)
    (far / "metadata.csv").write_text("file_name,text,language\nclip.wav,far away,ca\n")
    assert main(words("train", base, speech, output, "--dry_run", "--test_data", str(far))) == 0
    printed = capsys.readouterr().out
    assert "1 missing" in printed and "3 speakers" in printed and "test set far (out of domain): 1 clips" in printed
    assert printed.count("(0.40 s, expert ca)") == 5
    assert "<|ca|><|transcribe|><|notimestamps|> text " in printed and "<|endoftext|>" in printed
    assert sorted(path.name for path in output.iterdir()) == ["notes.jsonl", "rejections.jsonl", "splits.json"]
    first = json.loads((output / "splits.json").read_text())["train"][:5]
    assert all(f"  {name} (" in printed for name in first)


def test_a_dry_run_of_an_evaluation_opens_no_model(base, speech, tmp_path, capsys):
    """Silent: a preview that transcribes."""
    from distil_whisper_hf.cli import main

    data = ["--systems", str(base), "--data", str(speech), "--language", "ca", "--output", str(tmp_path / "out")]
    assert main(["evaluate", *data, "--limit", "4", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "calls: 4 clips" in printed and "chosen of 13" in printed and "(ca, 0.40 s): text" in printed
    assert not (tmp_path / "out").exists()
