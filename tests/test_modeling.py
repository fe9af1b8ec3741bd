"""The model against plain Whisper, against the definition of the mixture, and under training."""

import pytest
import torch
from models import (
    END,
    FRAMES,
    LANGUAGE,
    NO_TIMESTAMPS,
    START,
    TRANSCRIBE,
    TRANSLATE,
    features,
    prompts,
    save_whisper,
    with_experts,
)
from packaging import version
from torch.nn.functional import gelu
from transformers import AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import sinusoids

from distil_whisper_hf import DistilWhisperConfig, DistilWhisperForConditionalGeneration, DistilWhisperModel
from distil_whisper_hf.expert_verbs import is_expert_key
from distil_whisper_hf.transformers_contract import CACHE_NAME

KINDS = {
    "tiny": {},
    "large-v3": {"num_mel_bins": 128, "vocab_size": 51866},
    "turbo": {"num_mel_bins": 128, "vocab_size": 51866, "decoder_layers": 1, "encoder_layers": 4},
    "english-only": {"vocab_size": 51864, "decoder_start_token_id": 50257},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_plain_checkpoint_equals_whisper_bit_for_bit(tmp_path, kind, dtype, attention):
    """Silent: an operation added, left out or reordered on the shared path."""
    folder = save_whisper(tmp_path, **KINDS[kind])
    arguments = {"dtype": dtype, "attn_implementation": attention}
    plain = WhisperForConditionalGeneration.from_pretrained(folder, **arguments)
    ours = DistilWhisperForConditionalGeneration.from_pretrained(folder, **arguments)
    inputs = torch.randn(3, KINDS[kind].get("num_mel_bins", 80), FRAMES).to(dtype)
    tokens = torch.randint(0, 50000, (3, 7))
    with torch.no_grad():
        assert torch.equal(
            plain(inputs, decoder_input_ids=tokens).logits, ours(inputs, decoder_input_ids=tokens).logits
        )
    assert torch.equal(
        plain.generate(inputs, max_new_tokens=6, is_multilingual=kind != "english-only"),
        ours.generate(inputs, max_new_tokens=6, is_multilingual=kind != "english-only"),
    )


def test_missing_keys_of_a_plain_checkpoint_are_none(whisper_folder):
    """Silent: a shared weight that is renamed and therefore random."""
    _, info = DistilWhisperForConditionalGeneration.from_pretrained(whisper_folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize("routing", ["gather", "dense"])
def test_rows_without_an_expert_equal_whisper_bit_for_bit(whisper, model, routing):
    """Silent: loaded experts leaking into languages and tasks that have none."""
    model.config.expert_routing = routing
    inputs, tokens = features(3), prompts("en", "es", "it")
    with torch.no_grad():
        assert torch.equal(
            whisper(inputs, decoder_input_ids=tokens).logits, model(inputs, decoder_input_ids=tokens).logits
        )
        tokens = prompts("ca", "gl", "ca", task=TRANSLATE)
        assert torch.equal(
            whisper(inputs, decoder_input_ids=tokens).logits, model(inputs, decoder_input_ids=tokens).logits
        )
        start = torch.full((3, 1), START)
        assert torch.equal(
            whisper(inputs, decoder_input_ids=start).logits, model(inputs, decoder_input_ids=start).logits
        )


@pytest.mark.parametrize("routing", ["gather", "dense"])
def test_a_mixed_batch_equals_its_rows_one_by_one(whisper, model, routing):
    """Silent: a row computed with its neighbour's expert."""
    model.config.expert_routing = routing
    inputs, tokens = features(5), prompts("ca", "en", "gl", "ca", "es")
    with torch.no_grad():
        together = model(inputs, decoder_input_ids=tokens).logits
        plain = whisper(inputs, decoder_input_ids=tokens).logits
        for row in range(5):
            alone = model(inputs[row : row + 1], decoder_input_ids=tokens[row : row + 1]).logits
            torch.testing.assert_close(together[row : row + 1], alone, atol=2e-5, rtol=1e-4)
    assert torch.equal(together[[1, 4]], plain[[1, 4]])
    for row in (0, 2, 3):
        assert not torch.allclose(together[row], plain[row], atol=1e-2)


def reference_mixture(layer, name, z):
    """CLSR(z) with hard gates, a token at a time, from the equation in language_experts.py."""
    expert, out = layer.language_experts[name], torch.empty_like(z)
    gates = torch.empty(z.shape[:-1])
    for row in range(z.shape[0]):
        for t in range(z.shape[1]):
            token = z[row, t]
            hidden = (expert.gate_in.weight @ token + expert.gate_in.bias).clamp(min=0)
            opened = float(expert.gate_out.weight[0] @ hidden) >= 0
            source = expert if opened else layer
            out[row, t] = source.fc2.weight @ gelu(source.fc1.weight @ token + source.fc1.bias) + source.fc2.bias
            gates[row, t] = float(opened)
    return out, gates


@pytest.mark.parametrize("tokens", [4, 40])
@pytest.mark.parametrize("routing", ["gather", "dense"])
@torch.no_grad()
def test_the_mixture_follows_its_equation(model, routing, tokens):
    """Silent: paths swapped, a gate read with the wrong sign, tokens scattered back to other places."""
    model.config.expert_routing = routing
    layer = model.model.decoder.layers[1]
    z = torch.randn(2, tokens, 64, generator=torch.Generator().manual_seed(1))
    plan = model.model.decoder._routing(torch.tensor([1, 1]), 0.0)
    output, gates = layer.language_experts(z, layer.shared_path, plan, record=True)
    expected, expected_gates = reference_mixture(layer, "gl", z)
    assert 0.1 < expected_gates.mean() < 0.9
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(gates, expected_gates)


def test_gate_values_come_with_the_output(model):
    """Silent: gate values of another side, layer or row, or lost on the way out of the model."""
    with torch.no_grad():
        outputs = model(features(3), decoder_input_ids=prompts("ca", "en", "gl"), output_gate_values=True)
        again = model(features(3), decoder_input_ids=prompts("ca", "en", "gl"))
    assert [tuple(g.shape) for g in outputs.encoder_gate_values] == [(3, FRAMES // 2)] * 2
    assert [tuple(g.shape) for g in outputs.decoder_gate_values] == [(3, 9)] * 3
    for gates in (*outputs.encoder_gate_values, *outputs.decoder_gate_values):
        assert gates[1].eq(0).all() and set(gates.unique().tolist()) <= {0.0, 1.0}
    assert torch.stack(outputs.encoder_gate_values).mean() > 0
    assert again.encoder_gate_values is None and again.decoder_gate_values is None


def test_gate_values_are_zero_without_any_expert(whisper_folder):
    """Silent: an empty tuple, whose mean is not a number."""
    model = with_experts(whisper_folder)
    outputs = model(features(2), decoder_input_ids=prompts("ca", "en"), output_gate_values=True)
    assert [float(g.sum()) for g in outputs.encoder_gate_values] == [0.0, 0.0]


def test_a_fresh_expert_changes_nothing(whisper, whisper_folder):
    """Silent: an expert that does not start from the shared path, or gates redrawn after their start."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(whisper_folder)
    model.add_expert("ca")
    inputs, tokens = features(2), prompts("ca", "ca")
    with torch.no_grad():
        outputs = model(inputs, decoder_input_ids=tokens, output_gate_values=True)
        assert torch.equal(outputs.logits, whisper(inputs, decoder_input_ids=tokens).logits)
    assert all(gates.eq(1).all() for gates in outputs.encoder_gate_values)
    model.train()
    outputs = model(inputs, decoder_input_ids=tokens, output_gate_values=True)
    assert all(gates.eq(0.5).all() for gates in (*outputs.encoder_gate_values, *outputs.decoder_gate_values))


def test_an_interpolated_expert_lies_between_itself_and_the_shared_path(model):
    """Silent: weights that change places, a side left out, a gate that moves, another expert that does."""
    trained = {key: value.clone() for key, value in model.state_dict().items()}
    model.interpolate_expert("ca", 0.25)
    for key, value in model.state_dict().items():
        expected = trained[key]
        if ".language_experts.ca.fc" in key:
            shared = trained[key.replace("language_experts.ca.", "")]
            assert not torch.equal(expected, shared), key
            expected = 0.75 * shared + 0.25 * expected
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-7, msg=key)
    model.interpolate_expert("ca", 0.5)
    assert model.config.language_experts["ca"]["training"]["interpolation"] == 0.125
    model.interpolate_expert("ca", 0.0)
    for key, value in model.state_dict().items():
        if ".language_experts.ca.fc" in key:
            assert torch.equal(value, trained[key.replace("language_experts.ca.", "")]), key


def test_an_expert_is_interpolated_by_a_share_of_one_it_has(model):
    """Silent: an extrapolation, or a misspelt expert left as it is."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            model.interpolate_expert("ca", weight)
    with pytest.raises(KeyError, match="'xx'"):
        model.interpolate_expert("xx", 0.5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_gates_start_at_zero_when_a_configuration_builds_them(whisper_folder):
    """Silent: transformers' weight initialisation redrawing the gates."""
    model = with_experts(whisper_folder, "ca")
    fresh = DistilWhisperForConditionalGeneration(model.config)
    for _, layer in fresh.expert_layers("ca"):
        expert = layer.language_experts["ca"]
        assert expert.gate_out.weight.eq(0).all() and expert.gate_in.bias.eq(0).all()
        assert 0.005 < float(expert.gate_in.weight.detach().std()) < 0.02


def test_training_mixes_softly_with_noise_and_skips(model):
    """Silent: hard gates in training, noise that is not there, a skip-gate that never or always skips."""
    model.train()
    model.freeze_shared()
    arguments = {"decoder_input_ids": prompts("ca", "gl"), "output_gate_values": True}
    for layer in (*model.model.encoder.layers, *model.model.decoder.layers):
        layer.language_experts.skip_probability = 0.0
        for expert in layer.language_experts.values():
            expert.gate_dropout = expert.expert_dropout = 0.0
    first, second = model(features(2), **arguments), model(features(2), **arguments)
    assert torch.equal(first.logits, second.logits)
    gates = torch.cat([g.flatten() for g in first.encoder_gate_values])
    assert ((gates > 0) & (gates < 1)).all()

    model.gate_noise = 5.0
    noisy = model(features(2), **arguments)
    spread = [torch.cat([g.logit().flatten() for g in o.encoder_gate_values[:1]]) for o in (first, noisy)]
    # A gate that noise has pushed to 1 has no logit.
    noise = (spread[1] - spread[0]).detach()
    assert 4.0 < float(noise[noise.isfinite()].std()) < 6.0
    model.gate_noise = 0.0

    for layer in (*model.model.encoder.layers, *model.model.decoder.layers):
        layer.language_experts.skip_probability = 0.999999
    skipped = model(features(2), **arguments)
    shared = model(features(2), decoder_input_ids=prompts("en", "es"))
    torch.testing.assert_close(skipped.encoder_last_hidden_state, shared.encoder_last_hidden_state, atol=0, rtol=0)
    assert torch.equal(skipped.encoder_gate_values[0], first.encoder_gate_values[0])


@pytest.mark.parametrize("routing", ["gather", "dense"])
def test_soft_mixture_follows_its_equation(model, routing):
    """Silent: weights g and 1 - g swapped, or a mixed batch's rows put back in the wrong order."""
    model.config.expert_routing = routing
    model.train()
    layer = model.model.encoder.layers[0]
    layer.language_experts.skip_probability = 0.0
    for expert in layer.language_experts.values():
        expert.gate_dropout = expert.expert_dropout = 0.0
    z = torch.randn(3, 20, 64, generator=torch.Generator().manual_seed(2))
    output, gates = layer.language_experts(
        z, layer.shared_path, model.model.encoder._routing(torch.tensor([1, -1, 0]), 0.0)
    )
    for row, name in ((0, "gl"), (2, "ca")):
        expert = layer.language_experts[name]
        g = torch.sigmoid((z[row] @ expert.gate_in.weight.T + expert.gate_in.bias).relu() @ expert.gate_out.weight[0])
        mixed = g[:, None] * expert(z[row]) + (1 - g[:, None]) * layer.shared_path(z[row])
        torch.testing.assert_close(output[row], mixed, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gates[row], g, atol=1e-6, rtol=1e-5)
    assert torch.equal(output[1], layer.shared_path(z)[1]) and gates[1].eq(0).all()


@pytest.mark.parametrize("routing", ["gather", "dense"])
def test_straight_through_gates_are_hard_with_a_soft_gradient(whisper_folder, routing):
    """Silent: training that mixes paths where evaluation takes one, or gates that get no gradient."""
    model = with_experts(whisper_folder, "ca", gate_estimator="straight_through", expert_routing=routing)
    layer = model.model.encoder.layers[0]
    z = torch.randn(2, 20, 64, generator=torch.Generator().manual_seed(4))
    plan = model.model.encoder._routing(torch.tensor([0, 0]), 0.0)
    hard, hard_gates = layer.language_experts(z, layer.shared_path, plan, record=True)
    model.train()
    expert = layer.language_experts["ca"]
    layer.language_experts.skip_probability = expert.gate_dropout = expert.expert_dropout = 0.0
    output, gates = layer.language_experts(z, layer.shared_path, plan, record=True)
    torch.testing.assert_close(output, hard, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gates, hard_gates, atol=1e-6, rtol=0)
    assert 0 < hard_gates.mean() < 1
    gates.sum().backward()
    logits = expert.gate_logits(z)
    hidden = (z @ expert.gate_in.weight.T + expert.gate_in.bias).relu()
    expected = ((logits.sigmoid() * (1 - logits.sigmoid())).unsqueeze(-1) * hidden).sum((0, 1))
    torch.testing.assert_close(expert.gate_out.weight.grad[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_experts_in_the_batch_get_gradients(model, checkpointing):
    """Silent: frozen weights that train, or gate values cut off from their gradient by gradient checkpointing."""
    model.train()
    model.freeze_shared()
    assert {k for k, p in model.named_parameters() if p.requires_grad} == {
        k for k, _ in model.named_parameters() if is_expert_key(k)
    }
    if checkpointing:
        model.gradient_checkpointing_enable()
    torch.manual_seed(3)
    for layer in (*model.model.encoder.layers, *model.model.decoder.layers):
        layer.language_experts.skip_probability = 0.0
    labels = prompts("ca", "en", "ca")[:, 1:]
    outputs = model(features(3), labels=labels, output_gate_values=True)
    (outputs.loss + sum(g.mean() for g in (*outputs.encoder_gate_values, *outputs.decoder_gate_values))).backward()
    for key, parameter in model.named_parameters():
        trained = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert trained == (".language_experts.ca." in key), key


def test_gate_gradients_are_the_same_under_gradient_checkpointing(model):
    """Silent: the recomputed forward drawing other noise, dropout or skips than the first."""
    model.train()
    model.freeze_shared()
    model.gate_noise = 2.0
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(11)
        outputs = model(features(2), labels=prompts("ca", "gl")[:, 1:], output_gate_values=True)
        (outputs.loss + torch.stack(outputs.encoder_gate_values).mean()).backward()
        gradients.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key], atol=1e-6, rtol=1e-4)


def test_reentrant_checkpointing_is_refused(model):
    """Silent: gates that never learn their budget."""
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_the_loss_is_whispers_and_sums_over_accumulated_batches(whisper, model):
    """Silent: a loss that grows with gradient accumulation because Trainer believes it normalised."""
    labels = prompts("en", "es", "it")[:, 1:].clone()
    labels[1, 5:] = -100
    with torch.no_grad():
        expected = whisper(features(3), labels=labels).loss
        assert torch.equal(model(features(3), labels=labels).loss, expected)
        parts = [
            model(features(3)[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=int((labels != -100).sum())).loss
            for i in range(3)
        ]
    torch.testing.assert_close(sum(parts), expected, atol=1e-5, rtol=1e-5)


def test_labels_route_with_and_without_their_start_token(model):
    """Silent: a collator that keeps <|startoftranscript|> in the labels training nothing but the shared path."""
    tokens = prompts("ca", "gl")
    with torch.no_grad():
        kept = model(features(2), labels=tokens, output_gate_values=True)
        cut = model(features(2), labels=tokens[:, 1:], output_gate_values=True)
    assert torch.equal(kept.encoder_gate_values[0], cut.encoder_gate_values[0])
    assert kept.encoder_gate_values[0].sum() > 0


def test_the_language_token_is_the_one_behind_the_start_token(model):
    """Silent: earlier text in the prompt, or a language token spoken about in it, deciding the expert."""
    previous = [50361, 500, LANGUAGE["gl"], 501]
    rows = [
        [*previous, START, LANGUAGE["ca"], TRANSCRIBE, NO_TIMESTAMPS],
        [END, END, END, END, START, LANGUAGE["gl"], TRANSCRIBE, NO_TIMESTAMPS],
        [*previous, START, LANGUAGE["en"], TRANSCRIBE, NO_TIMESTAMPS],
        [*previous, START, LANGUAGE["ca"], TRANSLATE, NO_TIMESTAMPS],
        [*previous, START, LANGUAGE["it"], TRANSCRIBE, NO_TIMESTAMPS],
    ]
    _, expert_ids = model.model.route(torch.tensor(rows))
    assert expert_ids.tolist() == [0, 1, -1, -1, -1]


def test_a_step_without_its_prompt_needs_expert_ids(model):
    """Silent: every step after the first decoded by the shared path."""
    tokens = prompts("ca", "en")
    with torch.no_grad():
        whole = model(features(2), decoder_input_ids=tokens).logits
        _, expert_ids = model.model.route(tokens)
        encoder_outputs = model.model.encoder(features(2), expert_ids=expert_ids)
        first = model(encoder_outputs=encoder_outputs, decoder_input_ids=tokens[:, :4], use_cache=True)
        arguments = {"encoder_outputs": encoder_outputs, CACHE_NAME: first[CACHE_NAME]}
        with pytest.raises(ValueError, match="Expected `expert_ids`"):
            model(decoder_input_ids=tokens[:, 4:5], **arguments)
        step = model(decoder_input_ids=tokens[:, 4:5], expert_ids=expert_ids, **arguments)
    torch.testing.assert_close(step.logits[:, 0], whole[:, 4], atol=1e-4, rtol=1e-3)


def test_auto_classes_open_our_checkpoints(model, tmp_path):
    """Silent: AutoModel giving plain Whisper, without the experts."""
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).language_experts.keys() == {"ca", "gl", "sc", "ca-medical"}
    head = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path, experts=["gl"])
    bare = AutoModel.from_pretrained(tmp_path)
    assert type(head) is DistilWhisperForConditionalGeneration and head.expert_names == ("gl",)
    assert type(bare) is DistilWhisperModel and set(bare.expert_names) == {"ca", "gl", "sc", "ca-medical"}
    with torch.no_grad():
        expected = model(features(1), decoder_input_ids=prompts("gl"), output_hidden_states=True).decoder_hidden_states[
            -1
        ]
        found = bare(features(1), decoder_input_ids=prompts("gl")).last_hidden_state
    assert torch.equal(found, expected)


@pytest.mark.skipif(
    version.parse(torch.__version__) < version.parse("2.13"),
    reason="copying the decoder's configuration as it runs does not trace with this torch",
)
def test_the_dense_form_compiles_whole(model):
    """Silent: a graph break in the form that is there for torch.compile."""
    model.config.expert_routing = "dense"
    inputs, tokens = features(3), prompts("ca", "en", "gl")
    with torch.no_grad():
        expected = model(inputs, decoder_input_ids=tokens).logits
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(inputs, decoder_input_ids=tokens).logits, expected, atol=1e-5, rtol=1e-4)


def test_a_model_from_a_configuration_starts_as_whisper_does(whisper_folder):
    """Silent: random positions in the encoder, where Whisper has sinusoids, or gates that begin with a preference."""
    config = DistilWhisperConfig.from_pretrained(whisper_folder, language_experts={"ca": {"language": "ca"}})
    for model in (DistilWhisperForConditionalGeneration(config), DistilWhisperModel(config)):
        positions = model.get_encoder().embed_positions.weight
        assert torch.equal(positions, sinusoids(*positions.shape)) and not positions.requires_grad
        for _, layer in model.expert_layers("ca"):
            expert = layer.language_experts["ca"]
            assert not expert.gate_out.weight.any() and not expert.gate_in.bias.any()
            assert expert.gate_in.weight.std().item() == pytest.approx(config.gate_init_std, rel=0.1)
