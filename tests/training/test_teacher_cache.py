"""Distributions of a teacher that are cut and kept: what they leave of the divergence, and when they are asked anew."""

import json

import pytest
import torch
from models import save_whisper
from programs import TINY, short_processor, speech_folder
from safetensors.torch import load_file, save_file
from tiny import tiny_processor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.cli import main
from distil_whisper_hf.training.expert_arguments import ExpertArguments, open_teacher
from distil_whisper_hf.training.losses import distillation
from distil_whisper_hf.training.teacher import Teacher
from distil_whisper_hf.training.teacher_cache import CachedTeacher, TeacherCache
from distil_whisper_hf.training.top_tokens import TopTokens, top_distillation

BATCH, TOKENS, VOCABULARY = 3, 7, 50


def drawn(seed: int = 0, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(BATCH, TOKENS, VOCABULARY, generator=generator) for _ in range(2))
    labels = torch.randint(0, VOCABULARY, (BATCH, TOKENS), generator=generator)
    labels[0, 5:] = -100
    return student.requires_grad_(), teacher, labels


def cut(teacher: torch.Tensor, labels: torch.Tensor, k: int) -> TopTokens:
    return TopTokens.of(teacher[labels != -100], k)


@pytest.mark.parametrize("divergence", ["kl", "js"])
def test_all_tokens_are_the_teacher_itself(divergence):
    """Silent: another loss, or another gradient, where nothing was cut."""
    student, teacher, labels = drawn()
    whole = distillation(student, teacher, labels, divergence=divergence, temperature=1.0)
    top = top_distillation(student, cut(teacher, labels, VOCABULARY), labels, divergence=divergence)
    assert top.item() == pytest.approx(whole.item(), abs=1e-6)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (whole, top)]
    assert torch.allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("divergence", ["kl", "js"])
@pytest.mark.parametrize("k", [1, 4, 20, 49])
def test_cut_distributions_have_the_divergence_of_their_sums(divergence, k):
    """Silent: a rest that is dropped, scaled away, or counted twice."""
    student, teacher, labels = drawn(k)
    total = 0.0
    for s, t in zip(student[labels != -100].double(), teacher[labels != -100].double(), strict=True):
        s, t = s.softmax(-1), t.softmax(-1)
        ids = t.topk(k).indices
        s, t = (torch.cat([p[ids], (1 - p[ids].sum()).view(1)]) for p in (s, t))
        m = (s + t) / 2
        kl = (t * (t / s).log()).sum()
        total += (kl if divergence == "kl" else ((t * (t / m).log()).sum() + (s * (s / m).log()).sum()) / 2).item()
    found = top_distillation(student, cut(teacher, labels, k), labels, divergence=divergence).item()
    assert found == pytest.approx(total / int((labels != -100).sum()), abs=1e-5)
    whole = distillation(student, teacher, labels, divergence=divergence, temperature=1.0).item()
    # Adding up never adds: the documented sign of the bias.
    assert found <= whole + 1e-6


def test_the_bias_is_the_divergence_inside_the_rest():
    """Silent: a bias that is more than what is documented."""
    student, teacher, labels = drawn(3)
    s, t = (one[labels != -100].double().softmax(-1) for one in (student, teacher))
    ids = t.topk(8, dim=-1).indices
    inside = 0.0
    for p, q, kept in zip(t, s, ids, strict=True):
        others = torch.ones(VOCABULARY, dtype=torch.bool)
        others[kept] = False
        p, q = p[others], q[others]
        inside += (p * ((p / p.sum()) / (q / q.sum())).log()).sum().item()
    whole = distillation(student, teacher, labels, divergence="kl", temperature=1.0).item()
    found = top_distillation(student, cut(teacher, labels, 8), labels, divergence="kl").item()
    assert whole - found == pytest.approx(inside / len(s), abs=1e-5)


def test_a_sure_teacher_stays_finite():
    """Silent: a rest of probability 0 that makes a run nan."""
    student, teacher, labels = drawn(scale=0.1)
    teacher[..., 0] += 500.0
    for divergence in ("kl", "js"):
        loss = top_distillation(student, cut(teacher, labels, 4), labels, divergence=divergence)
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


