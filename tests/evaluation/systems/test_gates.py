"""Gate decisions by layer and side, and flips."""

from dataclasses import replace

import numpy as np
import pytest
from clips_of_tones import make_clip as make

from distil_whisper_hf.evaluation.report.figures import gate_figure
from distil_whisper_hf.evaluation.systems.gates import GateUse, gate_use, open_shares, record_decisions
from distil_whisper_hf.evaluation.systems.opening import SystemSpec, open_system


def test_decisions_are_those_of_speech_and_tokens(whole):
    """Prevents padding, 29 s of it for a clip of one second, from being counted as decisions."""
    system = open_system(SystemSpec(str(whole)))
    clips = [make(0, 0.5), make(1, 1.01), make(2, 0.3, language="es"), make(3, 0.3, task="translate")]
    decisions = record_decisions(system, clips, {clip.full_id: "ab" for clip in clips})
    assert set(decisions) == {("ca", "encoder", 0), ("ca", "decoder", 0), ("ca", "decoder", 1)}
    assert len(decisions["ca", "encoder", 0]) == 25 + 51
    # Start, language, task, no timestamps; a space and two letters.
    assert len(decisions["ca", "decoder", 0]) == 2 * (4 + 3)
    assert 0 < np.mean(decisions["ca", "encoder", 0]) < 1


def test_experts_by_language_and_by_name_share_a_set(whole):
    """Prevents the gates of rows that their language routes from being counted as closed beside rows that name one."""
    system = open_system(SystemSpec(str(whole)))
    clips = [make(0, 0.5), make(1, 0.5, language="it", expert="sc"), make(2, 0.5)]
    texts = {clip.full_id: "ab" for clip in clips}
    mixed = open_shares(record_decisions(system, clips, texts))
    assert set(mixed) == {"ca", "sc"} and [len(mixed["ca"][side]) for side in ("encoder", "decoder")] == [1, 2]
    assert mixed["ca"] == open_shares(record_decisions(system, [clips[0], clips[2]], texts))["ca"]
    assert mixed["sc"] == open_shares(record_decisions(system, clips[1:2], texts))["sc"]
    assert all(0 < share < 1 for name in mixed for share in mixed[name]["encoder"])


def test_share_of_flips_is_counted_by_layer():
    """Prevents flips from being averaged over the wrong decisions."""
    before = {("ca", "encoder", 0): np.array([True, True, False, False])}
    after = {("ca", "encoder", 0): np.array([True, False, False, False])}
    (use,) = gate_use("x", after, before)
    assert (use.opened, use.flipped, use.decisions) == (25.0, 25.0, 4)
    assert np.isnan(gate_use("x", after)[0].flipped)
    with pytest.raises(ValueError, match="got 4 and 3"):
        gate_use("x", {("ca", "encoder", 0): np.ones(3, dtype=bool)}, before)


@pytest.mark.parametrize("higher", ["encoder", "decoder"])
def test_the_figure_shows_all_of_both_sides(higher):
    """Prevents an axis that fits one side and cuts off what the other does."""
    sides = ("encoder", "decoder")
    uses = [
        GateUse("x", "ca", side, layer, 9, 50.0, 10.0 if side == higher else 1.0) for side in sides for layer in (0, 1)
    ]
    for axes in gate_figure(uses, lambda use: use.flipped, "flipped, in %").axes:
        low, high = axes.get_ylim()
        assert low == 0 and high >= 10.0


def test_quantisation_flips_some_gates_but_not_most(whole):
    """Prevents quantised gates, or a comparison of a system with itself."""
    pytest.importorskip("bitsandbytes")
    spec = SystemSpec(str(whole))
    clips = [make(index, 1.0) for index in range(4)]
    texts = {clip.full_id: "hello there" for clip in clips}
    plain, packed = (
        record_decisions(open_system(one), clips, texts) for one in (spec, replace(spec, precision="bnb-int8"))
    )
    flipped = [use.flipped for use in gate_use("packed", packed, plain)]
    assert 0 < max(flipped) < 20
    assert all(use.flipped == 0 for use in gate_use("plain", plain, plain))
