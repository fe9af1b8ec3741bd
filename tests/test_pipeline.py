"""The speech recognition pipeline: equal to Whisper's where that is right, and row by row where it is not.

The model here is plain Whisper under another model type, so that all differences to the stock pipeline come from ours.
"""

from __future__ import annotations

import copy
import csv
import importlib.util
import io
import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny import SPECIAL_IDS, VOCAB_SIZE, tiny_generation_config, tiny_processor
from torch.utils.data import Dataset
from transformers import (
    AutomaticSpeechRecognitionPipeline,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from distil_whisper_hf import audio_input, pipeline_distil_whisper
from distil_whisper_hf.audio_input import load_audio
from distil_whisper_hf.pipeline_distil_whisper import DistilWhisperASRPipeline, install_pipeline

RATE = 16000
GREEDY = {"num_beams": 1, "max_new_tokens": 6, "device": "cpu"}


class StandInConfig(WhisperConfig):
    model_type = "distilwhisper"


class StandIn(WhisperForConditionalGeneration):
    """Plain Whisper as a DistilWhisper model without experts, which notes what it is asked to decode."""

    config_class = StandInConfig

    def generate(self, input_features: torch.Tensor, *, expert: Any = None, **kwargs: Any) -> Any:
        language = kwargs.get("language")
        for row, features in enumerate(input_features):
            languages, experts = (value if isinstance(value, list) else [value] * 99 for value in (language, expert))
            self.served.append((loudest_mel_bin(features), languages[row], experts[row]))
        for values in (language, expert):
            if isinstance(values, list) and len(values) != len(input_features):
                raise ValueError(f"{len(values)} values for {len(input_features)} rows")
        return super().generate(input_features, **kwargs)

    def _prepare_decoder_input_ids_for_generation(
        self,
        batch_size: int,
        model_input_name: str,
        model_kwargs: dict[str, Any],
        decoder_start_token_id: torch.Tensor,
        device: torch.device | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        return model_kwargs.pop("decoder_input_ids"), model_kwargs


def tone(index: int, seconds: float = 1.5) -> np.ndarray:
    """A clip that is known by its pitch."""
    times = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * (300 + 400 * index) * times)).astype(np.float32)


def loudest_mel_bin(features: torch.Tensor) -> int:
    """`(mel bins, frames)` -> the mel bin that is loudest at the start."""
    return int(features[:, 10:60].mean(dim=1).argmax())


