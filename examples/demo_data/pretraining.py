"""A small Whisper from nothing, and its training: letters by frame, letters by token, and where to look for them.

The architecture is Whisper's to the last operation. What differs is how it starts and what is asked of it. In Whisper
attention learns where to look from hundreds of thousands of hours. Here the sinusoids of the positions lie in
dimensions of their own, and query and key weights begin so that heads of the encoder look some frames back or ahead,
and heads of the decoder at where the next letter should be. All of it is trained further. Beside the decoder's
cross-entropy, each frame is to say its letter and those before and after it, and the decoder's attention is to lie on
the letter that comes next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import torch
from splicing import FRAMES, Batch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor
from vocabulary import MOST_TOKENS, make_generation_config

WIDTH, HEADS = 128, 4
ENCODER_LAYERS, DECODER_LAYERS = 4, 3
ENCODER_INNER, DECODER_INNER = 384, 256
# Periods of the positions' waves, in encoder frames of 20 ms, from 0.1 s to 10 s.
WAVES = 24
FREQUENCIES = torch.logspace(math.log10(2 * math.pi / 5), math.log10(2 * math.pi / 500), WAVES)
# Frames from a head's own to the one that it looks at, at the start, in each layer.
OFFSETS = ((-2, -1, 1, 2), (-5, -2, 2, 5), (-9, -3, 3, 9), (-14, -5, 5, 14))
# At the start the decoder expects the first letter at this frame, and a letter every so many frames.
FIRST_LETTER, LETTER_FRAMES = 7.0, 3.7
PROMPT_TOKENS = 4
# Weight of the attention's loss in each layer of the decoder; the last must find its letter, the first about where.
ATTENTION_WEIGHTS = (0.2, 0.5, 1.0)
NEIGHBOUR_WEIGHT, ATTENTION_WEIGHT = 0.3, 0.5
# Share of the decoder's input tokens that are exchanged for others, so that it does not trust the text alone.
EXCHANGED = 0.12
ENCODER_DROPOUT, DECODER_DROPOUT = 0.05, 0.1


class Pupil(nn.Module):
    """A Whisper with the heads that its training needs.

    Args:
        processor: tokenizer and features.

    Attributes:
        whisper: what is kept.
        heads: letter of a frame, the one before, the one after; `<|endoftext|>` for none.
    """

    def __init__(self, processor: WhisperProcessor) -> None:
        super().__init__()
        ids = processor.tokenizer.get_vocab()
        end = ids["<|endoftext|>"]
        config = WhisperConfig(
            vocab_size=len(ids),
            d_model=WIDTH,
            encoder_layers=ENCODER_LAYERS,
            decoder_layers=DECODER_LAYERS,
            encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS,
            encoder_ffn_dim=ENCODER_INNER,
            decoder_ffn_dim=DECODER_INNER,
            max_source_positions=FRAMES // 2,
            max_target_positions=MOST_TOKENS,
            dropout=0.0,
            init_std=0.05,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            decoder_start_token_id=ids["<|startoftranscript|>"],
            begin_suppress_tokens=None,
        )
        self.whisper = WhisperForConditionalGeneration(config)
        self.whisper.generation_config = make_generation_config(processor.tokenizer, DECODER_LAYERS)
        self.whisper.set_attn_implementation("eager")
        self.heads = nn.ModuleList(nn.Linear(WIDTH, end + 1) for _ in range(3))
        self._attention: dict[int, Tensor] = {}
        for index, layer in enumerate(self.whisper.model.decoder.layers):
            layer.encoder_attn.register_forward_hook(
                lambda _, __, output, index=index: self._attention.__setitem__(index, output[1])
            )
        for layer in self.whisper.model.encoder.layers:
            layer.dropout = ENCODER_DROPOUT
        for layer in self.whisper.model.decoder.layers:
            layer.dropout = DECODER_DROPOUT
        self._start()

    def encode(self, features: Tensor) -> Tensor:
        """`(batch, 80, frames)` of any length -> `(batch, frames / 2, d_model)`, as Whisper's encoder."""
        encoder = self.whisper.model.encoder
        hidden = gelu(encoder.conv2(gelu(encoder.conv1(features)))).permute(0, 2, 1)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            hidden = layer(hidden, None)
        return encoder.layer_norm(hidden)

    def losses(self, batch: Batch, *, decode: bool = True) -> dict[str, Tensor]:
        """Weighted parts of the loss: letters of frames, their neighbours, and with `decode` tokens and attention."""
        hidden = self.encode(batch.features)
        frames = [head(hidden).flatten(0, 1) for head in self.heads]
        parts = {
            "frames": cross_entropy(frames[0], batch.letters.flatten(), label_smoothing=0.05),
            "neighbours": NEIGHBOUR_WEIGHT
            * (cross_entropy(frames[1], batch.earlier.flatten()) + cross_entropy(frames[2], batch.later.flatten())),
        }
        if not decode:
            return parts
        prompts = _exchanged(batch.prompts, end=self.whisper.config.eos_token_id)
        logits = self.whisper.proj_out(
            self.whisper.model.decoder(input_ids=prompts, encoder_hidden_states=hidden).last_hidden_state
        )
        parts["tokens"] = cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), label_smoothing=0.05)
        known = batch.heard.any(-1)
        parts["attention"] = torch.zeros(())
        for index, weight in enumerate(ATTENTION_WEIGHTS):
            there = (self._attention[index][:, :2].mean(1) * batch.heard).sum(-1)[known]
            parts["attention"] = parts["attention"] - ATTENTION_WEIGHT * weight * (there + 1e-3).log().mean()
        return parts

    @torch.no_grad()
    def _start(self) -> None:
        encoder, decoder = self.whisper.model.encoder, self.whisper.model.decoder
        for convolution in (encoder.conv1, encoder.conv2):
            nn.init.kaiming_normal_(convolution.weight)
        encoder.conv2.weight[: 2 * WAVES] *= 0.1
        encoder.embed_positions.weight.zero_()
        encoder.embed_positions.weight[:, : 2 * WAVES] = waves(torch.arange(FRAMES // 2))
        for layer, offsets in zip(encoder.layers, OFFSETS, strict=True):
            for head, offset in enumerate(offsets):
                # Far heads need no sharp sight, but must not see the wave come round.
                seen = range(16) if abs(offset) < 6 else range(3, 19)
                look(layer.self_attn, head, offset, seen, sharpness=1.3)
        decoder.embed_tokens.weight[:, : 2 * WAVES] *= 0.1
        decoder.embed_positions.weight *= 0.5
        expected = (torch.arange(MOST_TOKENS) - PROMPT_TOKENS + 1) * LETTER_FRAMES + FIRST_LETTER
        decoder.embed_positions.weight[:, : 2 * WAVES] = waves(expected)
        for index, layer in enumerate(decoder.layers):
            seen = (range(8, 24), range(2, 24, 2), range(1, 17))[index]
            look(layer.encoder_attn, 0, 0.0 if index == 0 else 1.0, seen, sharpness=1.0)
            for head in (0, 1):
                look(layer.self_attn, head, -LETTER_FRAMES * (head + 1), range(4, 20), sharpness=1.3)


def waves(frames: Tensor) -> Tensor:
    """Sines, then cosines, of frame numbers: `(n,)` -> `(n, 2 · WAVES)`."""
    angles = frames[:, None].float() * FREQUENCIES
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def look(attention: nn.Module, head: int, offset: float, seen: Iterable[int], *, sharpness: float) -> None:
    """Let a head look `offset` frames ahead of what the positions in its input say.

    Query and key read sine and cosine of the same waves, the query turned by `offset`; their product is the sum of
    cos(w · (t + offset - s)) over the waves, which is largest at s = t + offset.
    """
    query, key = attention.q_proj.weight, attention.k_proj.weight
    size = WIDTH // HEADS
    for row, wave in enumerate(seen):
        sine, cosine = head * size + row, head * size + size // 2 + row
        query[[sine, cosine]] *= 0.3
        key[[sine, cosine]] *= 0.3
        turn = float(FREQUENCIES[wave]) * offset
        key[sine, wave] += sharpness
        key[cosine, WAVES + wave] += sharpness
        query[sine, wave] += sharpness * math.cos(turn)
        query[sine, WAVES + wave] += sharpness * math.sin(turn)
        query[cosine, WAVES + wave] += sharpness * math.cos(turn)
        query[cosine, wave] -= sharpness * math.sin(turn)


def _exchanged(prompts: Tensor, *, end: int) -> Tensor:
    """Some letters exchanged for others of the batch; special tokens stay."""
    letters = prompts[prompts < end]
    drawn = letters[torch.randint(len(letters), prompts.shape)]
    return torch.where((torch.rand(prompts.shape) < EXCHANGED) & (prompts < end), drawn, prompts)


def train(pupil: Pupil, batches: Iterable[Batch], *, steps: int, peak: float, listen_first: int, name: str) -> None:
    """Train for so many batches, the first `listen_first` of them the encoder alone; prints how it goes."""
    parameters = [item for item in pupil.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 50, 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.02)
    )
    started = time.perf_counter()
    sums: dict[str, float] = {}
    pupil.train()
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        parts = pupil.losses(batch, decode=step > listen_first)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        for part, loss in parts.items():
            sums[part] = sums.get(part, 0.0) + loss.item()
        if step % 100 == 0 or step == steps:
            count = step % 100 or 100
            means = "  ".join(f"{part} {total / count:.3f}" for part, total in sums.items())
            print(f"{name}: step {step} of {steps}  {means}  {time.perf_counter() - started:.0f} s", flush=True)
            sums = {}
    pupil.eval()
