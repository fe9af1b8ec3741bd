"""Speech recognition pipeline for DistilWhisper models.

It does what transformers' pipeline does for Whisper, and treats every input as a row of its own: with its language and
expert, and a result independent of its batch (only word times, Whisper's own, shift by a frame or two of 20 ms). Files
and what lies behind addresses are decoded as in training (see `audio_files`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import zip_longest
from types import GeneratorType
from typing import Any, Literal, cast

import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.data import Dataset
from transformers import AutomaticSpeechRecognitionPipeline, WhisperFeatureExtractor, WhisperForConditionalGeneration

from .audio_input import load_audio
from .segments import row_segment
from .transformers_contract import TRANSFORMERS_VERSION

MODEL_TYPE = "distilwhisper"
CHOICES = ("language", "expert")
AUDIO_KEYS = ("raw", "array", "sampling_rate", "stride", "bytes", "path")


@dataclass(frozen=True)
class Window:
    """What one decoding starts from: an input, or one chunk of it.

    A class, because the stock collation leaves what it does not know in a list: it can pad neither spectrograms of
    different lengths nor inputs with different keys.

    features: log-mel spectrogram, `(1, mel bins, frames)`, 100 frames per second; attention_mask: `(1, frames)`.
    stride: samples in the window, and how many on its left and right belong to its neighbours as well.
    extra: what the input carried besides.
    """

    features: torch.Tensor
    attention_mask: torch.Tensor
    stride: tuple[int, int, int] | None
    language: str | None
    expert: str | None
    extra: dict[str, Any]


class DistilWhisperASRPipeline(AutomaticSpeechRecognitionPipeline):
    """Transcribe audio with a DistilWhisper model; `pipeline("automatic-speech-recognition", model=...)` makes one.

    Takes the arguments of `AutomaticSpeechRecognitionPipeline`, here and in calls. What differs:

    language, expert: a name for all inputs, or a list with a name or None for each; also inside `generate_kwargs`.
        None leaves it to the input's own "language" or "expert" key, if it is a dict that has one, else to the model,
        which detects the language and chooses the expert by the language. A language by any of its names: "ca",
        "Catalan", "ca_es" (see `languages.language_code`).
    inputs: what the stock pipeline takes; dicts with any of it under "audio"; files as dicts with "bytes" or "path".
        A dict with a start ("offset", "start" or "start_time", in s) is that segment of its audio, up to an end or for
        a "duration", as a row of a table is. Further keys of a dict come back in its result, as lists with one entry
        per chunk; "text" and "chunks" do not.

    Raises, beside the errors of `load_audio`:
        ValueError: a list that is not as long as the inputs (for a generator, when it turns out); chunks longer than
            the model's window.
    """

    model: WhisperForConditionalGeneration
    feature_extractor: WhisperFeatureExtractor

    # The stock constructor derives the type from config.model_type, takes unknown models for CTC models, and needs the
    # type at once to check its arguments. What it assigns is ignored, rather than the config changed.
    @property
    def type(self) -> Literal["seq2seq_whisper"]:
        """How the stock methods decode: as Whisper."""
        return "seq2seq_whisper"

    @type.setter
    def type(self, value: str) -> None:
        pass

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Transcribe one input to a dict, a list or tuple to a list of dicts, a generator or data set to an iterator.

        A dict has "text", and with `return_timestamps` or `return_language` "chunks": dicts with "text", "timestamp"
        (start and end in s) and "language" (its English name).
        """
        # The stock pipeline would take a tuple, or a data set of the datasets library, for a single input.
        known = (str, bytes, os.PathLike, dict, np.ndarray, torch.Tensor, list, GeneratorType, Dataset)
        if isinstance(inputs, Iterable) and not isinstance(inputs, known):
            inputs = list(inputs) if isinstance(inputs, tuple) else (row for row in inputs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess_params, forward_params, postprocess_params = super()._sanitize_parameters(**parameters)
        # They belong to inputs, not to batches: they travel with the audio.
        preprocess_params |= {choice: forward_params.pop(choice) for choice in CHOICES if choice in forward_params}
        return preprocess_params, forward_params, postprocess_params

    def get_iterator(
        self, inputs: Iterable[Any], num_workers: int, batch_size: int, preprocess_params: dict[str, Any], *params: Any
    ) -> Iterator[dict[str, Any]]:
        """The stock iterator, over inputs that each carry their entries of the lists of languages and experts."""
        chosen = {key: preprocess_params[key] for key in CHOICES if key in preprocess_params}
        lists = {key: names for key, names in chosen.items() if isinstance(names, (list, tuple))}
        if lists:
            inputs = RowsWithChoices(inputs, lists)
            preprocess_params = {key: value for key, value in preprocess_params.items() if key not in lists}
        return super().get_iterator(inputs, num_workers, batch_size, preprocess_params, *params)

    def preprocess(
        self,
        inputs: Any,
        chunk_length_s: float = 0,
        stride_length_s: float | Sequence[float] | None = None,
        language: str | None = None,
        expert: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Cut one input into windows: one, or chunks of `chunk_length_s` s that overlap by `stride_length_s` s."""
        if chunk_length_s > self.feature_extractor.chunk_length:
            raise ValueError(
                f"Expected chunk_length_s of at most {self.feature_extractor.chunk_length} s, the model's window, got "
                f"{chunk_length_s}: the rest of every chunk would be lost. Leave it out; long audio does not need it."
            )
        audio, extra = split_row(inputs)
        chosen = {choice: extra.pop(choice, None) for choice in CHOICES}
        chosen |= {key: name for key, name in (("language", language), ("expert", expert)) if name is not None}
        for choice, name in chosen.items():
            if name is not None and not isinstance(name, str):
                raise ValueError(f"Expected the {choice} of an input to be a name or None, got {name!r}.")

        start, duration = row_segment(extra) or (None, None)
        stride = audio.get("stride") if isinstance(audio, dict) else None
        rate = self.feature_extractor.sampling_rate
        audio, source_rate = load_audio(audio, rate, start=start, duration=duration)
        if stride is not None:
            stride = tuple(round(samples * rate / source_rate) for samples in stride)
            audio = {"raw": audio, "sampling_rate": rate, "stride": stride}
        for item in super().preprocess(audio, chunk_length_s, stride_length_s):
            features, attention_mask = item["input_features"], item["attention_mask"]
            window = Window(features, attention_mask, item.get("stride"), **chosen, extra=extra)
            yield {"is_last": item["is_last"], "window": window}

    def _forward(
        self,
        model_inputs: dict[str, Any],
        return_timestamps: bool | Literal["word"] = False,
        return_language: bool | None = None,
        **generate_kwargs: Any,
    ) -> dict[str, Any]:
        """Decode a window, or a batch of them: `{"is_last": ..., "row": ...}`, lists for a batch."""
        if return_timestamps:
            generate_kwargs["return_timestamps"] = True
        if return_timestamps == "word":
            generate_kwargs["return_token_timestamps"] = True
        if return_timestamps == "word" or return_language:
            generate_kwargs["return_segments"] = True

        # Windows in one call of generate must be alike: a clip of up to 30 s is decoded otherwise when longer ones are
        # with it, and languages are given either for all rows or for none.
        batch = model_inputs["window"]
        windows = batch if isinstance(batch, list) else [batch]
        groups: dict[tuple[bool, bool], list[int]] = {}
        for index, window in enumerate(windows):
            is_long = window.features.shape[-1] > self.feature_extractor.nb_max_frames
            groups.setdefault((is_long, window.language is None), []).append(index)
        rows: dict[int, dict[str, Any]] = {}
        for indices in groups.values():
            decoded = self._decode([windows[index] for index in indices], generate_kwargs)
            rows.update(zip(indices, decoded, strict=True))
        in_order = [rows[index] for index in range(len(windows))]
        return {"is_last": model_inputs["is_last"], "row": in_order if isinstance(batch, list) else in_order[0]}

    def _decode(self, windows: list[Window], generate_kwargs: dict[str, Any]) -> list[dict[str, Any]]:
        """Decode windows with one call of generate: for each what the tokenizer's `_decode_asr` needs, and "extra"."""
        kwargs = dict(generate_kwargs)
        frames = max(window.features.shape[-1] for window in windows)
        # Whisper finds its way through long audio by timestamps, whether they are returned or not.
        if frames > self.feature_extractor.nb_max_frames:
            kwargs["return_timestamps"] = True
        if windows[0].language is not None:
            kwargs["language"] = [window.language for window in windows]
        if any(window.expert is not None for window in windows):
            kwargs["expert"] = [window.expert for window in windows]
        generated = self.model.generate(
            input_features=self._stack([window.features for window in windows], frames),
            attention_mask=self._stack([window.attention_mask for window in windows], frames),
            **self._generate_arguments(kwargs),
        )
        generated = {"sequences": generated} if isinstance(generated, torch.Tensor) else generated
        # With num_return_sequences, the first sequence of each window counts.
        per_window = len(generated["sequences"]) // len(windows)
        # English-only models have no language tokens.
        language_ids = set(getattr(self.model.generation_config, "lang_to_id", {}).values())
        rows = []
        for index, window in enumerate(windows):
            row = decoded_row(generated, index * per_window, language_ids)
            stride = {} if window.stride is None else {"stride": window.stride}
            rows.append({**row, **stride, "extra": window.extra})
        return rows

    def _generate_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `generate` with what the stock pipeline adds: its own defaults where nothing else is set."""
        # Up to transformers 5.19 the defaults are in the pipeline's generation config.
        if TRANSFORMERS_VERSION < (5, 20):
            return {"generation_config": self.generation_config, **kwargs}
        return self._prepare_generate_kwargs(kwargs)

    def _stack(self, tensors: list[torch.Tensor], frames: int) -> torch.Tensor:
        """`(1, …, any frames)` each -> `(batch, …, frames)`, zeros behind: Whisper reads no frame that is masked."""
        return torch.cat([pad(tensor, (0, frames - tensor.shape[-1])) for tensor in tensors]).to(self.device)

    def postprocess(self, model_outputs: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
        """Join the decoded windows of one input: "text", "chunks" if asked for, and what the input carried besides."""
        rows = [output["row"] for output in model_outputs]
        extra: dict[str, list[Any]] = {}
        for row in rows:
            for key, value in row.pop("extra").items():
                extra.setdefault(key, []).append(value)
        return {**extra, **super().postprocess(rows, **kwargs)}


def decoded_row(generated: Mapping[str, Any], index: int, language_ids: set[int]) -> dict[str, torch.Tensor]:
    """Row `index` of what `generate` returned, for the tokenizer's `_decode_asr`.

    Returns:
        "tokens" `(1, tokens)`, and if there are times "token_timestamps" `(1, tokens)`, the ends of the tokens in s.
        From segments they begin with the language token, which Whisper cuts off together with the prompt: it is needed
        to report the language, and to know where words end in languages that are written without spaces.
    """
    if "segments" not in generated:
        keys = {"sequences": "tokens", "token_timestamps": "token_timestamps"}
        return {name: generated[key][index][None] for key, name in keys.items() if key in generated}
    segments = generated["segments"][index]
    found: list[int] = []
    # Whisper leaves no segment of what it skips as silence.
    if segments:
        result = segments[0]["result"]
        prompted = result if isinstance(result, torch.Tensor) else result["sequences"]
        found = [token for token in prompted.tolist() if token in language_ids][:1]
    tokens = [torch.tensor(found, dtype=torch.long), *(segment["tokens"].cpu() for segment in segments)]
    row = {"tokens": torch.cat(tokens)[None]}
    if "token_timestamps" in generated:
        times = [torch.zeros(len(found)), *(segment["token_timestamps"].cpu() for segment in segments)]
        row["token_timestamps"] = torch.cat(times)[None]
    return row


class RowsWithChoices:
    """Inputs, each as a row that carries its own entries of lists, such as `{"language": ["ca", None]}`.

    Raises ValueError for a list that is not as long as the inputs: at once, or at their end if they have no length.
    """

    def __init__(self, inputs: Iterable[Any], lists: Mapping[str, Sequence[str | None]]) -> None:
        self.inputs, self.lists = inputs, lists
        if isinstance(inputs, Sized) and any(len(names) != len(inputs) for names in lists.values()):
            raise self._mismatch(str(len(inputs)))

    def __len__(self) -> int:
        return len(cast(Sized, self.inputs))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        ended = object()
        for index, (audio, *names) in enumerate(zip_longest(self.inputs, *self.lists.values(), fillvalue=ended)):
            if audio is ended:
                raise self._mismatch(str(index))
            if any(name is ended for name in names):
                raise self._mismatch(f"at least {index + 1}")
            yield {"audio": audio, **dict(zip(self.lists, names, strict=True))}

    def _mismatch(self, count: str) -> ValueError:
        got = " and ".join(f"{len(names)} in the list `{choice}`" for choice, names in self.lists.items())
        return ValueError(f"Expected a name or None for each of {count} inputs, got {got}. A single name is for all.")


def split_row(row: Any) -> tuple[Any, dict[str, Any]]:
    """Part the audio of an input from what else it carries; the caller's dict is left as it is.

    A dict may hold its audio under "audio" (a row of a data set), there again as a dict. Outer keys win over inner
    ones, except a language or expert of None.
    """
    if not isinstance(row, dict):
        return row, {}
    if "audio" in row:
        audio, inner = split_row(row["audio"])
        outer = {key: row[key] for key in row if key != "audio" and not (key in CHOICES and row[key] is None)}
        return audio, {**inner, **outer}
    audio = {key: row[key] for key in row if key in AUDIO_KEYS}
    return audio, {key: row[key] for key in row if key not in AUDIO_KEYS}


def install_pipeline() -> None:
    """Let transformers' own ways to a speech recognition pipeline lead to ours for DistilWhisper models.

    `pipeline("automatic-speech-recognition", model=...)` and `AutomaticSpeechRecognitionPipeline(model=...)` both call
    the stock class. A `__new__` chooses the class there, as the model is known; all other models get the stock class.
    (A registered class would change the task for all models, and saved folders would ask for `trust_remote_code`.)
    Calling this again changes nothing, nor does a second copy of this module (remote code beside the package): what is
    in place serves the models of all copies.
    """
    stock = AutomaticSpeechRecognitionPipeline
    previous = stock.__new__
    # By name, since a second copy of this module has a function of its own.
    if previous.__name__ == "new_by_model_type":
        return

    def new_by_model_type(cls: type, *args: Any, **kwargs: Any) -> AutomaticSpeechRecognitionPipeline:
        # There is no model when a pipeline is copied or unpickled.
        model = args[0] if args else kwargs.get("model")
        if cls is stock and model is not None and model.config.model_type == MODEL_TYPE:
            cls = DistilWhisperASRPipeline
        return previous(cls) if previous is object.__new__ else previous(cls, *args, **kwargs)

    # In its place, on purpose.
    stock.__new__ = staticmethod(new_by_model_type)  # type: ignore[method-assign, assignment]