def small_config(config_class: type[WhisperConfig]) -> WhisperConfig:
    special = {"bos_token_id": 50257, "eos_token_id": 50257, "pad_token_id": 50257, "decoder_start_token_id": 50258}
    return config_class(
        vocab_size=VOCAB_SIZE,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=1,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=128,
        init_std=0.4,
        attn_implementation="eager",
        **special,
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def processor() -> WhisperProcessor:
    return tiny_processor()


@pytest.fixture(scope="module")
def whisper() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(small_config(WhisperConfig)).eval()
    model.generation_config = tiny_generation_config(decoder_layers=3)
    return model


@pytest.fixture(scope="module")
def model(whisper: WhisperForConditionalGeneration) -> StandIn:
    return stand_in(whisper)


def stand_in(whisper: WhisperForConditionalGeneration) -> StandIn:
    model = StandIn(StandInConfig(**{**whisper.config.to_dict(), "model_type": "distilwhisper"})).eval()
    model.load_state_dict(whisper.state_dict())
    model.generation_config = copy.deepcopy(whisper.generation_config)
    model.set_attn_implementation(whisper.config._attn_implementation)
    model.served = []
    return model


@pytest.fixture()
def pipe(model: StandIn, processor: WhisperProcessor) -> DistilWhisperASRPipeline:
    model.served.clear()
    return DistilWhisperASRPipeline(model, processor.feature_extractor, processor.tokenizer, **GREEDY)


@pytest.fixture(scope="module")
def stock(whisper: WhisperForConditionalGeneration, processor: WhisperProcessor) -> AutomaticSpeechRecognitionPipeline:
    return AutomaticSpeechRecognitionPipeline(whisper, processor.feature_extractor, processor.tokenizer, **GREEDY)


def served(pipe: DistilWhisperASRPipeline) -> list[tuple[int, str | None, str | None]]:
    """Which tone the model was asked to decode with which language and expert, in order."""
    mel_bins = {
        loudest_mel_bin(
            pipe.feature_extractor(tone(index), sampling_rate=RATE, return_tensors="pt").input_features[0]
        ): index
        for index in range(6)
    }
    return [(mel_bins[mel_bin], language, expert) for mel_bin, language, expert in pipe.model.served]


def audio_file(waveform: np.ndarray, rate: int, file_format: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=file_format)
    return file.getvalue()


# --- Equal to Whisper's pipeline ---


@pytest.mark.parametrize(
    ("seconds", "options"),
    [
        (7.0, {}),
        (7.0, {"language": "ca"}),
        (7.0, {"generate_kwargs": {"language": "Catalan", "task": "translate"}}),
        (7.0, {"return_language": True}),
        (7.0, {"num_beams": 3, "num_return_sequences": 2}),
        (7.0, {"return_timestamps": "word"}),
        (33.0, {"return_timestamps": True}),
        (33.0, {"return_timestamps": "word"}),
        (33.0, {"return_timestamps": True, "return_language": True, "language": "th"}),
        (33.0, {"chunk_length_s": 14, "language": "pl"}),
        (33.0, {"chunk_length_s": 14, "stride_length_s": (2, 0.5), "return_timestamps": True}),
        (33.0, {"chunk_length_s": 14, "return_timestamps": "word"}),
    ],
    ids=str,
)
def test_equals_the_stock_pipeline(
    pipe: DistilWhisperASRPipeline,
    stock: AutomaticSpeechRecognitionPipeline,
    seconds: float,
    options: dict[str, Any],
) -> None:
    """Silent failure: text cut at 30 s, no times, another prompt, because the model type is not "whisper"."""
    clip = tone(1, seconds)
    assert pipe(clip, **options) == stock(clip, **options)


def test_long_audio_needs_no_timestamps(
    pipe: DistilWhisperASRPipeline, stock: AutomaticSpeechRecognitionPipeline
) -> None:
    """Failure: for the text of a long clip one has to know that timestamps must be asked for."""
    expected = {"text": stock(tone(1, 33.0), return_timestamps=True)["text"]}
    assert pipe(tone(1, 33.0)) == pipe(tone(1, 33.0), return_timestamps=False) == expected


def test_equals_the_stock_pipeline_with_a_prompt(
    pipe: DistilWhisperASRPipeline, stock: AutomaticSpeechRecognitionPipeline
) -> None:
    """Silent failure: the prompt is dropped, or its tokens appear in the text."""
    prompt = pipe.tokenizer.get_prompt_ids("Un glossari", return_tensors="pt")
    for options in (
        {"prompt_ids": prompt},
        {"prompt_ids": prompt, "return_language": True, "return_timestamps": True},
    ):
        transcript = pipe(tone(1), generate_kwargs=options)
        assert transcript == stock(tone(1), generate_kwargs=options)
        assert transcript["text"] != pipe(tone(1))["text"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_timestamps": True, "return_language": True},
        {"return_timestamps": "word", "return_language": True},
        {"chunk_length_s": 20, "return_language": True},
        {"num_beams": 2, "num_return_sequences": 2},
    ],
    ids=str,
)
def test_a_batch_gives_what_its_inputs_give_alone(pipe: DistilWhisperASRPipeline, options: dict[str, Any]) -> None:
    """Silent failure: a short clip decoded otherwise because a long one is with it, rows in another order, a row with
    the language or the second hypothesis of its neighbour. Five inputs do not fill batches of four."""
    clips = [tone(0), tone(1, 33.0), tone(2), tone(3, 41.0), tone(4)]
    languages = [None, "ca", None, "en", "pl"]
    alone = [pipe(clip, language=language, **options) for clip, language in zip(clips, languages, strict=True)]
    assert pipe(clips, language=languages, batch_size=4, **options) == alone
    assert len({transcript["text"] for transcript in alone}) == 5


# --- What the stock pipeline gets wrong ---


def test_word_times_do_not_depend_on_return_language(
    pipe: DistilWhisperASRPipeline, stock: AutomaticSpeechRecognitionPipeline
) -> None:
    """Silent failure: with the language, every word gets the times of the next one."""
    clip = np.concatenate([tone(index, 2.0) for index in (3, 1, 4, 0, 5)])
    words = pipe(clip, language="ca", return_timestamps="word", return_language=True)["chunks"]
    expected = stock(clip, language="ca", return_timestamps="word")["chunks"]
    assert len({word["timestamp"] for word in expected}) > 1
    assert words == [{**word, "language": "catalan"} for word in expected]


