"""Systems: how they are named, opened and told apart."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import WhisperForConditionalGeneration

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.evaluation.systems.opening import SystemSpec, open_system, parse_spec, system_digest


@pytest.mark.parametrize(
    ("text", "spec", "name"),
    [
        ("base", SystemSpec("base"), "base float32"),
        ("some/base+ca@runs/x", SystemSpec("some/base", experts=(("ca", "runs/x"),)), "base+ca float32"),
        ("b+ca@x+gl@y", SystemSpec("b", experts=(("ca", "x"), ("gl", "y"))), "b+ca+gl float32"),
        ("mine=b+lora@a", SystemSpec("b", adapter="a", label="mine"), "mine float32"),
    ],
)
def test_specs_are_parsed(text, spec, name):
    """Prevents an adapter from being taken for an expert."""
    assert parse_spec(text) == spec and parse_spec(text).name == name


@pytest.mark.parametrize("text", ["", "b+ca", "b+lora@x+lora@y", "a=b=c"])
def test_other_words_are_refused(text):
    """Prevents a mistyped part from being dropped."""
    with pytest.raises(ValueError, match="expected"):
        parse_spec(text)


def test_whole_and_expert_only_give_the_same_system(whole, only, base):
    """Prevents experts from depending on how they were stored."""
    specs = [
        SystemSpec(str(whole)),
        SystemSpec(str(only)),
        SystemSpec(str(base), experts=(("ca", str(only)), ("sc", str(only)))),
    ]
    states = []
    for spec in specs:
        system = open_system(spec)
        assert set(system.expert_names) == {"ca", "sc"} and spec.has_experts
        assert system.processor.tokenizer("a").input_ids
        states.append(system.model.state_dict())
    for state in states[1:]:
        assert set(state) == set(states[0]) and all(torch.equal(state[key], states[0][key]) for key in state)
    assert not SystemSpec(str(base)).has_experts


def test_quantised_whole_and_expert_only_agree(whole, only):
    """Prevents the experts of one kind of checkpoint from staying unquantised."""
    pytest.importorskip("bitsandbytes")
    states = [open_system(SystemSpec(str(source), "bnb-int8")).model.state_dict() for source in (whole, only)]
    assert set(states[0]) == set(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert states[0]["model.encoder.layers.0.language_experts.ca.fc1.weight"].dtype == torch.int8


def test_lora_is_merged(base, tmp_path):
    """Prevents an adapter that is opened and has no effect."""
    model = WhisperForConditionalGeneration.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["fc1"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    plain, merged = (open_system(SystemSpec(str(base), adapter=adapter)) for adapter in (None, str(tmp_path)))
    key = "model.encoder.layers.0.fc1.weight"
    assert set(plain.model.state_dict()) == set(merged.model.state_dict())
    expected = adapted.merge_and_unload().state_dict()[key]
    assert not torch.equal(plain.model.state_dict()[key], expected)
    assert torch.equal(merged.model.state_dict()[key], expected)
    with pytest.raises(ValueError, match="got both"):
        SystemSpec(str(base), experts=(("ca", "x"),), adapter="y")


def test_digest_follows_the_weights(base, only, tmp_path):
    """Prevents stored hypotheses of an older model, or of another precision, from passing as this one's."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(base)
    first = system_digest(SystemSpec(str(base)))
    assert first == system_digest(SystemSpec(str(base), label="other name"))
    assert first != system_digest(SystemSpec(str(base), "bfloat16"))
    assert first != system_digest(SystemSpec(str(base), experts=(("ca", str(only)),)))
    model.save_pretrained(tmp_path / "m")
    before = system_digest(SystemSpec(str(tmp_path / "m")))
    with torch.no_grad():
        model.model.encoder.layers[0].fc1.bias += 1
    model.save_pretrained(tmp_path / "m")
    assert before != system_digest(SystemSpec(str(tmp_path / "m")))
    digests = set()
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        for content in (b"weights", b"others"):
            (tmp_path / "adapter" / name).write_bytes(content)
            digests.add(system_digest(SystemSpec(str(base), adapter=str(tmp_path / "adapter"))))
    assert len(digests) == 4
