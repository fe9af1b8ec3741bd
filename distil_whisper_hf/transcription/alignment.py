"""When each word was said: where the decoder looked in the recording as it wrote the word's tokens.

Some heads of the decoder's cross-attention follow the speech (`generation_config.alignment_heads`). Their weights, from
a pass over the finished text, make a table of tokens by frames, through which the best path that never goes back is
sought (dynamic time warping), as openai-whisper does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..routing import LoadedExperts
from .decoding import EncodedWindow, WindowDecoder
from .results import Word
from .words import WordTokens, split_words

FRAMES_PER_SECOND = 50
# Attention weights of one layer that are in memory at once.
_MOST_BYTES = 1 << 28
_SENTENCE_ENDS = ".。!！?？"
# Longer than that a typical word is not taken to be, in s.
_LONGEST_TYPICAL = 0.7


@dataclass(frozen=True)
class AlignmentRequest:
    """The text of a window, by its segments.

    Attributes:
        encoded: the window.
        language, task: as it was decoded.
        segments: text tokens of each.
        seconds: of audio in the window.
    """

    encoded: EncodedWindow
    language: str
    task: str
    segments: Sequence[Sequence[int]]
    seconds: float

    @property
    def text(self) -> list[int]:
        return [token for segment in self.segments for token in segment]


@torch.inference_mode()
def align(
    decoder: WindowDecoder, requests: Sequence[AlignmentRequest], loaded: LoadedExperts
) -> list[list[list[Word]]]:
    """The words of every segment of every window, in s from the beginning of the window.

    Raises:
        ValueError: a model that does not say which heads align.
    """
    heads = getattr(decoder.config, "alignment_heads", None)
    if not heads:
        raise ValueError(
            "Expected a model whose generation settings name `alignment_heads`, got one without: words get no times. "
            "Take those of the Whisper that it was made from."
        )
    found: list[list[list[Word]]] = []
    config = decoder.model.config
    # Eager attention holds the weights of all heads of a layer.
    for group in _groups(requests, config.decoder_attention_heads * config.max_source_positions * 4):
        found += _align(decoder, group, [tuple(head) for head in heads], loaded)
    return found


def _groups(requests: Sequence[AlignmentRequest], bytes_per_token: int) -> Iterator[list[AlignmentRequest]]:
    group: list[AlignmentRequest] = []
    longest = 0
    for request in requests:
        length = len(request.text) + 5
        if group and max(longest, length) * (len(group) + 1) * bytes_per_token > _MOST_BYTES:
            yield group
            group, longest = [], 0
        group.append(request)
        longest = max(longest, length)
    if group:
        yield group


def _align(
    decoder: WindowDecoder, requests: Sequence[AlignmentRequest], heads: list[tuple[int, int]], loaded: LoadedExperts
) -> list[list[list[Word]]]:
    prompts = [[*decoder.prompt(one.language, one.task), decoder.no_timestamps] for one in requests]
    rows = [[*prompt, *one.text, decoder.end] for prompt, one in zip(prompts, requests, strict=True)]
    length = max(map(len, rows))
    model = decoder.model
    with _attention(model, heads) as weights:
        names = [one.encoded.expert for one in requests]
        device = requests[0].encoded.states.device
        output = model.model.decoder(
            torch.tensor([(row + [decoder.end] * length)[:length] for row in rows], device=device),
            encoder_hidden_states=torch.stack([one.encoded.states for one in requests]),
            expert_ids=torch.tensor([-1 if name is None else loaded.index(name) for name in names], device=device),
            loaded_experts=loaded,
            use_cache=False,
        )
    found = []
    for row, request in enumerate(requests):
        text, before = request.text, len(prompts[row]) - 1
        words = [split_words(decoder.processor.tokenizer, one, request.language) for one in request.segments]
        if not text:
            found.append([[] for _ in words])
            continue
        frames = max(1, min(math.ceil(request.seconds * FRAMES_PER_SECOND), len(request.encoded.states)))
        stacked = torch.stack([weights[head][row, : len(rows[row]), :frames] for head in heads]).float()
        # The row before a token is where that token was chosen; the last one chose the end.
        times = token_times(stacked, median_width=model.config.median_filter_width)[before : before + len(text) + 1]
        states = output.last_hidden_state[row, before : before + len(text)]
        chances = model.proj_out(states)[:, : decoder.end].float().softmax(dim=-1)
        chances = chances.gather(1, torch.tensor(text, device=device)[:, None])[:, 0].tolist()
        found.append(_timed(words, times.tolist(), chances))
    return found


def token_times(weights: torch.Tensor, *, median_width: int) -> np.ndarray:
    """Second at which each token begins.

    Args:
        weights: of the aligning heads, `(heads, tokens, frames)`, each token's from the place where it was chosen.
        median_width: frames over which weights are smoothed, an odd number.

    Returns:
        `(tokens,)`, in s, never falling.
    """
    weights = weights / weights.sum(dim=-1, keepdim=True)
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    weights = (weights - mean) / deviation.clamp_min(torch.finfo(weights.dtype).tiny)
    if weights.shape[-1] > median_width // 2:
        half = median_width // 2
        padded = torch.nn.functional.pad(weights, (half, half), mode="reflect")
        weights = padded.unfold(-1, median_width, 1).median(dim=-1).values
    return first_frames(-weights.mean(dim=0).double().cpu().numpy()) / FRAMES_PER_SECOND


def first_frames(costs: np.ndarray) -> np.ndarray:
    """Where the cheapest path through `(tokens, frames)` comes to each token: it leads from the first corner to
    the last and goes on by a token, a frame, or both.

    Row by row: within a row c[j] = x[j] + min(a[j], c[j − 1]), with a[j] the cheapest way from the row above, so that
    c − cumsum(x) is a running minimum.

    Returns:
        `(tokens,)`, frames.
    """
    tokens, frames = costs.shape
    total = np.full((tokens + 1, frames + 1), np.inf)
    total[0, 0] = 0.0
    for row in range(1, tokens + 1):
        sums = np.cumsum(costs[row - 1])
        above = np.minimum(total[row - 1, :-1], total[row - 1, 1:])
        total[row, 1:] = sums + np.minimum.accumulate(above - np.concatenate([[0.0], sums[:-1]]))
    first = np.zeros(tokens, dtype=np.int64)
    row, frame = tokens, frames
    while row > 0:
        first[row - 1] = frame - 1
        both, token, stay = total[row - 1, frame - 1], total[row - 1, frame], total[row, frame - 1]
        if both <= token and both <= stay:
            row, frame = row - 1, frame - 1
        elif token <= stay:
            row -= 1
        else:
            frame -= 1
    return first


@contextmanager
def _attention(model: Any, heads: Sequence[tuple[int, int]]) -> Iterator[dict[tuple[int, int], torch.Tensor]]:
    """The weights of some heads of cross-attention, `(batch, tokens, frames)` each, in the passes of this block."""
    found: dict[tuple[int, int], torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(module: Any, inputs: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
            for place, head in heads:
                if place == layer:
                    found[place, head] = output[1][:, head].clone()

        return hook

    implementation = model.config._attn_implementation
    with ExitStack() as hooks:
        for layer in {layer for layer, _ in heads}:
            attention = model.model.decoder.layers[layer].encoder_attn
            hooks.callback(attention.register_forward_hook(keep(layer)).remove)
        hooks.callback(setattr, model.config, "_attn_implementation", implementation)
        # The only one that has the weights.
        model.config._attn_implementation = "eager"
        yield found


def _timed(
    segments: Sequence[Sequence[WordTokens]], times: Sequence[float], chances: Sequence[float]
) -> list[list[Word]]:
    """Words with the times of their tokens; `times` has that of the end too."""
    found, at = [], 0
    for segment in segments:
        words = []
        for text, tokens in segment:
            behind = at + len(tokens)
            chance = sum(chances[at:behind]) / len(tokens)
            words.append(Word(text, times[at], times[behind], chance))
            at = behind
        found.append(words)
    return _without_pauses(found)


def _without_pauses(segments: list[list[Word]]) -> list[list[Word]]:
    """A pause at the end of a sentence counts to neither of its words: there, none is longer than two typical ones."""
    lengths = [word.end - word.start for segment in segments for word in segment if word.end > word.start]
    if not lengths:
        return segments
    longest = 2 * min(_LONGEST_TYPICAL, float(np.median(lengths)))
    found, begins = [], True
    for segment in segments:
        words = []
        for word in segment:
            ends = word.word.strip()[-1:] in _SENTENCE_ENDS and word.word.strip() != ""
            if word.end - word.start > longest:
                if begins:
                    word = replace(word, start=word.end - longest)
                elif ends:
                    word = replace(word, end=word.start + longest)
            words.append(word)
            begins = ends
        found.append(words)
    return found