def test_language_is_returned_for_each_row(pipe: DistilWhisperASRPipeline) -> None:
    """Silent failure: all rows are reported in the language of the first one."""
    transcripts = pipe([tone(0), tone(1), tone(2)], language=["ca", "th", "pl"], batch_size=3, return_language=True)
    assert [row["chunks"][0]["language"] for row in transcripts] == ["catalan", "thai", "polish"]


def test_words_end_where_the_language_has_them_end(
    pipe: DistilWhisperASRPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent failure: a Thai sentence is one word, since the tokenizer does not learn the language of the row."""
    tokens = torch.tensor(pipe.tokenizer("กขค", add_special_tokens=False).input_ids)
    times = torch.arange(1, len(tokens) + 1) / 10

    def generate(language: list[str], **_: Any) -> dict[str, Any]:
        prompt = torch.tensor([SPECIAL_IDS["<|startoftranscript|>"], SPECIAL_IDS[f"<|{language[0]}|>"]])
        segment = {"tokens": tokens, "token_timestamps": times, "result": torch.cat([prompt, tokens])}
        return {"sequences": tokens[None], "token_timestamps": times[None], "segments": [[segment]]}

    monkeypatch.setattr(pipe.model, "generate", generate)
    assert [word["text"] for word in pipe(tone(0), language="th", return_timestamps="word")["chunks"]] == [
        "ก",
        "ข",
        "ค",
    ]
    assert [word["text"] for word in pipe(tone(0), language="ca", return_timestamps="word")["chunks"]] == ["กขค"]


def test_a_row_without_segments_is_empty(pipe: DistilWhisperASRPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure: one silent clip, which Whisper skips, loses its whole batch."""
    nothing = {"sequences": torch.full((1, 1), 50257), "token_timestamps": torch.zeros(1, 1), "segments": [[]]}
    monkeypatch.setattr(pipe.model, "generate", lambda **_: nothing)
    assert pipe(tone(0), return_timestamps="word", return_language=True) == {"text": "", "chunks": []}


def test_chunks_longer_than_the_window_are_refused(pipe: DistilWhisperASRPipeline) -> None:
    """Silent failure: 30 of every 60 s are transcribed."""
    with pytest.raises(ValueError, match=r"at most 30 s.*got 60"):
        pipe(tone(0), chunk_length_s=60)


# --- Languages and experts ---


class Rows(Dataset):
    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


LANGUAGES = ["ca", None, "en", "pl", None]
EXPERTS = [None, "ca-medical", None, "ca", "sc"]


@pytest.mark.parametrize(
    ("given", "batch_size"),
    [
        ("arguments", 1),
        ("arguments", 3),
        ("generate_kwargs", 8),
        ("rows", 2),
        ("data set", 2),
        ("generator", 2),
        ("tuple", 2),
    ],
)
def test_every_input_has_its_own_language_and_expert(
    pipe: DistilWhisperASRPipeline, given: str, batch_size: int
) -> None:
    """Silent failure: a clip is transcribed with its neighbour's language or expert, or with none."""
    lists = {"language": LANGUAGES, "expert": EXPERTS}
    clips = [tone(index) for index in range(5)]
    rows = [
        {"array": clip, "sampling_rate": RATE, "language": language, "expert": expert}
        for clip, language, expert in zip(clips, LANGUAGES, EXPERTS, strict=True)
    ]
    inputs, options = {
        "arguments": (clips, lists),
        "generate_kwargs": (clips, {"generate_kwargs": lists}),
        "rows": (rows, {}),
        "data set": (Rows(rows), {}),
        "generator": ((clip for clip in clips), lists),
        "tuple": (tuple(clips), lists),
    }[given]
    transcripts = list(pipe(inputs, batch_size=batch_size, max_new_tokens=1, **options))
    assert [set(transcript) for transcript in transcripts] == [{"text"}] * 5
    assert sorted(served(pipe)) == sorted(zip(range(5), LANGUAGES, EXPERTS, strict=True))


def test_a_row_with_a_start_is_its_segment(pipe: DistilWhisperASRPipeline, tmp_path: Path) -> None:
    """Prevents the whole file, or its beginning, in place of the stretch that a row of a table means."""
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate([tone(index) for index in range(4)]), RATE)
    rows = [{"audio": str(path), "offset": 3.0, "duration": 1.5}, {"audio": str(path), "start": 1.5, "end": 3.0}]
    rows += [{"path": str(path), "start_time": "4.5"}, {"audio": str(path), "duration": 6.0}]
    result = pipe(rows)
    assert [index for index, _, _ in served(pipe)] == [2, 1, 3, 0]
    assert result[0]["offset"] == [3.0]
    with pytest.raises(ValueError, match=r"lasts 6\.00 s, got 5 to 7 s"):
        pipe({"audio": str(path), "offset": 5, "duration": 2})
    with pytest.raises(ValueError, match="'0:05', expected seconds"):
        pipe({"audio": str(path), "offset": "0:05"})


