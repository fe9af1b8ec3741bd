"""Windows of 30 s to tokens: a batch whose rows have languages, experts, prompts and temperatures of their own.

Each pass of `decode` is one call of Whisper's `generate` on one window of every row (`force_unique_generate_call`).
What lies around that call in transformers (cutting long audio, falling back to higher temperatures, telling a window
the text before it, skipping silence) is done by `transcriber`, because there it

- needs the spectrograms of whole recordings, of a batch that nobody joins until its longest recording is done;
- draws from one random number generator, so that a text depends on what shares its batch;
- decides by the first row whether any row is told the text before it, and mixes rows up where only some fall back;
- returns neither log-probabilities nor those of silence, and counts repetition in token ids rather than in the text.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)
from transformers.modeling_outputs import BaseModelOutput

from ..generation_distil_whisper import complete_generation_config
from ..languages import token_language
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from ..routing import LoadedExperts
from .recordings import SAMPLING_RATE
from .sampling import RowSampler


@dataclass(frozen=True)
class EncodedWindow:
    """A window as the encoder gave it.

    Attributes:
        states: `(frames, d_model)`, 50 frames per second.
        expert: name of the expert that was taken; None is the shared path.
        open_gates: `(frames,)`, share of the encoder's gates that are open; None on the shared path.
    """

    states: torch.Tensor
    expert: str | None
    open_gates: np.ndarray | None


@dataclass(frozen=True)
class WindowRequest:
    """A window to decode.

    Attributes:
        encoded: by the encoder.
        language: Whisper's code.
        task: "transcribe" or "translate".
        previous: tokens of the text before it; the last ones that fit are taken.
        temperature: 0 for the likeliest tokens.
        seed: of what is drawn.
        beam_size: at temperature 0.
    """

    encoded: EncodedWindow
    language: str
    task: str
    previous: Sequence[int]
    temperature: float
    seed: int
    beam_size: int


@dataclass(frozen=True)
class DecodedWindow:
    """What came of it.

    Attributes:
        tokens: of text and times, without prompt and end.
        avg_logprob, no_speech_prob: as in `results.Segment`.
        open_gates: `(tokens,)`, share of the decoder's gates that are open; None on the shared path.
    """

    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    open_gates: np.ndarray | None


class WindowDecoder:
    """The passes of a model over windows.

    Args:
        model: with experts or without.
        processor: with its feature extractor and tokenizer.
    """

    def __init__(self, model: DistilWhisperForConditionalGeneration, processor: Any) -> None:
        self.model = model
        self.processor = processor
        complete_generation_config(model.generation_config, model.config)  # type: ignore[arg-type]
        self.config: Any = copy.deepcopy(model.generation_config)
        # What `generate` would do with them is done by the transcriber.
        for name in ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"):
            setattr(self.config, name, None)
        self.previous_limit = model.config.max_target_positions // 2 - 1
        # Half of what the decoder holds is for the text before a window, the rest for the prompt and the window's own:
        # 221 tokens, whatever the prompts of a batch leave. (openai-whisper: 224.)
        self.most_tokens = model.config.max_target_positions - self.previous_limit - 4
        self.config.do_sample, self.config.return_timestamps = False, True
        self.start: int = self.config.decoder_start_token_id
        self.end: int = model.config.eos_token_id
        self.no_timestamps: int = self.config.no_timestamps_token_id
        self.timestamp_begin = self.no_timestamps + 1
        self.is_multilingual = bool(getattr(self.config, "is_multilingual", True))
        self.language_tokens: Mapping[str, int] = (
            {token_language(token): token_id for token, token_id in self.config.lang_to_id.items()}
            if self.is_multilingual
            else {}
        )
        self.window_seconds: int = processor.feature_extractor.chunk_length

    @property
    def _parameter(self) -> torch.Tensor:
        # Never quantised: features are of its type.
        return self.model.model.encoder.conv1.weight

    def experts(self) -> LoadedExperts:
        """The experts that there are now, for calls that belong together."""
        return self.model.model.loaded_experts.for_one_call()

    def prompt(self, language: str, task: str) -> list[int]:
        """The tokens that say what is wanted: start, language and task; the start alone for an English-only model."""
        if not self.is_multilingual:
            return [self.start]
        return [self.start, self.language_tokens[language], self.config.task_to_id[task]]

    @torch.inference_mode()
    def features(self, waveforms: Sequence[np.ndarray]) -> torch.Tensor:
        """Windows of up to 30 s, `(samples,)` each, silence behind shorter ones -> `(batch, mel bins, frames)`."""
        found = self.processor.feature_extractor(list(waveforms), sampling_rate=SAMPLING_RATE, return_tensors="pt")
        return found.input_features.to(self._parameter)

    @torch.inference_mode()
    def encode(
        self, features: torch.Tensor, experts: Sequence[str | None], loaded: LoadedExperts
    ) -> list[EncodedWindow]:
        """`(batch, mel bins, frames)` and the expert of each row, None for the shared path -> encoded windows."""
        ids = self._ids(experts, loaded)
        recorded = any(name is not None for name in experts)
        options: dict[str, Any] = {"output_gate_values": True} if recorded else {}
        output = self.model.model.encoder(features, expert_ids=ids, loaded_experts=loaded, **options)
        gates = _mean_gates(output.get("gate_values"))
        return [
            EncodedWindow(states, name, gates[row] if name is not None and gates is not None else None)
            for row, (states, name) in enumerate(zip(output.last_hidden_state, experts, strict=True))
        ]

    @torch.inference_mode()
    def detect(self, windows: Sequence[EncodedWindow]) -> list[tuple[str, float]]:
        """The likeliest language of each window, by Whisper's code, and its probability among languages.

        Args:
            windows: of the shared path.
        """
        if not self.is_multilingual:
            return [("en", 1.0)] * len(windows)
        start = torch.full((len(windows), 1), self.start, device=self._parameter.device)
        logits = self.model(encoder_outputs=_stacked(windows), decoder_input_ids=start, use_cache=False).logits[:, -1]
        codes, ids = list(self.language_tokens), list(self.language_tokens.values())
        probabilities = logits[:, ids].float().softmax(dim=-1)
        likeliest = probabilities.max(dim=-1)
        return [
            (codes[index], probability)
            for probability, index in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def decode(self, requests: Sequence[WindowRequest], loaded: LoadedExperts) -> list[DecodedWindow]:
        """Decode windows, in one batch for each beam size among them."""
        found: dict[int, DecodedWindow] = {}
        groups: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(1 if request.temperature > 0.0 else request.beam_size, []).append(index)
        for beams, indices in groups.items():
            decoded = self._decode([requests[index] for index in indices], beams, loaded)
            found.update(zip(indices, decoded, strict=True))
        return [found[index] for index in range(len(requests))]

    def _decode(self, requests: Sequence[WindowRequest], beams: int, loaded: LoadedExperts) -> list[DecodedWindow]:
        prompts = [self._whole_prompt(request) for request in requests]
        length = max(map(len, prompts))
        device = self._parameter.device
        inputs = torch.tensor([[self.end] * (length - len(prompt)) + prompt for prompt in prompts], device=device)
        given: dict[str, Any] = {}
        if any(len(prompt) < length for prompt in prompts):
            given["decoder_attention_mask"] = torch.tensor(
                [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device
            )
        ids = self._ids([request.encoded.expert for request in requests], loaded)
        if loaded.entries:
            # As `routing.mark_experts` has it, wherever the start token is.
            inputs[:, -1] += (ids + 2) * self.model.config.vocab_size
        if self.is_multilingual:
            given |= {"language": [request.language for request in requests], "task": "transcribe"}
        sampler = RowSampler(
            [request.temperature for request in requests], [request.seed for request in requests], self.end
        )
        if beams == 1:
            given["logits_processor"] = [sampler]
        config = copy.copy(self.config)
        # Whisper adds the prompt's length to it; `max_new_tokens` would be warned of, beside the model's own limit.
        config.num_beams, config.max_length, config.max_new_tokens = beams, self.most_tokens, None
        generated = self.model.generate(
            generation_config=config,
            encoder_outputs=_stacked([request.encoded for request in requests]),
            # Of the encoder, which has run: nothing is left out.
            attention_mask=torch.ones_like(inputs),
            decoder_input_ids=inputs,
            return_timestamps=True,
            force_unique_generate_call=True,
            loaded_experts=loaded,
            **given,
        )
        rows = [self._cut(row) for row in generated[:, length:].tolist()]
        sums = sampler.sums.tolist() if sampler.sums is not None else [None] * len(rows)
        counts = sampler.counts.tolist() if sampler.counts is not None else [0] * len(rows)
        return self._judge(requests, prompts, rows, sums, counts, loaded)

    def _judge(
        self,
        requests: Sequence[WindowRequest],
        prompts: Sequence[list[int]],
        rows: Sequence[tuple[list[int], bool]],
        sums: Sequence[float | None],
        counts: Sequence[int],
        loaded: LoadedExperts,
    ) -> list[DecodedWindow]:
        """What one more pass over the tokens says of them: probability of silence, open gates, and for beams the
        log-probabilities."""
        # Causal: what is behind a row's tokens changes nothing.
        length = max(len(prompt) + len(tokens) for prompt, (tokens, _) in zip(prompts, rows, strict=True))
        inputs = [
            (prompt + tokens + [self.end] * length)[:length] for prompt, (tokens, _) in zip(prompts, rows, strict=True)
        ]
        names = [request.encoded.expert for request in requests]
        options: dict[str, Any] = {"output_gate_values": True} if any(name is not None for name in names) else {}
        output = self.model.model(
            encoder_outputs=_stacked([request.encoded for request in requests]),
            decoder_input_ids=torch.tensor(inputs, device=self._parameter.device),
            expert_ids=self._ids(names, loaded),
            loaded_experts=loaded,
            use_cache=False,
            **options,
        )
        gates = _mean_gates(output.decoder_gate_values)
        found = []
        for row, (prompt, (tokens, ended)) in enumerate(zip(prompts, rows, strict=True)):
            states = output.last_hidden_state[row]
            # <|startoftranscript|> is the last token of its kind; <|nospeech|> stands before <|notimestamps|>.
            start = len(prompt) - len(self.prompt(requests[row].language, requests[row].task))
            silence = self.model.proj_out(states[start]).float().softmax(dim=-1)[self.no_timestamps - 1]
            total, count = sums[row], counts[row]
            if total is None:
                wanted = [*tokens, self.end] if ended else tokens
                total, count = self._logprobs(states[len(prompt) - 1 :][: len(wanted)], wanted), len(wanted)
            own = None
            if gates is not None and names[row] is not None:
                own = gates[row][len(prompt) : len(prompt) + len(tokens)]
            found.append(DecodedWindow(tuple(tokens), total / max(1, count), float(silence), own))
        return found

    def _logprobs(self, states: torch.Tensor, tokens: Sequence[int]) -> float:
        """Sum of the log-probabilities of tokens where what may not follow is left out; `states` `(tokens, d_model)`
        are those of the decoder before each."""
        processors = LogitsProcessorList([WhisperTimeStampLogitsProcessor(self.config, begin_index=0)])
        for ids, make in (
            (self.config.suppress_tokens, SuppressTokensLogitsProcessor),
            (self.config.begin_suppress_tokens, lambda ids: SuppressTokensAtBeginLogitsProcessor(ids, begin_index=0)),
        ):
            if ids is not None:
                processors.insert(0, make(ids))
        total, known = 0.0, torch.tensor([tokens], dtype=torch.long, device=states.device)
        for place, logits in enumerate(self.model.proj_out(states).float()):
            scores = processors(known[:, :place], logits[None])
            total += float(scores.log_softmax(dim=-1)[0, tokens[place]])
        return total

    def _whole_prompt(self, request: WindowRequest) -> list[int]:
        wanted = self.prompt(request.language, request.task)
        before = list(request.previous)[-self.previous_limit :]
        return [self.config.prev_sot_token_id, *before, *wanted] if before else wanted

    def _cut(self, tokens: list[int]) -> tuple[list[int], bool]:
        """A row without its end, and whether it came to one."""
        return (tokens[: tokens.index(self.end)], True) if self.end in tokens else (tokens, False)

    def _ids(self, experts: Sequence[str | None], loaded: LoadedExperts) -> torch.Tensor:
        ids = [-1 if name is None else loaded.index(name) for name in experts]
        return torch.tensor(ids, device=self._parameter.device)


def _stacked(windows: Sequence[EncodedWindow]) -> BaseModelOutput:
    return BaseModelOutput(torch.stack([window.states for window in windows]))


def _mean_gates(gates: tuple[torch.Tensor, ...] | None) -> np.ndarray | None:
    """Gates of every layer, `(batch, places)` each -> share of the layers that are open, `(batch, places)`."""
    return None if gates is None else torch.stack(gates).float().mean(dim=0).cpu().numpy()
