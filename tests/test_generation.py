"""Experts in `generate`: by language, by name, through every way in which Whisper multiplies and drops rows."""

import pytest
import torch
from models import (
    FRAMES,
    LANGUAGE,
    NO_TIMESTAMPS,
    START,
    START_OF_PREVIOUS,
    TRANSCRIBE,
    features,
    randomize_expert,
    save_whisper,
    with_experts,
)
from transformers import WhisperForConditionalGeneration

from distil_whisper_hf.routing import mark_experts, read_marks

TOKENS = {"max_new_tokens": 8}


def rows(model, inputs, languages, **arguments):
    """Every row on its own, padded together."""
    outputs = [
        model.generate(inputs[i : i + 1], language=language, **{**TOKENS, **arguments})[0]
        for i, language in enumerate(languages)
    ]
    return torch.nn.utils.rnn.pad_sequence(outputs, batch_first=True, padding_value=50257)


def test_a_list_of_languages_gives_each_row_its_expert(whisper, model):
    """Silent: the first row's expert taken for the whole batch."""
    inputs, languages = features(4), ["ca", "en", "gl", "es"]
    together = model.generate(inputs, language=languages, **TOKENS)
    assert torch.equal(together, rows(model, inputs, languages))
    plain = whisper.generate(inputs, language=languages, **TOKENS)
    assert torch.equal(together[[1, 3]], plain[[1, 3]])
    assert not torch.equal(together[0], plain[0]) and not torch.equal(together[2], plain[2])


def test_english_names_of_languages_route_too(model):
    """Silent: `language="catalan"` taking the shared path."""
    inputs = features(2)
    assert torch.equal(
        model.generate(inputs, language="Catalan", **TOKENS), model.generate(inputs, language="ca", **TOKENS)
    )


def test_other_spellings_of_languages_route_too(model):
    """Silent: a data set's "ca_es" refused in one place and taken in another, or taken without its expert."""
    inputs = features(3)
    found = model.generate(inputs, language=["ca_es", "glg", "<|en|>"], **TOKENS)
    assert torch.equal(found, model.generate(inputs, language=["ca", "gl", "en"], **TOKENS))
    for language in ("sc", "catlan", ["ca", "yue", "gl"]):
        with pytest.raises(ValueError, match=r"has a token for.*--expert (sc|yue)"):
            model.generate(inputs, language=language, **TOKENS)


def test_a_language_that_was_given_a_token_is_known_by_it(model):
    """Silent: a vocabulary's own language refused because Whisper has none of that name."""
    inputs = features(1)
    model.generation_config.lang_to_id["<|sc|>"] = model.generation_config.lang_to_id["<|haw|>"]
    found = model.generate(inputs, language="sc", **TOKENS)
    assert torch.equal(found, model.generate(inputs, language="haw", **TOKENS))
    model.add_expert("SC", language="sc")
    assert model.config.language_experts["SC"]["language"] == "sc"


def test_translation_is_whispers(whisper, model):
    """Silent: an expert for transcription changing X-to-English translation."""
    inputs = features(3)
    arguments = {"language": ["ca", "gl", "en"], "task": "translate", **TOKENS}
    assert torch.equal(model.generate(inputs, **arguments), whisper.generate(inputs, **arguments))


def test_a_detected_language_takes_its_expert(whisper, model):
    """Silent: detection running with an expert, or its outcome not routing."""
    inputs = features(6)
    detected = whisper.detect_language(inputs)
    assert torch.equal(model.detect_language(inputs), detected)
    code = {token_id: token[2:-2] for token, token_id in whisper.generation_config.lang_to_id.items()}
    languages = [code[token_id] for token_id in detected.tolist()]
    model.add_expert(languages[0])
    randomize_expert(model, languages[0], 9)
    found = model.generate(inputs, **TOKENS)
    assert torch.equal(found, model.generate(inputs, language=languages, **TOKENS))
    assert not torch.equal(found[0], whisper.generate(inputs, **TOKENS)[0])


