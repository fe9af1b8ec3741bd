"""bfloat16 on a CPU that has no instructions for it."""

from __future__ import annotations

import logging

import pytest
import torch
from models import tiny_config
from transformers import WhisperForConditionalGeneration

from distil_whisper_hf import cpu_precision
from distil_whisper_hf.cpu_precision import computing_dtype, has_fast_bfloat16
from distil_whisper_hf.evaluation.systems.quantization import convert
from distil_whisper_hf.training.arguments import SpeechTrainingArguments


@pytest.fixture
def cpu(monkeypatch):
    """A CPU with these capabilities; a warning that was given before is given again."""

    def with_capabilities(*names: str, onednn: bool = True) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True) | {"avx512_fp16": False})
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)

    cpu_precision.warn_once.cache_clear()
    return with_capabilities


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        (("avx2", "avx512_f", "avx512_bf16"), True),
        (("amx_bf16",), True),
        (("neon", "bf16"), True),
        (("avx2",), False),
        (("avx2", "avx512_f", "avx512_bw", "avx512_vnni"), False),
        (("neon",), False),
        ((), False),
    ],
)
def test_a_cpu_is_fast_if_it_says_so(cpu, capabilities, fast) -> None:
    """Prevents hours in place of minutes on a CPU that emulates; a GPU is not asked."""
    cpu(*capabilities)
    assert has_fast_bfloat16("cpu") is fast and has_fast_bfloat16("cuda:0")
    cpu(*capabilities, onednn=False)
    assert not has_fast_bfloat16("cpu")


def test_a_slow_cpu_computes_in_float32_and_says_so_once(cpu, tmp_path, caplog) -> None:
    """Prevents a run that takes tens of times as long as it has to, and a warning for every batch."""
    cpu("avx2")
    arguments = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none"}
    training = SpeechTrainingArguments(**arguments, bf16=True, bf16_full_eval=True)
    assert not training.bf16 and not training.bf16_full_eval
    for asked in (torch.bfloat16, torch.float16, torch.float32):
        assert computing_dtype(asked, "cpu") == (torch.float32 if asked == torch.bfloat16 else asked)
        assert computing_dtype(asked, "cuda") == asked
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "computing in float32" in caplog.text
    cpu("avx512_bf16")
    assert SpeechTrainingArguments(**arguments, bf16=True).bf16
    assert computing_dtype(torch.bfloat16, "cpu") == torch.bfloat16


def test_a_precision_that_is_measured_stays_what_it_is(cpu, caplog) -> None:
    """Prevents the figures of float32 under the name of bfloat16."""
    cpu("avx2")
    for _ in range(2):
        model = convert(WhisperForConditionalGeneration(tiny_config()), "bfloat16")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert caplog.text.count("measured as asked for") == 1
