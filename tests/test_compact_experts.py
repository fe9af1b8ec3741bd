"""Compact experts: low-rank differences to Whisper's weights, against their definition and against PEFT."""

import copy
from collections import Counter

import pytest
import torch
from models import features, prompts, randomize_expert, save_whisper, with_experts
from safetensors.torch import load_file
from torch.nn.functional import gelu
from torch.profiler import ProfilerActivity, profile
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.expert_form import ExpertForm

open_model = DistilWhisperForConditionalGeneration.from_pretrained
MIXED = ("ca", "en", "gl", "it", "ca", "es")
# What a compact expert may be; "it" in the model below is a full one.
FORMS = {
    "ffn": {"rank": 4},
    "by side, with biases": {"rank": {"encoder": 2, "decoder": 5}, "bias": True},
    "encoder alone": {"rank": 3, "sides": "encoder"},
    "all": {"rank": 3, "targets": "all"},
    "attention alone": {"rank": 3, "targets": ["q_proj", "v_proj"], "bias": True},
}


@pytest.fixture(params=FORMS)
def form(request) -> dict:
    return FORMS[request.param]


@pytest.fixture
def model(whisper_folder, form):
    """A compact Catalan expert of the form, a compact Galician one of rank 7, and a full Italian one."""
    model = open_model(whisper_folder)
    for seed, (name, arguments) in enumerate({"ca": form, "gl": {"rank": 7}, "it": {}}.items()):
        model.add_expert(name, **arguments)
        randomize_expert(model, name, seed)
    return model.eval()


def forward(model, *languages, **arguments):
    with torch.no_grad():
        return model(features(len(languages)), decoder_input_ids=prompts(*languages), **arguments)


def definition(layer, name, z, *, soft=False):
    """CLSR(z) and g in float64, with an expert's whole matrices."""
    shared = [part.double() for one in (layer.fc1, layer.fc2) for part in (one.weight, one.bias)]
    z = z.double()

    def network(w1, b1, w2, b2):
        return gelu(z @ w1.T + b1) @ w2.T + b2

    expert = dict(layer.language_experts).get(name)
    if expert is None or expert.fc1 is None:
        return network(*shared), torch.zeros(z.shape[:-1], dtype=torch.float64)
    hidden = (z @ expert.gate_in.weight.double().T + expert.gate_in.bias.double()).relu()
    logits = hidden @ expert.gate_out.weight[0].double()
    gates = logits.sigmoid() if soft else (logits >= 0).double()
    if hasattr(expert.fc1, "lora_A"):
        own = []
        for part, (weight, bias) in zip((expert.fc1, expert.fc2), (shared[:2], shared[2:]), strict=True):
            own += [weight + part.lora_B.double() @ part.lora_A.double()]
            own += [bias if part.bias is None else bias + part.bias.double()]
    else:
        own = [part.double() for one in (expert.fc1, expert.fc2) for part in (one.weight, one.bias)]
    weight = gates.unsqueeze(-1)
    return weight * network(*own) + (1 - weight) * network(*shared), gates


@pytest.mark.parametrize("routing", ["gather", "dense"])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
@torch.no_grad()
def test_a_mixed_batch_follows_the_definition(model, routing, side):
    """Silent: factors of another row, a rank padded with something, gates read with the wrong sign."""
    model.config.expert_routing = routing
    stack = getattr(model.model, side)
    layer = stack.layers[1]
    for ids in ([0, -1, 1, 2, 0, -1], [1, 1, 1, 1, 1, 1], [0] * 6, [-1] * 6):
        z = torch.randn(6, 40, 64, generator=torch.Generator().manual_seed(1))
        plan = stack._routing(torch.tensor(ids), 0.0)
        output, gates = layer.language_experts(z, layer.shared_path, plan, record=True)
        for row, index in enumerate(ids):
            name = model.expert_names[index] if index >= 0 else None
            expected, expected_gates = definition(layer, name, z[row])
            torch.testing.assert_close(output[row], expected.float(), atol=1e-5, rtol=1e-4)
            assert torch.equal(gates[row].double(), expected_gates)
            if index == 1:
                assert 0.1 < expected_gates.mean() < 0.9


