"""`distil-whisper train` and `baseline` from a folder of sound files to scores, at tiny settings."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from programs import TINY, speech_folder
from safetensors.torch import load_file
from speech_files import write
from tiny import tiny_tokenizer
from transformers import WhisperFeatureExtractor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main
from distil_whisper_hf.commands.train import _experts
from distil_whisper_hf.data.arguments import DataArguments
from distil_whisper_hf.data.corpus import read_corpus
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.data.sources import read_source
from distil_whisper_hf.training.speech_trainer import SpeechTrainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def galician(tmp_path_factory) -> Path:
    return speech_folder(tmp_path_factory.mktemp("speech") / "galician", "gl", 10, hertz=210.0)


@pytest.fixture(scope="module")
def other_domain(tmp_path_factory) -> Path:
    """Catalan again; two of its clips are in the other folder too."""
    folder = speech_folder(tmp_path_factory.mktemp("speech") / "calls", "ca", 3, hertz=220.0)
    write(folder / "clip0.wav", 0.3, hertz=200.0)
    write(folder / "clip1.wav", 0.4, hertz=230.0)
    return folder


def test_two_languages_from_folders_to_scores(base, catalan, galician, other_domain, tmp_path, capsys):
    """Silent: a program that trains, and whose outcome, splits, rejections or scores nobody can use."""
    output = tmp_path / "out"
    words = ["train", "--model", str(base), "--teacher", "base", "--data", str(catalan), str(galician), "--where",
             "suspect=0", "--test_data", str(other_domain), "--output_dir", str(output), "--join_seconds", "2",
             *TINY]  # fmt: skip
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "25 clips" in printed and "3 empty_text, 3 unreadable, 3 too_long" in printed
    assert "test and train share no clip" in printed
    rejected = [json.loads(line) for line in (output / "rejections.jsonl").read_text().splitlines()]
    assert sorted({entry["reason"] for entry in rejected}) == ["empty_text", "too_long", "unreadable"]
    splits = json.loads((output / "splits.json").read_text())
    assert sorted(splits["test_sets"]) == ["calls", "catalan", "galician"]
    shared = {"clip0.wav", "clip1.wav"}
    assert len(splits["dropped"]) + len(shared & set(splits["test_sets"]["catalan"])) == 2
    results = json.loads((output / "scores.json").read_text())
    cells = {(row["system"], row["dataset"], row["domain"], row["language"]) for row in results["rows"]}
    expected = {("catalan", "in", "ca"), ("galician", "in", "gl"), ("calls", "out", "ca")}
    assert cells == {(system, *cell) for system in ("whisper", "experts-js") for cell in expected}
    assert sorted(results["gates"]) == ["ca", "gl"]
    assert [len(results["gates"]["ca"][side]) for side in ("encoder", "decoder")] == [2, 3]
    assert results["command"].startswith("distil-whisper train --model")
    (output / "scores.json").unlink()
    assert main([*words, "--test_only"]) == 0
    again = json.loads((output / "scores.json").read_text())
    assert (again["rows"], again["seconds"]) == (results["rows"], results["seconds"])
    model = DistilWhisperForConditionalGeneration.from_pretrained(output)
    assert model.expert_names == ("ca", "gl")
    training = model.config.language_experts["ca"]["training"]
    assert (training["distillation"], training["teacher"], training["steps"]) == ("js", "base", 2)


@pytest.mark.parametrize("program", ["train", "baseline"])
@pytest.mark.parametrize(("choice", "begins_with"), [("never", "t"), ("as_whisper", "Ġ")])
def test_the_leading_space_is_trained_as_it_is_counted(
    base, catalan, tmp_path, monkeypatch, program, choice, begins_with
):
    """Silent: a flag that screening obeys and training does not, in every recipe of the paper."""
    seen = []
    batch = SpeechTrainer._batch

    def recorded(trainer, inputs):
        seen.append(inputs["labels"])
        return batch(trainer, inputs)

    monkeypatch.setattr(SpeechTrainer, "_batch", recorded)
    method = ["--distillation", "none"] if program == "train" else []
    words = [program, "--model", str(base), *method, "--data", str(catalan), "--leading_space", choice]
    assert main([*words, "--output_dir", str(tmp_path / "out"), "--test", "none", *TINY]) == 0
    # The first token of the text, behind language, task and no timestamps.
    first = {token for labels in seen for token in tiny_tokenizer().convert_ids_to_tokens(labels[:, 3].tolist())}
    assert first == {begins_with}


def test_a_limit_means_the_same_clips_in_every_program(base, catalan, other_domain, tmp_path):
    """Silent: scores of a run and of an evaluation that are of other clips, under one number."""
    run, report = tmp_path / "run", tmp_path / "report"
    folder = speech_folder(tmp_path / "far", "ca", 9, hertz=500.0)
    words = ["train", "--model", str(base), "--distillation", "none", "--data", str(catalan), "--test_data",
             str(folder), "--test_limit", "4", "--where", "suspect=0", "--test", "trained"]  # fmt: skip
    assert main([*words, "--output_dir", str(run), *TINY]) == 0
    trained = json.loads((run / "scores.json").read_text())["transcripts"]["far"]["ids"]
    words = ["evaluate", "--systems", str(base), "--data", str(folder), "--limit", "4", "--where", "suspect=0"]
    assert main([*words, "--no-cost", "--max-new-tokens", "2", "--quiet", "--output", str(report)]) == 0
    lines = (report / "scores.jsonl").read_text().splitlines()
    evaluated = [json.loads(line)["id"].partition(":")[2] for line in lines]
    # What cannot be trained on: broken, too long, the second row of a clip, which says nothing.
    unusable = {"broken.wav", "long.wav", "clip0.wav#2"}
    assert len(evaluated) == 4 and [name for name in evaluated if name not in unusable] == trained


def test_streamed_clips_train_without_a_download(base, catalan, other_domain, tmp_path, refused):
    """Silent: a stream that is loaded whole, screened by nobody, or prompted in no language."""
    from datasets import Audio, Dataset

    with open(catalan / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sounds = [{"path": row["file_name"], "bytes": (catalan / row["file_name"]).read_bytes()} for row in rows]
    table = Dataset.from_dict({"audio": sounds, "text": [row["text"] for row in rows]})
    table.cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "hub" / "train.parquet")
    output = tmp_path / "out"
    words = ["train", "--model", str(base), "--distillation", "none", "--data", str(tmp_path / "hub"), "--streaming",
             "--language", "ca", "--test_data", str(other_domain), "--output_dir", str(output), "--test", "trained",
             "--expert_sides", "encoder", *TINY, "--max_steps", "10"]  # fmt: skip
    assert main(words) == 0
    rejected = [json.loads(line) for line in (output / "rejections.jsonl").read_text().splitlines()]
    assert {entry["reason"] for entry in rejected} >= {"empty_text", "too_long", "unreadable"}
    scores = json.loads((output / "scores.json").read_text())
    assert {row["dataset"] for row in scores["rows"]} == {"calls"} and sorted(scores["gates"]) == ["ca"]
    assert {key.split(".")[0] for key in load_file(output / "expert.ca.safetensors")} == {"encoder"}
    assert scores["gates"]["ca"]["decoder"] == [0.0, 0.0, 0.0]
    message = refused([*(word for word in words if word not in ("--language", "ca")), "--overwrite"])
    assert "Expected the language of every streamed source" in message


@pytest.mark.parametrize("method", ["full", "lora"])
def test_baselines_from_folder_to_scores(base, catalan, tmp_path, method):
    """Silent: a baseline that is saved in a form which its own test does not open."""
    output = tmp_path / "out"
    words = ["baseline", "--method", method, "--model", str(base), "--data", str(catalan), "--where", "suspect=0",
             "--output_dir", str(output), "--lora_rank", "4", *TINY]  # fmt: skip
    assert main(words) == 0
    results = json.loads((output / "scores.json").read_text())
    assert [row["system"] for row in results["rows"]] == ["whisper", method]
    weights = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert (output / weights).is_file()
    whole = sum(p.numel() for p in DistilWhisperForConditionalGeneration.from_pretrained(base).parameters())
    assert (results["trained_parameters"] < whole / 10) == (method == "lora")


KILLED = """
import os, signal, sys, torch
saves = []
save = torch.save
def killing(content, target, *args, **kwargs):
    if str(target).endswith("scheduler.pt") and len(saves) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    saves.extend([target] * str(target).endswith("scheduler.pt"))
    return save(content, target, *args, **kwargs)