def test_what_lies_behind_an_address_is_a_file_like_any(pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent failure: a segment of an address is all of it. Failure: a page that says "not found" is decoded."""
    asked = []

    def get(address: str, **options: Any) -> Any:
        asked.append((address, options))
        request = audio_input.httpx.Request("GET", address)
        found = not address.endswith("gone.wav")
        content = audio_file(np.concatenate([tone(1), tone(2)]), RATE, "FLAC") if found else b"not found"
        return audio_input.httpx.Response(200 if found else 404, request=request, content=content)

    monkeypatch.setattr(audio_input.httpx, "get", get)
    pipe([{"audio": "https://example.org/a.flac", "offset": 1.5}, {"path": "http://example.org/a.flac", "offset": 0.1}])
    assert [index for index, _, _ in served(pipe)] == [2, 1]
    assert asked[0] == ("https://example.org/a.flac", {"follow_redirects": True})
    with pytest.raises(audio_input.httpx.HTTPStatusError, match=r"404.*gone\.wav"):
        pipe("https://example.org/gone.wav")


def test_all_chunks_of_a_clip_keep_its_choices(pipe: DistilWhisperASRPipeline) -> None:
    """Silent failure: from its second chunk on, a clip is transcribed in the language of the next one."""
    clips = [tone(0, 12.0), tone(1), tone(2, 9.0)]
    pipe(clips, language=["ca", None, "pl"], expert=["a", "b", None], chunk_length_s=5, batch_size=2, max_new_tokens=1)
    assert set(served(pipe)) == {(0, "ca", "a"), (1, None, "b"), (2, "pl", None)}
    assert len(served(pipe)) > 5


def test_one_name_holds_for_all_inputs_and_over_their_own(pipe: DistilWhisperASRPipeline) -> None:
    """Silent failure: the language of the call is overruled by a column that happens to be called so."""
    rows = [{"raw": tone(0), "sampling_rate": RATE, "language": "en"}, {"raw": tone(1), "sampling_rate": RATE}]
    pipe(rows, language="ca", expert="sc", batch_size=2, max_new_tokens=1)
    assert served(pipe) == [(0, "ca", "sc"), (1, "ca", "sc")]


def test_none_in_a_list_leaves_it_to_the_row(pipe: DistilWhisperASRPipeline) -> None:
    """Silent failure: the language that a row names is thrown away, and detected instead."""
    rows = [{"raw": tone(0), "sampling_rate": RATE, "language": "en"}, {"raw": tone(1), "sampling_rate": RATE}]
    pipe(rows, language=[None, None], expert=[None, "sc"], max_new_tokens=1)
    assert served(pipe) == [(0, "en", None), (1, None, "sc")]


def test_choices_of_the_constructor_hold_until_a_call_makes_its_own(
    model: StandIn, processor: WhisperProcessor
) -> None:
    """Silent failure: `pipeline(..., generate_kwargs={"language": ...})` is forgotten, or cannot be overruled."""
    parts = (model, processor.feature_extractor, processor.tokenizer)
    pipe = DistilWhisperASRPipeline(*parts, generate_kwargs={"language": "ca"}, **GREEDY)
    model.served.clear()
    pipe([tone(0), tone(1)], batch_size=2)
    pipe([tone(2), tone(3)], language=["en", None])
    assert served(pipe) == [(0, "ca", None), (1, "ca", None), (2, "en", None), (3, None, None)]


@pytest.mark.parametrize("choice", ["language", "expert"])
@pytest.mark.parametrize("names", [["ca"], ["ca", "en", "pl"], []])
def test_lists_must_be_as_long_as_the_inputs(pipe: DistilWhisperASRPipeline, choice: str, names: list[str]) -> None:
    """Silent failure: inputs without a partner are dropped, or take the names of others."""
    for inputs in ([tone(0), tone(1)], Rows([tone(0), tone(1)])):
        with pytest.raises(ValueError, match=f"each of 2 inputs, got {len(names)} in the list `{choice}`"):
            pipe(inputs, **{choice: names})
    with pytest.raises(ValueError, match=f"each of (2|at least {len(names) + 1}) inputs, got .* `{choice}`"):
        list(pipe((clip for clip in (tone(0), tone(1))), max_new_tokens=1, **{choice: names}))
    with pytest.raises(ValueError, match=f"each of 1 inputs, got 2 in the list `{choice}`"):
        pipe(tone(0), **{choice: ["ca", "en"]})


def test_names_must_be_names(pipe: DistilWhisperASRPipeline) -> None:
    """Failure: a number from a data set's class label reaches generate, which fails obscurely."""
    with pytest.raises(ValueError, match="language of an input to be a name or None, got 3"):
        pipe({"raw": tone(0), "sampling_rate": RATE, "language": 3})


# --- Inputs ---


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
def test_files_are_decoded_and_resampled(tmp_path: Path, file_format: str) -> None:
    """Failure: no ffmpeg, no transcript. Silent failure: 44.1 kHz taken for 16 kHz, or one of two channels lost."""
    times = np.arange(44100) / 44100
    left, right = 0.4 * np.sin(2 * np.pi * 500 * times), 0.2 * np.sin(2 * np.pi * 900 * times)
    content = audio_file(np.stack([left, right], axis=1), 44100, file_format)
    path = tmp_path / "clip"
    path.write_bytes(content)
    times = np.arange(RATE) / RATE
    expected = 0.2 * np.sin(2 * np.pi * 500 * times) + 0.1 * np.sin(2 * np.pi * 900 * times)
    for audio in (content, str(path), path, {"bytes": content, "path": "elsewhere"}, {"bytes": None, "path": path}):
        waveform, source_rate = load_audio(audio, RATE)
        assert waveform.dtype == np.float32 and source_rate == 44100
        assert waveform.shape == (RATE,)
        # Lossy formats, and the ends of the clip, are a little off; another rate or channel would be off by more.
        assert np.abs(waveform - expected)[800:-800].max() < 0.05


@pytest.mark.parametrize("as_tensor", [False, True])
def test_waveforms_are_resampled_and_mixed(as_tensor: bool) -> None:
    """Silent failure: a waveform is read at a wrong rate, or its channels one after the other."""
    stereo = np.stack([np.ones(48000), np.zeros(48000)])
    array = torch.from_numpy(stereo).to(torch.bfloat16) if as_tensor else stereo
    waveform, source_rate = load_audio({"array": array, "sampling_rate": 48000}, RATE)
    assert waveform.shape == (RATE,) and waveform.dtype == np.float32 and source_rate == 48000
    assert np.abs(waveform[100:-100] - 0.5).max() < 1e-3


def test_what_cannot_be_decoded_is_named(pipe: DistilWhisperASRPipeline, tmp_path: Path) -> None:
    """Failure: one bad file of thousands, and the message does not say which nor what to do."""
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"Expected an audio file, got .*broken\.wav"):
        pipe(str(tmp_path / "broken.wav"))
    with pytest.raises(FileNotFoundError, match=r"absent\.wav"):
        pipe(str(tmp_path / "absent.wav"))
    with pytest.raises(ValueError, match="got no samples in bytes"):
        pipe(audio_file(np.zeros(0), RATE, "WAV"))