@pytest.mark.parametrize("routing", ["gather", "dense"])
def test_training_follows_the_definition(model, routing):
    """Silent: a gate that mixes outputs where weights are meant, rows without an expert that are half an expert's."""
    model.config.expert_routing = routing
    layer, ids = model.model.encoder.layers[0], [0, -1, 1, 2]
    model.train()
    layer.language_experts.skip_probability = 0.0
    for expert in layer.language_experts.values():
        expert.gate_dropout = expert.expert_dropout = 0.0
    z = torch.randn(4, 30, 64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    plan = model.model.encoder._routing(torch.tensor(ids), 0.0)
    output, gates = layer.language_experts(z, layer.shared_path, plan, record=True)
    parameters = [
        p for name in ("ca", "gl") if name in layer.language_experts for p in layer.language_experts[name].parameters()
    ]
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    # Without its own attention here, an expert's factors for that get no gradient.
    mine = torch.autograd.grad((output * probe).sum() + gates.sum(), [z, *parameters], allow_unused=True)
    expected = [
        definition(layer, model.expert_names[i] if i >= 0 else None, z[row], soft=True) for row, i in enumerate(ids)
    ]
    outputs = torch.stack([one for one, _ in expected])
    expected_gates = torch.stack([one for _, one in expected])
    torch.testing.assert_close(output, outputs.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gates, expected_gates.float(), atol=1e-6, rtol=1e-5)
    theirs = torch.autograd.grad((outputs * probe).sum() + expected_gates.sum(), [z, *parameters], allow_unused=True)
    for one, other in zip(mine, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_skipped_layers_leave_whisper_and_keep_gates(whisper_folder):
    model = open_model(whisper_folder)
    model.add_expert("ca", rank=4)
    randomize_expert(model, "ca", 0)
    layer = model.train().model.encoder.layers[0]
    layer.language_experts.skip_probability = 0.999999
    z = torch.randn(2, 30, 64, generator=torch.Generator().manual_seed(2))
    plan = model.model.encoder._routing(torch.tensor([0, 0]), 0.0)
    output, gates = layer.language_experts(z, layer.shared_path, plan, record=True)
    assert torch.equal(output, layer.shared_path(z))
    gates.sum().backward()
    expert = layer.language_experts["ca"]
    assert expert.gate_in.weight.grad.abs().sum() > 0
    assert expert.fc1.lora_A.grad.eq(0).all() and expert.fc2.lora_B.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_without_an_expert_are_whisper_s_in_mixed_batches(model, whisper, dtype):
    """Silent: a mixed batch that is not as exact for English as one of English alone."""
    model, whisper = model.to(dtype), copy.deepcopy(whisper).to(dtype)
    inputs, tokens = features(6).to(dtype), prompts(*MIXED)
    with torch.no_grad():
        plain = whisper(inputs, decoder_input_ids=tokens).logits
        mine = model(inputs, decoder_input_ids=tokens).logits
        encoder_rows = whisper.model.encoder(inputs).last_hidden_state
    assert torch.equal(mine[[1, 5]], plain[[1, 5]])
    assert torch.equal(
        model.model.encoder(inputs, expert_ids=torch.tensor([0, -1, 1, 2, 0, -1]))[0][[1, 5]], encoder_rows[[1, 5]]
    )
    for row in (0, 2, 3):
        assert not torch.allclose(mine[row], plain[row], atol=1e-3)


def test_a_fresh_expert_is_whisper(whisper_folder, whisper, form):
    model = open_model(whisper_folder)
    model.add_expert("ca", **form)
    model.eval()
    expected = forward(whisper, "ca", "en", "ca").logits
    assert torch.equal(forward(model, "ca", "en", "ca").logits, expected)
    assert torch.equal(forward(model, "ca", "ca", "ca").logits, forward(whisper, "ca", "ca", "ca").logits)


def test_an_open_expert_is_whisper_with_its_weights(whisper_folder, form):
    """The whole model, attention too, with its cache, against Whisper with the products added to its weights."""
    model = open_model(whisper_folder)
    model.add_expert("ca", **form)
    randomize_expert(model, "ca", 0)
    merged = WhisperForConditionalGeneration.from_pretrained(whisper_folder)
    with torch.no_grad():
        for name, layer in model.expert_layers("ca"):
            expert, plain = layer.language_experts["ca"], merged.model.get_submodule(name)
            if expert.fc1 is not None:
                expert.gate_out.weight.zero_()
            for path, part in expert.named_modules():
                if hasattr(part, "lora_A"):
                    target = plain.get_submodule(path)
                    target.weight += part.lora_B @ part.lora_A
                    if part.bias is not None:
                        target.bias = torch.nn.Parameter(part.bias + (0 if target.bias is None else target.bias))
    model.eval(), merged.eval()
    tokens, inputs = prompts("ca", "ca"), features(2)
    with torch.no_grad():
        torch.testing.assert_close(
            model(inputs, decoder_input_ids=tokens).logits,
            merged(inputs, decoder_input_ids=tokens).logits,
            atol=2e-4,
            rtol=1e-3,
        )
    arguments = {"language": "ca", "max_new_tokens": 12}
    assert torch.equal(model.generate(inputs, **arguments), merged.generate(inputs, **arguments))
    beams = {**arguments, "num_beams": 3}
    assert torch.equal(model.generate(inputs, **beams), merged.generate(inputs, **beams))


def test_an_open_expert_is_peft_s_lora(whisper_folder):
    """Forward and gradients, on fc1 and fc2 with alpha = rank."""
    peft = pytest.importorskip("peft")
    model = open_model(
        whisper_folder,
        expert_dropout=0.0,
        gate_dropout=0.0,
        skip_gate_probability=0.0,
        gate_estimator="straight_through",
    )
    model.add_expert("ca", rank=4)
    randomize_expert(model, "ca", 0)
    lora = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["fc1", "fc2"], lora_dropout=0.0)
    adapted = peft.get_peft_model(WhisperForConditionalGeneration.from_pretrained(whisper_folder), lora)
    theirs = dict(adapted.base_model.model.model.named_modules())
    with torch.no_grad():
        for name, layer in model.expert_layers("ca"):
            expert = layer.language_experts["ca"]
            expert.gate_out.weight.zero_()
            for part in ("fc1", "fc2"):
                theirs[f"{name}.{part}"].lora_A["default"].weight.copy_(getattr(expert, part).lora_A)
                theirs[f"{name}.{part}"].lora_B["default"].weight.copy_(getattr(expert, part).lora_B)
    model.freeze_shared()
    model.train(), adapted.train()
    tokens, inputs = prompts("ca", "ca"), features(2)
    labels = tokens[:, 1:]
    mine = model(inputs, decoder_input_ids=tokens[:, :-1], labels=labels)
    other = adapted(input_features=inputs, decoder_input_ids=tokens[:, :-1], labels=labels)
    torch.testing.assert_close(mine.logits, other.logits, atol=2e-4, rtol=1e-3)
    mine.loss.backward(), other.loss.backward()
    for name, layer in model.expert_layers("ca"):
        for part in ("fc1", "fc2"):
            for factor in ("lora_A", "lora_B"):
                torch.testing.assert_close(
                    getattr(getattr(layer.language_experts["ca"], part), factor).grad,
                    getattr(theirs[f"{name}.{part}"], factor)["default"].weight.grad,
                    atol=2e-4,
                    rtol=5e-3,
                )


def test_every_way_of_storing_keeps_it(model, form, whisper_folder, tmp_path):
    """Silent: factors drawn anew when a checkpoint is opened, or a form that the configuration forgets."""
    expected = forward(model, *MIXED).logits
    path = model.save_expert("ca", tmp_path / "experts")
    fresh = open_model(whisper_folder).eval()
    for name in ("ca", "gl", "it"):
        model.save_expert(name, tmp_path / "experts")
        fresh.load_expert(name, tmp_path / "experts")
    assert torch.equal(forward(fresh, *MIXED).logits, expected)
    assert fresh.config.expert_form("ca").entry == ExpertForm(**form).entry
    model.save_pretrained(tmp_path / "whole")
    # Tensors in a mapped file are aligned as its header leaves them, and kernels round by that.
    whole = forward(open_model(tmp_path / "whole").eval(), *MIXED).logits
    torch.testing.assert_close(whole, expected, atol=2e-5, rtol=1e-4)
    model.save_pretrained(tmp_path / "alone", experts_only=True)
    assert torch.equal(forward(open_model(tmp_path / "alone").eval(), *MIXED).logits, expected)
    elements = sum(tensor.numel() for tensor in load_file(path).values())
    full = sum(tensor.numel() for tensor in load_file(tmp_path / "experts" / "expert.it.safetensors").values())
    assert elements < full / 2


def test_interpolation_takes_the_products_back(whisper_folder, whisper):
    model = open_model(whisper_folder)
    model.add_expert("ca", rank=4, targets="all", bias=True)
    randomize_expert(model, "ca", 0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.interpolate_expert("ca", 0.25)
    for key, value in model.state_dict().items():
        scale = (
            0.25
            if key.endswith(("lora_B", "_proj.bias", "fc1.bias", "fc2.bias")) and "language_experts" in key
            else 1.0
        )
        assert torch.equal(value, scale * before[key]), key
    assert model.config.language_experts["ca"]["training"]["interpolation"] == 0.25
    model.interpolate_expert("ca", 0.0)
    assert torch.equal(forward(model.eval(), "ca", "ca").logits, forward(whisper, "ca", "ca").logits)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rank": 0}, "rank of at least 1"),
        ({"rank": 65}, "from 1 to 64"),
        ({"rank": True}, "rank of at least 1"),
        ({"rank": {"encoder": 4}}, "one for each of encoder, decoder"),
        ({"rank": {"encoder": 4, "decoder": 65}}, "from 1 to 64"),
        ({"rank": 4, "targets": "fc3"}, "some of ffn, q_proj"),
        ({"rank": 4, "targets": []}, "some of ffn, q_proj"),
        ({"targets": "all"}, "Give a rank"),
        ({"bias": True}, "Give a rank"),
    ],
)
def test_other_forms_are_refused(whisper_folder, arguments, said):
    model = open_model(whisper_folder)
    with pytest.raises(ValueError, match=said):
        model.add_expert("ca", **arguments)
    assert model.expert_names == ()


