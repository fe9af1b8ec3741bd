"""Experts that come, go and change in one thread while others use the model."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from models import FRAMES, features, prompts, randomize_expert, with_experts
from thread_stress import stress

TOKENS = {"max_new_tokens": 6, "min_new_tokens": 6}


def add(model, folder):
    model.add_expert("en")
    randomize_expert(model, "en", 31)


def remove_before(model, folder):
    model.remove_expert("ca")


def remove_used(model, folder):
    model.remove_expert("gl")


def remove_all(model, folder):
    for name in model.expert_names:
        model.remove_expert(name)


def reload(model, folder):
    other = with_experts(folder, "gl")
    randomize_expert(other, "gl", 32)
    other.save_expert("gl", folder)
    model.remove_expert("gl")
    model.load_expert("gl", folder)


def interpolate(model, folder):
    model.interpolate_expert("gl", 0.5)


CHANGES = (add, remove_before, remove_used, remove_all, reload, interpolate)


class InAnotherThread:
    """Runs a change to its end in another thread, the first time that it is called; as a logits processor or a hook."""

    def __init__(self, change, *arguments):
        self.thread = threading.Thread(target=change, args=arguments)

    def __call__(self, *call):
        if self.thread.ident is None:
            self.thread.start()
            self.thread.join()
        return call[1] if len(call) == 2 else None


@pytest.mark.parametrize("change", CHANGES)
def test_a_running_generate_keeps_its_experts(model, whisper_folder, change):
    """Silent: ids that mean other experts from one token to the next, or a window decoded by experts of two moments."""
    long = {"attention_mask": torch.ones(3, 2 * FRAMES, dtype=torch.long), "return_timestamps": True}
    silence = {"no_speech_threshold": 0.9, "logprob_threshold": -100.0, "temperature": (0.0, 0.2)}
    for inputs, arguments in (
        (features(3), {"language": ["ca", "gl", "en"]}),
        (features(3, frames=2 * FRAMES), {"language": "it", "expert": ["sc", "gl", None], **long, **silence}),
    ):
        changing = copy.deepcopy(model)
        expected = model.generate(inputs, **arguments, **TOKENS)
        processor = InAnotherThread(change, changing, whisper_folder)
        torch.manual_seed(0)
        found = changing.generate(inputs, logits_processor=[processor], **arguments, **TOKENS)
        assert processor.thread.ident is not None and not processor.thread.is_alive()
        assert torch.equal(found, expected)
        assert changing.expert_names != model.expert_names or change in (reload, interpolate)


@pytest.mark.parametrize("routing", ["gather", "dense"])
@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_pass_has_the_experts_of_one_moment(model, whisper_folder, change, routing):
    """Silent: the first layers with an expert's old weights and the others with its new ones."""
    model.config.expert_routing = routing
    changing = copy.deepcopy(model)
    inputs, tokens = features(3), prompts("ca", "gl", "en")
    expected = model(inputs, decoder_input_ids=tokens).logits
    for layer in (changing.model.encoder.layers[0], changing.model.decoder.layers[1]):
        again = copy.deepcopy(changing)
        at = again.get_submodule(next(name for name, module in changing.named_modules() if module is layer))
        hook = InAnotherThread(change, again, whisper_folder)
        at.register_forward_hook(hook)
        found = again(inputs, decoder_input_ids=tokens).logits
        assert hook.thread.ident is not None and torch.equal(found, expected)
        later = again(inputs, decoder_input_ids=tokens).logits
        assert not torch.equal(later, expected)


def test_threads_transcribe_while_others_change_experts(tmp_path):
    """Silent: a result that no one's experts give, once in a thousand calls."""
    seen = stress(tmp_path, swaps=20, seed=0, readers=2)
    assert seen["swaps"] == 20 and seen["wrong"] == seen["errors"] == 0, seen
    assert seen.total() > 20


def test_threads_transcribe_in_different_languages(model):
    """Silent: one call's language or expert taken by another that runs beside it."""
    chosen = [{"language": "ca"}, {"language": "gl"}, {"language": "it", "expert": "sc"}, {"language": "en"}, {}]
    expected = [model.generate(features(2, seed), **one, **TOKENS) for seed, one in enumerate(chosen)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda seed: model.generate(features(2, seed), **chosen[seed], **TOKENS), range(len(chosen)))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_experts_added_by_threads_are_all_there(model):
    """Silent: an expert that another thread's change undid."""
    names = ["es", "en", "sc-2", "ca-2", "gl-2", "it"]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: model.add_expert(name, language="it"), names))
    assert set(model.expert_names) == {"ca", "gl", "sc", "ca-medical", *names}
    assert all(set(layer.language_experts) == set(model.expert_names) for _, layer in model.expert_layers("ca"))


def test_a_copy_on_another_device_uses_the_experts_there(model):
    """Silent: `nn.DataParallel` computing with the first device's experts everywhere."""
    tokens = prompts("ca", "gl", "en")
    expected = model(features(3), decoder_input_ids=tokens).logits
    copies = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in copies.items():
        # As torch's replicate does, which needs two devices.
        for name, child in module._modules.items():
            setattr(replica, name, copies[child])
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter.clone())
    for _, layer in model.expert_layers("ca"):
        for parameter in layer.language_experts.parameters():
            torch.nn.init.constant_(parameter, torch.nan)
    assert torch.equal(copies[model](features(3), decoder_input_ids=tokens).logits, expected)
