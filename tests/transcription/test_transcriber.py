"""Mixed batches, long audio, fallback and figures of the transcriber, against Whisper's own `generate` and against
definitions."""

import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import LANGUAGE, NO_TIMESTAMPS, START, START_OF_PREVIOUS, TRANSCRIBE, TRANSLATE, with_experts
from speech_files import write
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

from distil_whisper_hf.transcription.decoding import WindowDecoder
from distil_whisper_hf.transcription.options import TranscriptionOptions, temperatures
from distil_whisper_hf.transcription.recordings import Recording
from distil_whisper_hf.transcription.session import Session, compression_ratio
from distil_whisper_hf.transcription.transcriber import Transcriber

GREEDY = TranscriptionOptions(temperature=(0.0,))
# Every window falls back twice: what is drawn counts.
DRAWN = TranscriptionOptions(temperature=(0.0, 0.9), logprob_threshold=0.0, no_speech_threshold=None)


def decided(transcription):
    """What must not depend on the batch."""
    return (
        transcription.language,
        transcription.expert,
        transcription.duration,
        [(one.seek, one.start, one.end, one.tokens, one.text, one.temperature) for one in transcription.segments],
    )


@pytest.mark.parametrize("options", [GREEDY, DRAWN, replace(GREEDY, beam_size=2)], ids=["greedy", "drawn", "beams"])
def test_a_recording_is_transcribed_in_a_mixed_batch_as_alone(experts, processor, noise, options):
    """Silent: words that depend on a neighbour: its expert, prompt, window, length or random numbers."""
    lengths = (1.2, 2.1, 0.4, 1.4)
    audios = [noise(seconds, seed) for seed, seconds in enumerate(lengths)]
    languages = ["ca", "en", "gl", None]
    together = Transcriber(experts, processor, batch_size=3).transcribe(audios, options, languages=languages)
    alone = [
        Transcriber(experts, processor).transcribe([audio], options, languages=[language])[0]
        for audio, language in zip(audios, languages, strict=True)
    ]
    assert [decided(one) for one in together] == [decided(one) for one in alone]
    assert [one.expert for one in together][:3] == ["ca", None, "gl"]
    assert [one.duration for one in together] == list(lengths)
    for ours, theirs in zip(together, alone, strict=True):
        for one, other in zip(ours.segments, theirs.segments, strict=True):
            assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)
    # Otherwise nothing of the above means anything.
    assert sum(len(one.segments) for one in together) > 3
    if options is DRAWN:
        assert {segment.temperature for one in together for segment in one.segments} == {0.9}


def test_rows_without_an_expert_are_plain_whispers_to_the_bit(experts, bare, processor, noise):
    """Silent: a language, or a translation, that an expert beside it changes."""
    audios = [noise(1.0 + 0.3 * seed, seed) for seed in range(4)]
    tasks = ["transcribe", "transcribe", "translate", "transcribe"]
    found = []
    for model in (experts, bare):
        recordings = [
            Recording(audio, replace(GREEDY, language=language, task=task, word_timestamps=True))
            for audio, language, task in zip(audios, ["ca", "en", "ca", "it"], tasks, strict=True)
        ]
        outcomes = list(Transcriber(model, processor, batch_size=4).stream(recordings))
        found.append([next(o.transcription for o in outcomes if o.recording is one) for one in recordings])
    ours, plain = found
    assert ours[0] != plain[0] and ours[0].expert == "ca"
    assert ours[1:] == plain[1:]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_window_is_that_of_generate(experts, plain, processor, noise, beams):
    """Silent: a prompt, a rule for times or a limit that differs from Whisper's own."""
    audio = noise(1.0, 7)
    features = processor.feature_extractor(audio, sampling_rate=16000, return_tensors="pt").input_features
    cases = (("en", "transcribe", plain), ("ca", "translate", plain), ("ca", "transcribe", experts))
    for language, task, model in cases:
        wanted = model.generate(
            features, language=language, task=task, return_timestamps=True, num_beams=beams,
            force_unique_generate_call=True, max_new_tokens=13,
        )[0].tolist()  # fmt: skip
        wanted = wanted[3:]
        wanted = wanted[: wanted.index(50257)] if 50257 in wanted else wanted
        options = replace(GREEDY, beam_size=beams, task=task, language=language)
        row = Session(WindowDecoder(experts, processor))
        row.add(Recording(audio, options))
        decoded = _first_window(row)
        assert list(decoded.tokens) == wanted and len(wanted) > 2