torch.save = killing
from distil_whisper_hf.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_while_saving_it_resumes_to_the_same_expert(base, catalan, tmp_path):
    """Silent: a half-written checkpoint taken for whole, or a resumed run that ends elsewhere."""
    words = ["train", "--model", str(base), "--distillation", "none", "--data", str(catalan), "--where", "suspect=0",
             *TINY, "--max_steps", "5", "--save_strategy", "steps", "--save_steps", "2", "--test", "none"]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*words, "--output_dir", str(whole)]) == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, *words, "--output_dir", str(killed)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
    assert [path.name for path in killed.glob("checkpoint-*")] == ["checkpoint-2"]
    assert (killed / ".part-checkpoint" / "checkpoint-4").is_dir()
    assert main([*words, "--output_dir", str(killed), "--resume"]) == 0
    assert (killed / "expert.ca.safetensors").read_bytes() == (whole / "expert.ca.safetensors").read_bytes()
    assert not list(killed.glob(".part-*"))


def test_windows_cannot_be_overfilled(base, catalan, tmp_path, refused):
    """Silent: joined clips that are all unreadable for a model with short windows."""
    words = ["train", "--model", str(base), "--distillation", "none", "--data", str(catalan), "--where", "suspect=0",
             "--output_dir", str(tmp_path / "out"), "--join_seconds", "28", *TINY]  # fmt: skip
    assert "join_seconds must be at most the model's window of 2 s" in refused(words)