# Names of what is a view, or decided before any kernel runs.
NO_KERNEL = {
    "view", "t", "transpose", "permute", "expand", "reshape", "unsqueeze", "squeeze", "slice", "select", "alias",
    "detach", "as_strided", "split", "unbind", "flatten", "unflatten", "empty", "empty_like", "empty_strided",
    "view_as", "expand_as", "_reshape_alias", "resolve_conj", "resolve_neg", "result_type", "contiguous", "to",
    "linear", "matmul", "dropout", "layer_norm", "scaled_dot_product_attention", "broadcast_to", "narrow",
}  # fmt: skip


def kernels(function) -> Counter:
    """Top-level operations of a call that would each launch a kernel."""
    with torch.no_grad():
        function()
        with profile(activities=[ProfilerActivity.CPU]) as trace:
            function()

    def counts(event) -> bool:
        return event.name.startswith("aten::") and event.name.removeprefix("aten::") not in NO_KERNEL

    found = Counter()
    for event in trace.events():
        parent, inner = event.cpu_parent, not counts(event)
        while parent is not None and not inner:
            inner, parent = counts(parent), parent.cpu_parent
        if not inner:
            found[event.name] += 1
    return found


@pytest.mark.parametrize("rows", [[0], [0, 0, 0], [0, 1, -1]], ids=["one", "same", "mixed"])
@pytest.mark.parametrize(("side", "tokens"), [("encoder", 30), ("decoder", 1)])
def test_a_layer_has_at_most_nine_operations_more(whisper_folder, whisper, side, tokens, rows):
    """What costs on a GPU is how many kernels are launched, and reads of values on the host."""
    model = with_experts(whisper_folder)
    for seed, name in enumerate(("ca", "gl")):
        model.add_expert(name, rank=4)
        randomize_expert(model, name, seed)
    model.eval()
    z, heard = torch.randn(len(rows), tokens, 64), torch.randn(len(rows), 30, 64)
    stack = getattr(model.model, side)
    plan = stack._routing(torch.tensor(rows), 0.0)
    arguments = {"attention_mask": None} | ({"encoder_hidden_states": heard} if side == "decoder" else {})
    plain = kernels(lambda: getattr(whisper.model, side).layers[0](z, **arguments))
    mine = kernels(lambda: stack.layers[0](z, routing=plan, **arguments))
    assert mine.total() <= plain.total() + 9, mine - plain
    assert "aten::_local_scalar_dense" not in mine and "aten::nonzero" not in mine