def _first_window(session):
    """Decode without cutting."""
    loaded = session._decoder.experts()
    session._read(session._rows, [])
    session._encode(session._rows, loaded, [])
    return session._decoder.decode([session._request(row) for row in session._rows], loaded)[0]


@pytest.mark.parametrize("beams", [1, 2])
def test_figures_are_what_they_are_called(experts, processor, noise, beams):
    """Silent: an avg_logprob without the end, of a beam search's own score, or with what may not follow; the silence of
    another position."""
    session = Session(WindowDecoder(experts, processor))
    options = replace(GREEDY, language="ca", beam_size=beams, initial_prompt="bon dia")
    session.add(Recording(noise(0.8, 3), options))
    decoded = _first_window(session)
    config = experts.generation_config
    features = processor.feature_extractor(noise(0.8, 3), sampling_rate=16000, return_tensors="pt").input_features
    prompt = [*processor.get_prompt_ids("bon dia").tolist(), START, LANGUAGE["ca"], TRANSCRIBE]
    # At its limit a text has no end.
    tokens = [*decoded.tokens, 50257][:13]
    rules = [
        SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, begin_index=len(prompt)),
        SuppressTokensLogitsProcessor(config.suppress_tokens),
        WhisperTimeStampLogitsProcessor(config, begin_index=len(prompt)),
    ]
    total = 0.0
    for place, token in enumerate(tokens):
        known = torch.tensor([prompt + tokens[:place]])
        with torch.no_grad():
            scores = experts(features, decoder_input_ids=known).logits[:, -1]
        for rule in rules:
            scores = rule(known, scores)
        total += scores.log_softmax(-1)[0, token].item()
    assert decoded.avg_logprob == pytest.approx(total / len(tokens), abs=1e-4)
    with torch.no_grad():
        logits = experts(features, decoder_input_ids=torch.tensor([prompt]), output_gate_values=True)
    at_start = logits.logits[0, prompt.index(START)].softmax(-1)
    assert decoded.no_speech_prob == pytest.approx(at_start[NO_TIMESTAMPS - 1].item(), rel=1e-3)


def test_shares_of_open_gates_are_those_of_the_segment(experts, processor, noise):
    """Silent: gates of padding, of the prompt, or of a neighbour."""
    audio = noise(0.6, 5)
    (found,) = Transcriber(experts, processor).transcribe([audio], replace(GREEDY, language="ca"))
    features = processor.feature_extractor(audio, sampling_rate=16000, return_tensors="pt").input_features
    session = Session(WindowDecoder(experts, processor))
    session.add(Recording(audio, replace(GREEDY, language="ca")))
    tokens = list(_first_window(session).tokens)
    prompt = [START, LANGUAGE["ca"], TRANSCRIBE]
    with torch.no_grad():
        output = experts(features, decoder_input_ids=torch.tensor([prompt + tokens]), output_gate_values=True)
    encoder = torch.stack(output.encoder_gate_values)[:, 0, :30].mean().item()
    decoder = torch.stack(output.decoder_gate_values)[:, 0, 3:].mean().item()
    assert 0 < encoder < 1 and 0 < decoder < 1
    assert found.open_gates.encoder == pytest.approx(encoder) and found.open_gates.decoder == pytest.approx(decoder)
    (plain,) = Transcriber(experts, processor).transcribe([audio], replace(GREEDY, language="en"))
    assert plain.open_gates is None and all(one.open_gates is None for one in plain.segments)