@pytest.mark.parametrize(
    ("audio", "error", "message"),
    [
        (np.zeros(0, np.float32), ValueError, "no samples in ndarray"),
        (np.zeros(RATE, np.int16), ValueError, "floats in .*got int16. Divide"),
        (np.full(RATE, np.nan), ValueError, "not finite in ndarray"),
        (np.zeros((RATE, 2)), ValueError, r"got \(16000, 2\)\. Transpose"),
        (np.zeros((2, 2, RATE)), ValueError, r"got \(2, 2, 16000\)"),
        ([0.0, 0.1], TypeError, "got float"),
        ({"array": [0.0, 0.1], "sampling_rate": RATE}, TypeError, "got list"),
        ({"array": np.zeros(RATE)}, ValueError, r"sampling_rate.*got the keys \['array'\]"),
        ({"language": "ca"}, ValueError, r"got the keys \[\]"),
    ],
)
def test_misuse_is_refused(pipe: DistilWhisperASRPipeline, audio: Any, error: type[Exception], message: str) -> None:
    """Silent failure: "you" is transcribed from an empty clip, or from integers that are taken for floats."""
    with pytest.raises(error, match=message):
        pipe(audio)


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure: a bare ModuleNotFoundError from within."""
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(ImportError, match="pip install soxr"):
        load_audio({"array": tone(0), "sampling_rate": 8000}, RATE)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match="pip install soundfile"):
        load_audio(b"", RATE)


def test_audio_decoders_of_torchcodec_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure: rows of a data set whose audio is decoded on access are refused, or need torchaudio."""

    class AudioDecoder:
        def get_all_samples(self) -> types.SimpleNamespace:
            return types.SimpleNamespace(data=torch.full((2, 8000), 0.25), sample_rate=8000)

    decoders = types.SimpleNamespace(AudioDecoder=AudioDecoder)
    monkeypatch.setitem(sys.modules, "torchcodec", types.SimpleNamespace(decoders=decoders))
    waveform, source_rate = load_audio(AudioDecoder(), RATE)
    assert waveform.shape == (RATE,) and source_rate == 8000