def test_training_keeps_less_than_lora(whisper_folder):
    """Bytes kept for the backward pass of a feed-forward layer, against PEFT's LoRA of the same rank on fc1 and fc2."""
    peft = pytest.importorskip("peft")
    # The gate as narrow beside the model as in whisper-base.
    model = open_model(whisper_folder, gate_dim=8, expert_dropout=0.0, gate_dropout=0.0, skip_gate_probability=0.0)
    model.add_expert("ca", rank=4)
    model.freeze_shared()
    layer = model.train().model.encoder.layers[0]
    lora = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["fc1", "fc2"])
    plain = WhisperForConditionalGeneration.from_pretrained(whisper_folder)
    adapted = peft.get_peft_model(plain, lora).train().base_model.model.model.encoder.layers[0]
    z = torch.randn(2, 300, 64, requires_grad=True)
    plan = model.model.encoder._routing(torch.tensor([0, 0]), 0.0)

    def kept(function) -> int:
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            function().sum().backward()
        return sum(storages.values())

    mine = kept(lambda: layer.language_experts(z, layer.shared_path, plan)[0])
    theirs = kept(lambda: adapted.fc2(adapted.activation_fn(adapted.fc1(z))))
    assert mine <= 1.1 * theirs


@pytest.mark.parametrize("kind", [{}, {"rank": 9, "targets": "all", "bias": True}], ids=["full", "compact"])
def test_compression_at_full_rank_changes_nothing(whisper_folder, kind):
    """Silent: factors swapped, a gate or bias left behind."""
    model = open_model(whisper_folder)
    model.add_expert("ca", **kind)
    randomize_expert(model, "ca", 0)
    expected = forward(model.eval(), "ca", "en", "ca")
    kept = model.compress_expert("ca", rank=64 if not kind else 9)
    torch.testing.assert_close(forward(model, "ca", "en", "ca").logits, expected.logits, atol=2e-3, rtol=1e-2)
    assert list(kept) == [f"{side}.layers.{i}" for side, n in (("encoder", 2), ("decoder", 3)) for i in range(n)]
    assert all(share == pytest.approx(1.0) for shares in kept.values() for share in shares.values())