def test_a_window_is_told_the_text_before_it(experts, plain, processor, noise):
    """Silent: no context, a neighbour's context, or one that padding shifts."""
    audios = [noise(2.0, 11), noise(1.9, 12), noise(0.9, 13)]
    options = replace(GREEDY, initial_prompt="w300 w301")
    languages = ["en", "es", "it"]
    found = Transcriber(experts, processor, batch_size=3).transcribe(audios, options, languages=languages)
    for audio, language, one in zip(audios[:2], languages, found, strict=False):
        first = [segment for segment in one.segments if segment.seek == 0]
        seek = next((segment.seek for segment in one.segments if segment.seek), None)
        if seek is None:
            continue
        before = processor.get_prompt_ids("w300 w301").tolist()[1:]
        before += [token for segment in first for token in segment.tokens]
        prompt = [START_OF_PREVIOUS, *before[-15:], START, LANGUAGE[language], TRANSCRIBE]
        window = audio[seek * 160 : seek * 160 + 16000]
        features = processor.feature_extractor(window, sampling_rate=16000, return_tensors="pt").input_features
        wanted = plain.generate(
            features, decoder_input_ids=torch.tensor([prompt]), language=language, return_timestamps=True,
            force_unique_generate_call=True,
        )[0, len(prompt):].tolist()  # fmt: skip
        got = [token for segment in one.segments if segment.seek == seek for token in segment.tokens]
        assert got and got == wanted[: len(got)]
    told = Transcriber(experts, processor).transcribe([audios[0]], options, languages=["en"])[0]
    untold = Transcriber(experts, processor).transcribe(
        [audios[0]], replace(options, condition_on_previous_text=False), languages=["en"]
    )[0]
    assert told.segments[0] == untold.segments[0] and told.segments != untold.segments


def test_fallback_goes_on_while_the_text_is_bad_and_no_longer(experts, processor, noise):
    """Silent: a guard that never acts, or that decodes silence six times."""
    audio = [noise(0.9, 4)]
    transcribe = Transcriber(experts, processor).transcribe
    easy = TranscriptionOptions(logprob_threshold=-100.0, language="en")
    assert {one.temperature for one in transcribe(audio, easy)[0].segments} == {0.0}
    repetitive = replace(easy, compression_ratio_threshold=0.0, temperature=(0.0, 0.2, 0.4))
    assert {one.temperature for one in transcribe(audio, repetitive)[0].segments} <= {0.4}
    unlikely = replace(easy, logprob_threshold=0.0, no_speech_threshold=None, temperature=(0.0, 0.2))
    assert {one.temperature for one in transcribe(audio, unlikely)[0].segments} <= {0.2}
    silence = replace(easy, logprob_threshold=0.0, no_speech_threshold=0.0)
    assert transcribe(audio, silence)[0].segments == ()
    assert transcribe(audio, replace(silence, logprob_threshold=-100.0))[0].segments != ()
    text = "ara ara ara ara"
    assert compression_ratio(text) == len(text.encode()) / len(zlib.compress(text.encode()))


def test_what_is_drawn_follows_the_distribution_and_the_seed(experts, processor, noise):
    """Silent: draws that are no draws, or that differ from run to run."""
    from distil_whisper_hf.transcription.sampling import RowSampler

    logits = torch.tensor([[2.0, 1.0, 0.0, -math.inf], [0.0, 3.0, 0.0, 0.0]])
    counts = np.zeros(4)
    sampler = RowSampler([0.5, 0.0], [1, 2], end_token_id=9)
    for _ in range(2000):
        tokens = sampler(torch.zeros(2, 1), logits).argmax(-1)
        counts[tokens[0]] += 1
        assert tokens[1] == 1
    assert counts[3] == 0
    expected = torch.softmax(logits[0] / 0.5, -1).numpy()
    assert np.abs(counts / 2000 - expected).max() < 0.04
    transcribe = Transcriber(experts, processor).transcribe
    same = [transcribe([noise(1.5, 6)], DRAWN)[0] for _ in range(2)]
    other = transcribe([noise(1.5, 6)], replace(DRAWN, seed=1))[0]
    assert same[0] == same[1] and [one.tokens for one in other.segments] != [one.tokens for one in same[0].segments]


def test_an_expert_by_name_and_the_shared_path_by_name(experts, bare, processor, noise):
    """Silent: a choice that is lost on the way to the decoder."""
    audio = noise(1.0, 8)
    transcribe = Transcriber(experts, processor).transcribe
    medical = transcribe([audio], replace(GREEDY, language="ca", expert="ca-medical"))[0]
    own = transcribe([audio], replace(GREEDY, language="ca"))[0]
    shared = transcribe([audio], replace(GREEDY, language="ca", expert="shared"))[0]
    (plain,) = Transcriber(bare, processor).transcribe([audio], replace(GREEDY, language="ca"))
    assert (medical.expert, own.expert, shared.expert) == ("ca-medical", "ca", None)
    assert shared == plain and medical.segments != own.segments != shared.segments