def test_rows_keep_their_columns_but_not_their_text(pipe: DistilWhisperASRPipeline) -> None:
    """Silent failure: the reference of a row comes back as its transcript, or the caller's row is emptied; a batch of
    rows with different columns fails."""
    audio = {"array": tone(1), "sampling_rate": RATE, "path": "x"}
    row = {"audio": audio, "text": "reference", "speaker": "a", "language": "ca"}
    before = copy.deepcopy(row)
    transcripts = pipe([row, tone(2), {**audio, "id": 7}], batch_size=3)
    plain = [pipe(tone(1), language="ca"), pipe(tone(2)), pipe(tone(1))]
    assert transcripts == [{**plain[0], "speaker": ["a"]}, plain[1], {**plain[2], "id": [7]}]
    assert row.keys() == before.keys() and row["audio"].keys() == before["audio"].keys()


def test_strides_are_resampled(pipe: DistilWhisperASRPipeline, stock: AutomaticSpeechRecognitionPipeline) -> None:
    """Silent failure: the overlap of a chunk that the caller has cut is counted at the wrong rate."""
    at_model_rate = {"raw": tone(1, 6.0), "sampling_rate": RATE, "stride": (RATE, 2 * RATE)}
    expected = stock(dict(at_model_rate), return_timestamps=True)
    assert pipe(at_model_rate, return_timestamps=True) == expected
    windows = pipe.preprocess({"raw": np.repeat(tone(1, 6.0), 3), "sampling_rate": 3 * RATE, "stride": (3 * RATE, 0)})
    assert [item["window"].stride for item in windows] == [(6 * RATE, RATE, 0)]


def test_data_sets_of_the_datasets_library(pipe: DistilWhisperASRPipeline, tmp_path: Path) -> None:
    """Failure: a data set with a language column has to be taken apart first."""
    datasets = pytest.importorskip("datasets")
    files = [str(tmp_path / f"{index}.wav") for index in range(3)]
    for index, file in enumerate(files):
        soundfile.write(file, tone(index), RATE, subtype="FLOAT")
    rows = datasets.Dataset.from_dict({"audio": files, "language": ["ca", None, "pl"]})
    rows = rows.cast_column("audio", datasets.Audio(decode=False))
    transcripts = list(pipe(rows, batch_size=2))
    assert transcripts == pipe([tone(0), tone(1), tone(2)], language=["ca", None, "pl"])


def test_inputs_can_be_prepared_in_a_worker(pipe: DistilWhisperASRPipeline) -> None:
    """Failure: windows or rows cannot be sent between processes."""
    clips, languages = [tone(0), tone(1), tone(2)], ["ca", None, "pl"]
    assert pipe(clips, language=languages, num_workers=1, batch_size=2) == pipe(clips, language=languages)


# --- How it comes to be used ---


def test_stock_ways_lead_to_it(model: StandIn, processor: WhisperProcessor) -> None:
    """Failure: the stock class takes the model for a CTC model, and dies with an obscure error."""
    install_pipeline()
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor, "device": "cpu"}
    for pipe in (
        pipeline("automatic-speech-recognition", model=model, **parts),
        AutomaticSpeechRecognitionPipeline(model=model, **parts),
        AutomaticSpeechRecognitionPipeline(model, **parts),
    ):
        assert type(pipe) is DistilWhisperASRPipeline and pipe.type == "seq2seq_whisper"
        assert pipe.model.config.model_type == "distilwhisper"
        assert pipe(tone(1), num_beams=1, max_new_tokens=4)["text"]