def test_what_is_kept_takes_258_bytes_a_token(tmp_path):
    """Silent: a cache that fills a disk, or loses more of a distribution than float16 does."""
    teacher = torch.randn(100, 51865, generator=torch.Generator().manual_seed(0)) * 3
    top = TopTokens.of(teacher, 64)
    cache = TeacherCache(tmp_path)
    cache.put("ab" * 32, top)
    (path,) = tmp_path.rglob("*.safetensors")
    assert 258 * 100 < path.stat().st_size < 258 * 100 + 600
    again = cache.get("ab" * 32)
    assert torch.equal(again.ids, top.ids)
    assert torch.allclose(again.log_probs, top.log_probs, rtol=1e-3, atol=0)
    assert torch.allclose(again.rest, top.rest, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A student, a live teacher of its vocabulary, and a batch."""
    folder = tmp_path_factory.mktemp("taught")
    sizes = {"max_source_positions": 100, "encoder_layers": 1, "decoder_layers": 2}
    for seed, name in enumerate(("student", "teacher")):
        save_whisper(folder / name, seed=seed, **sizes)
        short_processor().save_pretrained(folder / name)
    student = DistilWhisperForConditionalGeneration.from_pretrained(folder / "student")
    teacher = Teacher.from_pretrained(folder / "teacher", student=student, student_processor=short_processor())
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 80, 200, generator=generator)
    labels = torch.randint(0, 300, (3, 6), generator=generator)
    labels[1, 3:] = -100
    return teacher, features, labels


def test_a_teacher_is_asked_once(taught, tmp_path):
    """Silent: rows that get each other's distributions; a cache that never hits, or hits for other targets."""
    teacher, features, labels = taught
    cached = CachedTeacher(teacher, tmp_path, k=8)
    first = cached(features, labels, ["a", "b", "c"])
    assert (cached.asked, cached.found) == (3, 0)
    wanted = TopTokens.of(teacher(features, labels)[labels != -100], 8)
    assert torch.equal(first.ids, wanted.ids) and torch.allclose(first.log_probs, wanted.log_probs)
    again = cached(features[[2, 0]], labels[[2, 0]], ["c", "a"])
    assert (cached.asked, cached.found) == (3, 2)
    order = [*range(9, 15), *range(6)]
    assert torch.equal(again.ids, wanted.ids[order]) and torch.allclose(
        again.log_probs, wanted.log_probs[order], rtol=1e-3
    )
    cached(features[:1], labels[:1], ["another clip"])
    other = labels.clone()
    other[0, 0] += 1
    cached(features[:1], other[:1], ["a"])
    assert cached.asked == 5
    # Without a digest of the audio, by the features themselves.
    for _ in range(2):
        cached(features, labels)
    assert (cached.asked, cached.found) == (8, 5)
    cached(features + 1, labels)
    assert cached.asked == 11
    assert CachedTeacher(teacher, tmp_path, k=9).key(labels[0], features[0], "a") != cached.key(
        labels[0], features[0], "a"
    )


def test_another_teacher_is_asked_itself(taught, tmp_path):
    """Silent: a teacher that was trained further, or opened in half precision, whose old answers are taken."""
    teacher, features, labels = taught
    before = CachedTeacher(teacher, tmp_path).key(labels[0], features[0], "a")
    with torch.no_grad():
        teacher.model.model.decoder.layers[0].fc1.weight += 1e-3
        moved = CachedTeacher(teacher, tmp_path).key(labels[0], features[0], "a")
        teacher.model.model.decoder.layers[0].fc1.weight -= 1e-3
    half = teacher.model.to(torch.bfloat16)
    other = CachedTeacher(teacher, tmp_path).key(labels[0], features[0], "a")
    half.to(torch.float32)
    assert len({before, moved, other}) == 3


@pytest.mark.parametrize("damage", ["bytes", "values", "name", "cut"])
def test_a_damaged_or_foreign_entry_is_made_again(taught, tmp_path, damage):
    """Silent: an expert that learns from noise."""
    teacher, features, labels = taught
    cached = CachedTeacher(teacher, tmp_path, k=8)
    first = cached(features, labels, ["a", "b", "c"])
    paths = sorted(tmp_path.rglob("*.safetensors"))
    before = paths[0].read_bytes()
    if damage == "bytes":
        paths[0].write_bytes(before[:-3] + b"xyz")
    elif damage == "values":
        tensors = load_file(paths[0])
        save_file({**tensors, "rest": tensors["rest"] + 1}, paths[0], metadata={"key": paths[0].stem, "sha256": "0"})
    elif damage == "name":
        paths[0].write_bytes(paths[1].read_bytes())
    else:
        paths[0].write_bytes(before[:100])
    again = cached(features, labels, ["a", "b", "c"])
    assert (cached.asked, cached.found) == (4, 2)
    assert torch.equal(again.ids, first.ids) and torch.allclose(again.log_probs, first.log_probs, rtol=1e-3)
    # It is whole again: nothing is asked for a third time.
    cached(features, labels, ["a", "b", "c"])
    assert cached.asked == 4


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Student, teacher of 128 mel bins, and speech."""
    folder = tmp_path_factory.mktemp("teach")
    sizes = {"max_source_positions": 100, "encoder_layers": 1, "decoder_layers": 2}
    save_whisper(folder / "base", **sizes)
    short_processor().save_pretrained(folder / "base")
    save_whisper(folder / "teacher", seed=1, num_mel_bins=128, **sizes)
    processor = tiny_processor(128)
    processor.feature_extractor = type(processor.feature_extractor)(feature_size=128, chunk_length=2)
    processor.save_pretrained(folder / "teacher")
    speech_folder(folder / "catalan", "ca")
    return folder


def words(speech, output, *more: str) -> list[str]:
    return ["--model", str(speech / "base"), "--teacher", str(speech / "teacher"), "--data", str(speech / "catalan"),
            "--language", "ca", "--where", "suspect=0", "--output_dir", str(output), "--join_seconds", "1.5", *TINY,
            "--max_steps", "6", "--test", "none", "--expert_rank", "2", *more]  # fmt: skip


def test_training_on_what_a_teacher_said_is_training_with_it(speech, tmp_path, capsys, monkeypatch):
    """Silent: another expert by a cache that keeps everything; a teacher that is asked although it was."""
    assert main(["train", *words(speech, tmp_path / "live")]) == 0
    cache = ["--teacher_cache", str(tmp_path / "cache"), "--teacher_top", "100000"]
    assert main(["teach", *words(speech, tmp_path / "nothing", *cache)]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert "0 were kept already" in printed and not (tmp_path / "nothing").exists()
    assert main(["teach", *words(speech, tmp_path / "nothing", *cache)]) == 0
    assert " 0 were asked for" in capsys.readouterr().out.splitlines()[-1]

    def never(*_):
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(Teacher, "__call__", never)
    assert main(["train", *words(speech, tmp_path / "kept", *cache)]) == 0
    live, kept = (load_file(tmp_path / name / "expert.ca.safetensors") for name in ("live", "kept"))
    assert all(torch.allclose(live[key], kept[key], atol=1e-4) for key in live)
    training = json.loads((tmp_path / "kept/config.json").read_text())["language_experts"]["ca"]["training"]
    assert training["teacher"] == "teacher"


def test_a_cache_without_a_teacher_is_refused():
    """Silent: a folder that somebody named and that nothing reads."""
    with pytest.raises(ValueError, match="--teacher with --teacher_cache"):
        open_teacher(ExpertArguments(teacher_cache="cache"), None, None)


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("teach", [], "--teacher_cache FOLDER"),
        ("train", ["--teacher_cache", "cache", "--temperature", "2"], "temperature 1"),
        ("train", ["--teacher_cache", "cache", "--teacher_top", "0"], "at least 1"),
        ("train", ["--teacher_cache", "cache", "--teacher", "base"], "student's own"),
    ],
)
def test_what_a_cache_cannot_do_is_said(speech, tmp_path, capsys, monkeypatch, command, more, said):
    monkeypatch.chdir(tmp_path)
    assert main([command, *words(speech, tmp_path / "out", *more)]) == 2
    assert said in capsys.readouterr().err