def test_one_bad_recording_ends_alone(experts, processor, noise, tmp_path):
    """Silent: a whole folder lost by one file, or a failure that looks like silence."""
    good = write(tmp_path / "good.wav", 1.3)
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    cut = tmp_path / "cut.wav"
    cut.write_bytes(good.read_bytes()[:20000])
    recordings = [
        Recording(str(empty), GREEDY),
        Recording(str(good), GREEDY),
        Recording(str(cut), GREEDY),
        Recording(str(tmp_path / "none.wav"), GREEDY),
        Recording(np.zeros(0, np.float32), GREEDY),
        Recording(noise(0.5, 1), replace(GREEDY, expert="xx")),
        Recording(good.read_bytes(), replace(GREEDY, language="ca"), name="bytes"),
    ]
    outcomes = {id(one.recording): one for one in Transcriber(experts, processor, batch_size=2).stream(recordings)}
    assert len(outcomes) == 7
    errors = [outcomes[id(one)].error for one in recordings]
    assert [error is None for error in errors] == [False, True, False, False, False, False, True]
    assert "0 bytes" in str(errors[0]) and "cut short" in str(errors[2]) and isinstance(errors[5], KeyError)
    assert outcomes[id(recordings[6])].transcription.name == "bytes"
    with pytest.raises(ValueError, match="no samples"):
        Transcriber(experts, processor).transcribe([np.zeros(0, np.float32)])


def test_recordings_come_and_go_while_others_run(experts, processor, noise):
    """Silent: a client that left and is decoded to its end, in the place of one that waits."""
    session = Session(WindowDecoder(experts, processor))
    long, short = Recording(noise(5.0, 1), GREEDY), Recording(noise(0.7, 2), GREEDY)
    session.add(long)
    assert session.step() == [] and session.running == 1
    session.add(short)
    session.step()
    session.remove(long)
    (outcome,) = session.step()
    assert outcome.recording is short and outcome.transcription and session.running == 0
    assert session.step() == []


def test_a_recording_keeps_the_experts_of_its_beginning(short_folder, processor, noise):
    """Silent: a window of another path in the middle of a recording, because an expert was removed meanwhile."""
    model = with_experts(short_folder, "gl", "ca")
    long, later = (Recording(noise(2.0, seed), replace(GREEDY, language="ca")) for seed in (1, 2))
    (wanted,) = Transcriber(model, processor).transcribe([long.audio], long.options)
    session = Session(WindowDecoder(model, processor))
    session.add(long)
    session.step()
    model.remove_expert("gl")
    model.remove_expert("ca")
    session.add(later)
    found = {}
    while session.running:
        found |= {id(one.recording): one.transcription for one in session.step()}
    assert decided(found[id(long)]) == decided(wanted) and wanted.expert == "ca"
    assert found[id(later)].expert is None


def test_more_recordings_than_fit_take_turns(experts, processor, noise):
    """Silent: a short recording that waits until all long ones are done, or one that is never reached."""
    session = Session(WindowDecoder(experts, processor))
    recordings = [Recording(noise(seconds, 1), replace(GREEDY, language="en")) for seconds in (3.0, 3.0, 3.0, 0.5)]
    for recording in recordings:
        session.add(recording)
    finished = []
    for _ in range(40):
        finished += [recordings.index(one.recording) for one in session.step(2)]
    assert finished[0] == 3 and sorted(finished) == [0, 1, 2, 3]
    too_long = Recording(noise(3.0, 1), GREEDY, most_seconds=1.0)
    session.add(too_long)
    (outcome,) = session.step()
    assert "at most 1 s" in str(outcome.error)


def test_options_are_checked():
    """Silent: a threshold or beam size that means nothing."""
    assert TranscriptionOptions(language="Catalan").language == "ca"
    assert temperatures(0.0, 0.2) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) and temperatures(0.3, None) == (0.3,)
    assert temperatures(0.1, 0.4) == (0.1, 0.5, 0.9)
    for wrong in (
        {"task": "sing"}, {"temperature": ()}, {"temperature": (-1.0,)}, {"beam_size": 0}, {"language": "xyzzy"},
        {"logprob_threshold": math.nan}, {"vad_threshold": 1.0}, {"vad_pad_seconds": -1.0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Expected"):
            TranscriptionOptions(**wrong)
    with pytest.raises(ValueError, match="increment above 0"):
        temperatures(0.0, 0.0)


def test_translation_says_so_to_the_decoder(experts, processor):
    """Silent: a translation that is prompted as a transcript."""
    decoder = Transcriber(experts, processor).decoder
    assert decoder.prompt("ca", "translate") == [START, LANGUAGE["ca"], TRANSLATE]