@pytest.mark.parametrize("program", ["train", "baseline"])
def test_what_was_left_out_is_there_when_a_run_does_not_begin(base, tmp_path, refused, program):
    """Silent: a sentence about splits or an empty data set, where no file of the table is where it says."""
    (tmp_path / "lost.csv").write_text("file_name,text\n" + "".join(f"nowhere/{n}.wav,text {n}\n" for n in range(5)))
    method = ["--distillation", "none"] if program == "train" else ["--method", "full"]
    words = [program, "--model", str(base), *method, "--data", str(tmp_path / "lost.csv"), "--language", "ca",
             "--output_dir", str(tmp_path / "out"), *TINY]  # fmt: skip
    assert "5 were left out: 5 missing (row 1 of lost.csv: There is no file" in refused(words)
    written = [json.loads(line) for line in (tmp_path / "out" / "rejections.jsonl").read_text().splitlines()]
    assert [(one["row"], one["reason"]) for one in written] == [(n, "missing") for n in range(1, 6)]
    assert not list((tmp_path / "out").glob(".*"))


class TestSources:
    """What `--data` may be."""

    @pytest.fixture
    def labels(self):
        return LabelBuilder(tiny_tokenizer())

    def read(self, labels, *data, test_limit=None, **changes):
        arguments = DataArguments(data=[str(one) for one in data], **changes)
        return read_corpus(arguments, labels, WhisperFeatureExtractor(chunk_length=2), test_limit=test_limit)

    def test_speakers_can_be_kept_apart(self, catalan, labels):
        """Silent: a test score on speakers that were trained on."""
        speech = self.read(labels, catalan, where=["suspect=0"], split_by="speaker", dev_share=0.2, test_share=0.2)
        speakers = [{clip.speaker for clip in getattr(speech.splits, name)} for name in ("train", "dev", "test")]
        assert all(speakers) and not speakers[0] & (speakers[1] | speakers[2])

    def test_given_splits_are_taken(self, catalan, tmp_path, labels):
        """Silent: a source's own test set dealt out to training."""
        with open(catalan / "metadata.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))[:12]
        with open(catalan / "given.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "text", "language", "split"])
            for number, row in enumerate(rows):
                writer.writerow([row["file_name"], row["text"], "ca", "test" if number < 4 else "train"])
        speech = self.read(labels, catalan / "given.csv", split_by="given", dev_share=0.2)
        assert [clip.id for clip in speech.splits.test] == [row["file_name"] for row in rows[:4]]
        assert len(speech.splits.train) + len(speech.splits.dev) == 8 and speech.splits.dev
        with pytest.raises(ValueError, match="has no column `split`"):
            self.read(labels, catalan, split_by="given")

    def test_common_voice_keeps_its_tables_and_its_best_clips(self, tmp_path, labels):
        """Silent: subsets that are not the paper's, or test clips among them."""
        (tmp_path / "clips").mkdir()
        for split, numbers in (("train", range(6)), ("dev", range(6, 8)), ("test", range(8, 10))):
            lines = ["client_id\tpath\tsentence\tup_votes\tdown_votes\tgender\tage\tlocale"]
            for number in numbers:
                write(tmp_path / "clips" / f"{number}.mp3", 0.5, hertz=200 + 40 * number)
                lines.append(f"s\t{number}.mp3\ttext {number}\t{number}\t0\tfemale_feminine\ttwenties\tca")
            (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        speech = self.read(labels, tmp_path, split_by="given", subset=3)
        assert sorted(clip.id for clip in speech.splits.train) == ["3.mp3", "4.mp3", "5.mp3"]
        assert [clip.id for clip in speech.splits.test] == ["8.mp3", "9.mp3"]

    def test_what_is_trained_on_does_not_depend_on_how_much_is_tested(self, catalan, tmp_path, labels):
        """Silent: clips of a test set that a limit leaves unscored among those that are trained on."""
        with open(catalan / "metadata.csv", encoding="utf-8", newline="") as file:
            rows = [[row["file_name"], row["text"], "ca"] for row in list(csv.DictReader(file))[:6]]
        with open(catalan / "other.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["file_name", "text", "language"], *rows])
        read = [
            self.read(labels, catalan, where=["suspect=0"], test_data=[str(catalan / "other.csv")], test_limit=limit)
            for limit in (2, None)
        ]
        assert [len(speech.test_sets["other"]) for speech in read] == [2, 6]
        assert read[0].splits.train == read[1].splits.train
        assert not {row[0] for row in rows} & {clip.id for clip in read[0].splits.train}

    def test_common_voice_without_clips_is_refused(self, tmp_path, labels):
        """Silent: no clips at all, where a table is empty, or only what listeners rejected was unpacked."""
        (tmp_path / "clips").mkdir()
        (tmp_path / "invalidated.tsv").write_text("client_id\tpath\tsentence\tlocale\ns\t1.mp3\tno\tca\n")
        with pytest.raises(ValueError, match=r"Expected train\.tsv, .* found invalidated\.tsv: call one so"):
            self.read(labels, tmp_path)
        (tmp_path / "validated.tsv").write_text("client_id\tpath\tsentence\n")
        with pytest.raises(ValueError, match=r"Expected rows in .*, found none"):
            self.read(labels, tmp_path)

    def test_flags_that_name_nothing_are_refused(self):
        """Silent: a sentence of Python's about dictionaries and zips."""
        with pytest.raises(ValueError, match="Expected COLUMN=VALUE in --where, got 'suspect'"):
            DataArguments(where=["suspect"])
        with pytest.raises(ValueError, match="Expected one to three names in --dataset_splits, got 4"):
            DataArguments(dataset_splits=["train", "dev", "test", "other"])
        (stream,) = DataArguments(data=["user/set"], dataset_splits=["training"]).sources()
        assert stream.hub_splits == {"train": "training"}
        with pytest.raises(ValueError, match="calls its test split, got training: --dataset_splits names them"):
            read_source(stream, split="test")

    def test_wrong_numbers_of_languages_are_refused(self, catalan, galician, labels):
        """Silent: a language given to the wrong source."""
        with pytest.raises(ValueError, match="Expected one language for all 1 sources or one for each, got 2"):
            self.read(labels, catalan, language=["ca", "gl"])
        with pytest.raises(ValueError, match="at least one source of speech"):
            self.read(labels)


def test_streamed_experts_go_by_the_code_of_their_language() -> None:
    """Silent: `--language Catalan` on a stream making an expert "Catalan", which no Catalan clip takes."""
    arguments = DataArguments(data=["one", "two"], language=["Catalan", "it_it"], streaming=True)
    assert _experts(arguments, []) == [("ca", "ca"), ("it", "it")]
    arguments.expert, arguments.language = ["sc"], ["Italian"]
    arguments.data = ["one"]
    assert _experts(arguments, []) == [("sc", "it")]