@torch.no_grad()
def test_compression_keeps_the_largest_singular_values(whisper_folder, tmp_path):
    model = with_experts(whisper_folder, "ca")
    layers = dict(model.expert_layers("ca"))
    before = {key: layer.language_experts["ca"] for key, layer in layers.items()}
    kept = model.compress_expert("ca", rank={"encoder": 3, "decoder": 5})
    for key, layer in layers.items():
        rank, compact = 3 if key.startswith("encoder") else 5, layer.language_experts["ca"]
        assert list(kept[key]) == ["fc1", "fc2"]
        for name in kept[key]:
            difference = getattr(before[key], name).weight - getattr(layer, name).weight
            values = torch.linalg.svdvals(difference)
            left = torch.linalg.matrix_norm(difference - getattr(compact, name).delta).square()
            torch.testing.assert_close(left, values[rank:].square().sum(), rtol=1e-3, atol=1e-4)
            assert kept[key][name] == pytest.approx(float(1 - left / difference.square().sum()), abs=1e-4)
            bias = getattr(before[key], name).bias - getattr(layer, name).bias
            torch.testing.assert_close(getattr(compact, name).bias, bias)
        for name in ("gate_in.weight", "gate_in.bias", "gate_out.weight"):
            assert torch.equal(before[key].get_parameter(name), compact.get_parameter(name))
    assert model.config.language_experts["ca"]["training"]["compressed"] == {"encoder": 3, "decoder": 5}
    path = model.save_expert("ca", tmp_path)
    again = open_model(whisper_folder).eval()
    again.load_expert("ca", path)
    assert torch.equal(forward(again, "ca", "en").logits, forward(model, "ca", "en").logits)