@pytest.mark.parametrize("arguments", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_beams_keep_their_rows_expert(model, arguments):
    """Silent: experts repeated in another order than the beams."""
    inputs, languages = features(3), ["ca", "en", "gl"]
    together = model.generate(inputs, language=languages, **arguments, **TOKENS)
    alone = [
        model.generate(inputs[i : i + 1], language=language, **arguments, **TOKENS)
        for i, language in enumerate(languages)
    ]
    assert together.shape[0] == sum(len(one) for one in alone)
    for found, expected in zip(together, [row for one in alone for row in one], strict=True):
        assert torch.equal(found[: len(expected)], expected)


def test_an_expert_by_name(model):
    """Silent: a domain expert, a proxied language or "shared" taken for what the language token says."""
    inputs = features(5)
    names = ["sc", None, "ca-medical", "shared", "ca"]
    languages = ["it", "gl", "ca", "ca", "ca"]
    by_name = model.generate(inputs, language=languages, expert=names, **TOKENS)
    alone = [model.generate(inputs[i : i + 1], language=languages[i], expert=names[i], **TOKENS)[0] for i in range(5)]
    assert all(torch.equal(by_name[i][: len(alone[i])], alone[i]) for i in range(5))
    by_language = model.generate(inputs, language=languages, **TOKENS)
    assert torch.equal(by_name[[1, 4]], by_language[[1, 4]])
    assert all(not torch.equal(by_name[i], by_language[i]) for i in (0, 2, 3))


def test_an_expert_brings_its_language(model):
    """Silent: language detection deciding the prompt of an expert that was trained with another one."""
    inputs = features(2)
    assert torch.equal(
        model.generate(inputs, expert="sc", **TOKENS), model.generate(inputs, expert="sc", language="it", **TOKENS)
    )
    mixed = model.generate(inputs, expert=[None, "sc"], **TOKENS)
    assert torch.equal(mixed[0], model.generate(inputs[:1], **TOKENS)[0])


def test_experts_stay_with_rows_through_temperature_fallback(whisper_folder, monkeypatch):
    """Silent: after a retry of some rows only, the experts of the first rows taken for them."""
    model = with_experts(whisper_folder, "ca", "gl", "sc")
    inputs = features(4)
    seen = []
    route = model.model.route

    def spy(prompt, loaded):
        found = route(prompt, loaded)
        seen.append(found[1].tolist())
        return found

    monkeypatch.setattr(model.model, "route", spy)
    fallback = model._need_fallback
    monkeypatch.setattr(model, "_need_fallback", lambda *a, **k: (a[2] in (1, 2) and a[6] == 0.0, False))
    assert fallback is not model._need_fallback
    names = ["sc", "gl", None, "ca"]
    model.generate(inputs, language=["it", "gl", "ca", "ca"], expert=names, temperature=(0.0, 0.4), **TOKENS)
    whole = [ids for ids in seen if len(ids) > 1]
    assert whole[0] == [2, 1, 0, 0] and whole[-1] == [1, 0]


def test_long_audio_keeps_experts_while_the_batch_shrinks(model):
    """Silent: once a short clip is finished, the others' windows decoded with its expert."""
    long = features(3, frames=4 * FRAMES)
    mask = torch.zeros(3, 4 * FRAMES, dtype=torch.long)
    for row, windows in enumerate((1, 4, 2)):
        mask[row, : windows * FRAMES] = 1
    arguments = {"return_timestamps": True, "return_segments": True, "attention_mask": mask, **TOKENS}
    names = ["ca", None, "sc"]
    together = model.generate(long, language=["ca", "gl", "it"], expert=names, **arguments)["segments"]
    for row, (language, name) in enumerate(zip(["ca", "gl", "it"], names, strict=True)):
        arguments["attention_mask"] = mask[row : row + 1]
        frames = int(mask[row].sum())
        alone = model.generate(long[row : row + 1, :, :frames], language=language, expert=name, **arguments)[
            "segments"
        ][0]
        assert [s["tokens"].tolist() for s in together[row]] == [s["tokens"].tolist() for s in alone]


def test_prompts_do_not_get_a_second_start_token(whisper, model):
    """Silent: a start token in front of <|startofprev|>, as transformers does for unknown model types."""
    prompt = torch.tensor([START_OF_PREVIOUS, 440, 441])
    arguments = {"prompt_ids": prompt, "return_dict_in_generate": True, **TOKENS}
    found = model.generate(features(2), language=["ca", "en"], **arguments)["sequences"]
    plain = whisper.generate(features(2), language=["ca", "en"], **arguments)["sequences"]
    head = [START_OF_PREVIOUS, 440, 441, START, LANGUAGE["ca"], TRANSCRIBE, NO_TIMESTAMPS]
    assert found[0, :7].tolist() == head
    assert torch.equal(found[1], plain[1]) and not torch.equal(found[0], plain[0])


def test_marks_never_reach_the_caller(model):
    """Silent: token ids beyond the vocabulary in returned sequences."""
    out = model.generate(features(2), expert=["sc", "ca"], return_dict_in_generate=True, **TOKENS)
    assert int(out["sequences"].max()) < model.config.vocab_size


def test_marks_are_read_back():
    """Silent: an index off by one, or the prompt changed by marking."""
    prompt = torch.tensor([[START, 7], [START, 8], [START, 9], [START, 10]])
    plain, marks = read_marks(mark_experts(prompt, [None, -1, 0, 5], 51865), 51865)
    assert torch.equal(plain, prompt) and marks.tolist() == [0, 1, 2, 7]


def test_word_timestamps(whisper, model):
    """Silent: cross-attention lost or reordered when experts are on."""
    arguments = {
        "return_token_timestamps": True,
        "return_timestamps": True,
        "attention_mask": torch.ones(3, FRAMES, dtype=torch.long),
        **TOKENS,
    }
    ours = model.generate(features(3), language=["en", "ca", "es"], **arguments)
    plain = whisper.generate(features(3), language=["en", "ca", "es"], **arguments)
    model.set_attn_implementation("sdpa")
    whisper.set_attn_implementation("sdpa")
    for row in (0, 2):
        length = min(ours["token_timestamps"].shape[1], plain["token_timestamps"].shape[1])
        assert torch.equal(ours["token_timestamps"][row, :length], plain["token_timestamps"][row, :length])


def test_no_speech_threshold_runs_with_experts_by_name(model):
    """Silent: Whisper's silence detection calling the model with a marked prompt."""
    out = model.generate(
        features(2), expert=["sc", "ca"], temperature=(0.0, 0.2), logprob_threshold=-100.0, no_speech_threshold=0.6,
        return_timestamps=True, **TOKENS,
    )  # fmt: skip
    assert out.shape[0] == 2


@pytest.mark.parametrize("routing", ["gather", "dense"])
def test_both_forms_generate_the_same(model, routing):
    """Silent: the dense form taking another path somewhere in decoding."""
    expected = model.generate(features(4), language=["ca", "en", "gl", "ca"], num_beams=2, **TOKENS)
    model.config.expert_routing = routing
    assert torch.equal(model.generate(features(4), language=["ca", "en", "gl", "ca"], num_beams=2, **TOKENS), expected)


def test_wrong_experts_are_refused(model):
    """Silent: an unknown expert or a list of another length taken for the shared path."""
    with pytest.raises(KeyError, match="Loaded: ca, gl, sc, ca-medical"):
        model.generate(features(1), expert="uk")
    with pytest.raises(ValueError, match="for each of 2 rows, got 3"):
        model.generate(features(2), expert=["ca", None, "sc"])


def test_a_stock_checkpoint_with_an_english_only_vocabulary_takes_experts_by_name(tmp_path):
    """Silent: an expert on an English-only Whisper that nothing can reach."""
    folder = save_whisper(tmp_path, vocab_size=51864, decoder_start_token_id=50257)
    plain = WhisperForConditionalGeneration.from_pretrained(folder)
    model = with_experts(folder, "telephone")
    arguments = {"is_multilingual": False, **TOKENS}
    for one in (plain, model):
        one.generation_config.decoder_start_token_id = 50257
        one.generation_config.lang_to_id = one.generation_config.task_to_id = None
        one.generation_config.task = None
        del one.generation_config.lang_to_id, one.generation_config.task_to_id
        one.generation_config.is_multilingual = False
    assert torch.equal(model.generate(features(2), **arguments), plain.generate(features(2), **arguments))
    assert not torch.equal(
        model.generate(features(2), expert="telephone", **arguments), plain.generate(features(2), **arguments)
    )
