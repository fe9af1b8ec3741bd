"""Size, memory and time of systems."""

import sys

import pytest
import torch
from clips_of_tones import make_clip

from distil_whisper_hf.evaluation.systems.costs import (
    disk_bytes,
    measure_costs,
    reset_peak,
    resident_peak,
    weight_bytes,
)
from distil_whisper_hf.evaluation.systems.hypotheses import GenerationSettings
from distil_whisper_hf.evaluation.systems.opening import SystemSpec, open_system

SETTINGS = GenerationSettings(max_new_tokens=3)


def test_weights_are_counted_once(base):
    """Prevents the embedding, tied to the output, from being counted twice: half of a small model."""
    model = open_system(SystemSpec(str(base))).model
    expected = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert weight_bytes(model) == expected
    assert expected < disk_bytes(model) < 1.1 * expected + 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from proc")
def test_peak_is_of_what_follows_the_reset():
    """Prevents the memory of an earlier model from being reported as this one's."""
    large = torch.ones(40_000_000)
    before = resident_peak()
    del large
    reset_peak()
    after = resident_peak()
    assert after < before - 100_000_000
    torch.ones(30_000_000).sum()
    assert resident_peak() > after + 100_000_000


@pytest.mark.slow
def test_costs_are_relative_to_the_unquantised_system(base):
    """Prevents times of different runs, or of different clips, from being divided by each other."""
    specs = [SystemSpec(str(base)), SystemSpec(str(base), "bfloat16"), SystemSpec(str(base), label="other")]
    batch = [make_clip(index, 1.0) for index in range(2)]
    plain, half, other = measure_costs([specs[0], specs[1], specs[2]], batch, settings=SETTINGS, repeats=2)
    assert plain.time_ratio == other.time_ratio == 1.0 and half.low_ratio <= half.time_ratio <= half.high_ratio
    assert half.weight_bytes == plain.weight_bytes / 2 and half.parameters == plain.parameters
    assert 4 * plain.parameters == plain.weight_bytes and plain.disk_bytes > half.disk_bytes
    assert plain.peak_bytes > plain.idle_bytes > 0 and plain.seconds_per_second > 0
    with pytest.raises(ValueError, match="at least one repetition"):
        measure_costs(specs, batch, settings=SETTINGS, repeats=0)