def test_compression_by_energy_takes_the_smallest_rank_that_keeps_it(whisper_folder):
    for energy in (0.3, 0.9):
        model = with_experts(whisper_folder, "ca")
        kept = model.compress_expert("ca", energy=energy)
        rank = model.config.expert_form("ca").rank
        smaller = with_experts(whisper_folder, "ca")
        less = smaller.compress_expert("ca", rank={side: r - 1 for side, r in rank.items()})
        fresh = with_experts(whisper_folder, "ca")
        for side in ("encoder", "decoder"):
            shares = {}
            for name, result in (("kept", kept), ("less", less)):
                part = total = 0.0
                for key, layer in fresh.expert_layers("ca"):
                    for projection in ("fc1", "fc2") if key.startswith(side) else ():
                        own, base = getattr(layer.language_experts["ca"], projection), getattr(layer, projection)
                        size = float((own.weight - base.weight).detach().square().sum())
                        part, total = part + size * result[key][projection], total + size
                shares[name] = part / total
            assert shares["less"] < energy <= shares["kept"] + 1e-6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({}, "either a rank or an energy"), ({"rank": 4, "energy": 0.5}, "either a rank"), ({"rank": 65}, "from 1 to 64"),
     ({"rank": 0}, "at least 1"), ({"energy": 0.0}, "above 0"), ({"energy": 1.5}, "up to 1")],
)  # fmt: skip
def test_compression_refuses_what_it_cannot_do(whisper_folder, arguments, said):
    model = with_experts(whisper_folder, "ca")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=said):
        model.compress_expert("ca", **arguments)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_an_expert_is_merged_where_its_gate_cannot_close(whisper_folder, whisper, tmp_path):
    """Silent: merged weights for rows of others, in files, or after the expert was taken back."""
    model = open_model(whisper_folder)
    for name, seed in (("ca", 0), ("gl", 1)):
        model.add_expert(name, rank=4, targets="all", bias=True)
        randomize_expert(model, name, seed)
    with torch.no_grad():
        for layer in (model.model.encoder.layers[1], model.model.decoder.layers[2]):
            layer.language_experts["ca"].gate_out.weight.abs_()
    model.eval()
    batches = [("ca", "ca"), ("ca", "en", "gl"), ("gl", "gl"), ("en",)]
    before = [forward(model, *batch, output_gate_values=True) for batch in batches]
    keys = set(model.state_dict())
    assert model.merge_expert("ca") == ("encoder.layers.1", "decoder.layers.2")
    after = [forward(model, *batch, output_gate_values=True) for batch in batches]
    torch.testing.assert_close(after[0].logits, before[0].logits, atol=2e-4, rtol=1e-3)
    assert not torch.equal(after[0].logits, before[0].logits)
    assert torch.equal(after[0].encoder_gate_values[1], torch.ones(2, 30))
    assert all(torch.equal(one.logits, other.logits) for one, other in zip(after[1:], before[1:], strict=True))
    assert set(model.state_dict()) == keys
    model.train()
    assert not torch.equal(forward(model, "ca", "ca").logits, after[0].logits)
    model.eval().unmerge_expert("ca")
    assert torch.equal(forward(model, "ca", "ca").logits, before[0].logits)
    model.add_expert("it")
    with pytest.raises(ValueError, match="compact expert"):
        model.merge_expert("it")


@pytest.mark.parametrize("kind", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_trains_on_a_quantised_base(tmp_path, kind, dtype):
    """Silent: an expert that is quantised too, or trained in half precision, on a base that moves."""
    pytest.importorskip("bitsandbytes")
    # Widths of whole blocks of NF4.
    whisper = save_whisper(tmp_path, encoder_ffn_dim=128)
    nothing = {"expert_dropout": 0.0, "gate_dropout": 0.0, "skip_gate_probability": 0.0}
    model = open_model(whisper, quantization_config=BitsAndBytesConfig(**kind), dtype=dtype, **nothing)
    model.add_expert("ca", rank=4)
    model.freeze_shared()
    base = {name: one.clone() for name, one in model.named_parameters() if not one.requires_grad}
    trained = [one for one in model.parameters() if one.requires_grad]
    assert trained and {one.dtype for one in trained} == {torch.float32}
    optimizer, tokens, losses = torch.optim.AdamW(trained, lr=1e-2), prompts("ca", "ca"), []
    model.train()
    for _ in range(4):
        loss = model(features(2).to(dtype), decoder_input_ids=tokens[:, :-1], labels=tokens[:, 1:]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
    assert all(torch.equal(base[name], one) for name, one in model.named_parameters() if name in base)
    path = model.save_expert("ca", tmp_path / "experts")
    again = open_model(whisper, quantization_config=BitsAndBytesConfig(**kind), dtype=dtype)
    again.load_expert("ca", path)
    tokens = prompts("ca", "en")
    with torch.no_grad():
        mine, other = (one.eval()(features(2).to(dtype), decoder_input_ids=tokens).logits for one in (model, again))
    torch.testing.assert_close(mine, other, atol=5e-2, rtol=5e-2)
