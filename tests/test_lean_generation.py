"""What makes a step slow on a GPU: reads of values on the host, graphs that break, and compiling again."""

import pytest
import torch
from models import features, prompts, randomize_expert
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import StaticCache
from transformers.cache_utils import EncoderDecoderCache

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.transformers_contract import CACHE_NAME

open_model = DistilWhisperForConditionalGeneration.from_pretrained
KINDS = {"compact": {"rank": 4}, "everywhere": {"rank": 4, "targets": "all"}, "full": {}}
MIXED = ("ca", "en", "gl", "ca")


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def model(whisper_folder, kind):
    model = open_model(whisper_folder)
    for seed, name in enumerate(("ca", "gl")):
        model.add_expert(name, **KINDS[kind])
        randomize_expert(model, name, seed)
    return model.eval()


class HostReads(TorchDispatchMode):
    """Counts values that are read on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero")
        return function(*args, **(kwargs or {}))


def watched(module, reads: HostReads) -> None:
    """Count reads inside a module's forward alone."""
    forward = module.forward

    def counted(*args, **kwargs):
        with reads:
            return forward(*args, **kwargs)

    module.forward = counted


@pytest.mark.parametrize("languages", [MIXED, ("ca",) * 4, ("en",) * 4], ids=["mixed", "same", "none"])
@pytest.mark.parametrize("beams", [1, 2])
def test_no_pass_of_generate_reads_a_value_on_the_host(model, whisper, languages, beams):
    """Silent: a wait for the GPU in every layer or step."""
    model.config.expert_routing = "dense"
    counts = []
    for one in (whisper, model):
        reads = HostReads()
        watched(one.model.encoder, reads)
        watched(one.model.decoder, reads)
        try:
            one.generate(features(4), language=list(languages), max_new_tokens=6, num_beams=beams)
        finally:
            del one.model.encoder.forward, one.model.decoder.forward
        counts.append(reads.count)
    assert counts[1] <= counts[0]


@pytest.mark.parametrize("languages", [MIXED, ("gl",) * 4], ids=["mixed", "same"])
def test_a_static_cache_gives_the_same_tokens(model, languages):
    arguments = {"language": list(languages), "max_new_tokens": 10}
    expected = model.generate(features(4), **arguments)
    assert torch.equal(model.generate(features(4), cache_implementation="static", **arguments), expected)


class Graphs:
    """A backend for `torch.compile` that counts graphs and runs them as they are."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


def test_encoder_and_decoding_step_compile_whole_and_once(model, kind, whisper_folder):
    """Silent: a graph break in every layer, or a graph for every expert, batch or step."""
    torch._dynamo.reset()
    model.config.expert_routing = "dense"
    encoder, step = Graphs(), Graphs()
    encode = torch.compile(model.model.encoder.forward, fullgraph=True, backend=encoder)
    decode = torch.compile(model.model.decoder.forward, fullgraph=True, backend=step)
    tokens = prompts(*MIXED)

    def run(ids: list[int], encode, decode) -> torch.Tensor:
        loaded, ids = model.model.loaded_experts.for_one_call(), torch.tensor(ids)
        for stack in (model.model.encoder, model.model.decoder):
            stack._routing(ids, loaded=loaded)
        chosen = {"expert_ids": ids, "loaded_experts": loaded}
        heard = encode(features(4), **chosen)[0]
        cache = EncoderDecoderCache(
            StaticCache(config=model.config, max_cache_len=16), StaticCache(config=model.config, max_cache_len=30)
        )
        model.model.decoder(tokens[:, :4], encoder_hidden_states=heard, use_cache=True, **chosen, **{CACHE_NAME: cache})
        outputs = [
            decode(
                tokens[:, at : at + 1],
                encoder_hidden_states=heard,
                use_cache=True,
                position_ids=torch.tensor([[at]]),
                **chosen,
                **{CACHE_NAME: cache},
            )[0]
            for at in (4, 5, 6)
        ]
        return torch.cat(outputs, dim=1)

    with torch.no_grad():
        for number, ids in enumerate(([0, -1, 1, 0], [1, 1, -1, 0], [-1, 0, 0, 1])):
            expected = run(ids, model.model.encoder.forward, model.model.decoder.forward)
            torch.testing.assert_close(run(ids, encode, decode), expected, atol=1e-5, rtol=1e-4)
            if number == 0:
                graphs = encoder.count, step.count
        if kind != "full":
            # Another expert in the place of one.
            model.remove_expert("gl")
            model.add_expert("gl", **KINDS[kind])
            randomize_expert(model, "gl", 5)
            model.eval()
            expected = run([0, -1, 1, 0], model.model.encoder.forward, model.model.decoder.forward)
            torch.testing.assert_close(run([0, -1, 1, 0], encode, decode), expected, atol=1e-5, rtol=1e-4)
    assert (encoder.count, step.count) == graphs == (1, 1)


@pytest.mark.slow
def test_a_pass_on_its_own_compiles_whole(model, whisper):
    """Without anything worked out before it: experts by the language tokens of the prompt."""
    torch._dynamo.reset()
    try:
        torch.compile(whisper, fullgraph=True, backend="eager")(features(4), decoder_input_ids=prompts(*MIXED))
    except torch._dynamo.exc.Unsupported:
        pytest.skip("this transformers does not trace Whisper itself whole")
    graphs = Graphs()
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    with torch.no_grad():
        for languages in (MIXED, ("gl", "gl", "ca", "en")):
            expected = model(features(4), decoder_input_ids=prompts(*languages)).logits
            found = compiled(features(4), decoder_input_ids=prompts(*languages)).logits
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert graphs.count == 1