def test_other_models_are_left_alone(
    whisper: WhisperForConditionalGeneration, processor: WhisperProcessor, tmp_path: Path
) -> None:
    """Silent failure: importing this package changes the pipelines of other models, or of the whole task."""
    registered = copy.deepcopy(PIPELINE_REGISTRY.supported_tasks)
    install_pipeline()
    assert PIPELINE_REGISTRY.supported_tasks == registered
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor, "device": "cpu"}
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ctc = Wav2Vec2ForCTC(Wav2Vec2Config(conv_dim=(16,) * 7, num_conv_pos_embedding_groups=2, **size))
    for other, kind in ((whisper, "seq2seq_whisper"), (ctc, "ctc")):
        for pipe in (
            pipeline("automatic-speech-recognition", model=other, **parts),
            AutomaticSpeechRecognitionPipeline(model=other, **parts),
            AutomaticSpeechRecognitionPipeline(other, **parts),
        ):
            assert type(pipe) is AutomaticSpeechRecognitionPipeline and pipe.type == kind
            assert type(copy.copy(pipe)) is AutomaticSpeechRecognitionPipeline
    pipe.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())

    class Theirs(AutomaticSpeechRecognitionPipeline):
        pass

    assert type(Theirs(model=whisper, **parts)) is Theirs


def test_installing_again_changes_nothing(model: StandIn, processor: WhisperProcessor) -> None:
    """Silent failure: every import, and every copy of this file as remote code, adds a layer to the stock class."""
    install_pipeline()
    installed = AutomaticSpeechRecognitionPipeline.__new__
    install_pipeline()
    assert AutomaticSpeechRecognitionPipeline.__new__ is installed

    name = "distil_whisper_hf.a_second_copy_of_pipeline_distil_whisper"
    spec = importlib.util.spec_from_file_location(name, pipeline_distil_whisper.__file__)
    second = importlib.util.module_from_spec(spec)
    sys.modules[name] = second
    spec.loader.exec_module(second)
    second.install_pipeline()
    assert AutomaticSpeechRecognitionPipeline.__new__ is installed
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor, "device": "cpu"}
    assert type(AutomaticSpeechRecognitionPipeline(model=model, **parts)) is DistilWhisperASRPipeline
    assert type(second.DistilWhisperASRPipeline(model=model, **parts)) is second.DistilWhisperASRPipeline
    del sys.modules[name]


def test_another_library_that_chooses_classes_is_still_asked(
    model: StandIn, whisper: WhisperForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent failure: what another library has put in the same place is lost."""
    asked = []

    def theirs(cls: type, *args: Any, **kwargs: Any) -> Any:
        asked.append(cls)
        return object.__new__(cls)

    monkeypatch.setattr(AutomaticSpeechRecognitionPipeline, "__new__", staticmethod(theirs))
    install_pipeline()
    AutomaticSpeechRecognitionPipeline.__new__(AutomaticSpeechRecognitionPipeline, model=whisper)
    AutomaticSpeechRecognitionPipeline.__new__(AutomaticSpeechRecognitionPipeline, model=model)
    assert asked == [AutomaticSpeechRecognitionPipeline, DistilWhisperASRPipeline]


def test_saved_folders_need_no_remote_code(pipe: DistilWhisperASRPipeline, tmp_path: Path) -> None:
    """Silent failure: everyone who opens the folder is asked for trust_remote_code."""
    pipe.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "distilwhisper"
    assert not {"custom_pipelines", "auto_map"} & config.keys()
    assert not list(tmp_path.glob("*.py"))


# --- Real weights and real speech ---


def _real_folder(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set")
    return Path(os.environ[variable])


@pytest.fixture(scope="module")
def real() -> tuple[DistilWhisperASRPipeline, AutomaticSpeechRecognitionPipeline]:
    """Ours and the stock pipeline, on the same real whisper-base."""
    base = _real_folder("DISTIL_WHISPER_REAL_BASE")
    whisper = WhisperForConditionalGeneration.from_pretrained(base)
    processor = WhisperProcessor.from_pretrained(base)
    parts = (processor.feature_extractor, processor.tokenizer)
    options = {"num_beams": 1, "max_new_tokens": 100, "device": "cpu"}
    ours = DistilWhisperASRPipeline(stand_in(whisper), *parts, **options)
    return ours, AutomaticSpeechRecognitionPipeline(whisper, *parts, **options)


@pytest.fixture(scope="module")
def speech() -> dict[str, str]:
    """Real clips by name."""
    folder = _real_folder("DISTIL_WHISPER_REAL_SPEECH")
    paths = {
        "ca": folder / "gcompris-ca" / "audio" / "intro_2clic.ogg",
        "en": folder / "asterisk-en" / "audio" / "agent-alreadyon.ogg",
        "pl": folder / "artikulate-pl",
    }
    with open(paths["pl"] / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "sentence" and row["suspect"] == "0"]
    paths["pl"] = paths["pl"] / max(rows, key=lambda row: float(row["duration"]))["file_name"]
    return {name: str(path) for name, path in paths.items()}


def waveform(path: str) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


def long_clip(speech: dict[str, str]) -> np.ndarray:
    """A little more than 30 s, of several English prompts."""
    clip = np.zeros(0, np.float32)
    for file in sorted(Path(speech["en"]).parent.glob("[ac]*.ogg")):
        if len(clip) < 32 * RATE:
            clip = np.concatenate([clip, waveform(str(file))])
    assert len(clip) > 32 * RATE
    return clip


@pytest.mark.real
@pytest.mark.parametrize(
    "options", [{"return_timestamps": True}, {"return_timestamps": "word"}, {"return_language": True}], ids=str
)
def test_real_speech_equals_the_stock_pipeline(real: Any, speech: dict[str, str], options: dict[str, Any]) -> None:
    """Silent failure: text, times or languages differ from Whisper's on speech, where tones do not show it."""
    ours, stock = real
    paths = list(speech.values())
    clips = [waveform(path) for path in paths]
    expected = [stock(clip, **options) for clip in clips]
    assert all(transcript["text"] for transcript in expected)
    assert [ours(path, **options) for path in paths] == expected
    if options == {"return_timestamps": "word"}:
        # Whisper aligns a row together with the padding behind its tokens, so that times shift a little in batches.
        in_batch = stock(clips, batch_size=3, **options)
        assert largest_shift(in_batch, expected) < 0.1
        expected = in_batch
    assert ours(paths, batch_size=3, **options) == expected


def largest_shift(transcripts: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """By how many s the times of the same words differ at most."""
    words, same_words = (
        [word for transcript in side for word in transcript["chunks"]] for side in (transcripts, others)
    )
    assert [word["text"] for word in words] == [word["text"] for word in same_words]
    times, other_times = (np.array([word["timestamp"] for word in side]) for side in (words, same_words))
    return float(np.abs(times - other_times).max())


@pytest.mark.real
def test_real_mixed_languages(real: Any, speech: dict[str, str]) -> None:
    """Silent failure: in a batch of several languages, clips are transcribed in each other's."""
    ours, stock = real
    expected = [stock(waveform(path), language=language)["text"] for language, path in speech.items()]
    transcripts = ours(list(speech.values()), language=list(speech), batch_size=2, return_language=True)
    assert [transcript["text"] for transcript in transcripts] == expected
    languages = [transcript["chunks"][0]["language"] for transcript in transcripts]
    assert languages == ["catalan", "english", "polish"]
    assert ours(speech["ca"], language="en")["text"] != expected[0]


@pytest.mark.real
def test_real_long_audio(real: Any, speech: dict[str, str]) -> None:
    """Silent failure: a long clip is cut at 30 s, or decoded otherwise in a batch with short ones."""
    ours, stock = real
    clip = long_clip(speech)
    inputs, languages = [clip, *speech.values()], ["en", *speech]
    waveforms = [clip, *(waveform(path) for path in speech.values())]

    expected = [
        stock(audio, language=language, return_timestamps="word")
        for audio, language in zip(waveforms, languages, strict=True)
    ]
    transcripts = ours(inputs, language=languages, batch_size=4, return_timestamps="word")
    assert [transcript["text"] for transcript in transcripts] == [transcript["text"] for transcript in expected]
    assert largest_shift(transcripts, expected) < 0.1
    assert expected[0]["chunks"][-1]["timestamp"][0] > 30
    assert ours(clip, language="en", return_timestamps="word") == expected[0]

    chunked = {"chunk_length_s": 25, "return_timestamps": True}
    assert ours(inputs[:2], language=["en", "ca"], batch_size=2, **chunked) == [
        stock(clip, language="en", **chunked),
        stock(waveforms[1], language="ca", **chunked),
    ]
    detected = ours([clip, speech["en"]], language=[None, "en"], batch_size=2, return_language=True)
    assert detected[0]["text"] == stock(clip, return_timestamps=True)["text"]
    assert {chunk["language"] for transcript in detected for chunk in transcript["chunks"]} == {"english"}
