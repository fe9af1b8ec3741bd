"""Endless new sentences from few recordings: clips cut at words, put together anew, and changed in sound.

A quarter of an hour of prompts is some four hundred sentences, which a decoder knows by heart before it has learnt to
listen. In sentences of words from anywhere there is nothing to know by heart.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from vocabulary import WINDOW_S

# Mel frames of the window; the encoder has half as many.
FRAMES = 100 * WINDOW_S
# log10 of the smallest energy that Whisper's features know.
SILENCE = -10.0


@dataclass(frozen=True)
class Clip:
    """A recording ready to be cut.

    language: Whisper's code. mel: log10 mel energies `(80, frames)`, 100 frames per second. tokens: ids of each word's
    letters. places: the place of the letter in every frame, -1 for silence. cuts: frames where words may be cut apart,
    one more than there are words.
    """

    language: str
    mel: np.ndarray
    tokens: list[list[int]]
    places: np.ndarray
    cuts: list[int]


@dataclass(frozen=True)
class Part:
    """Some speech: as in Clip, with the ids of its letters in one list."""

    mel: np.ndarray
    tokens: list[int]
    places: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Spliced examples with everything that the losses need.

    features: `(batch, 80, frames)`. prompts, labels: `(batch, tokens)`, the decoder's input, and -100 where no loss is.
    letters, earlier, later: `(batch, frames / 2)`, the letter of each frame, and those before and after it in the text.
    heard: `(batch, tokens, frames / 2)`, where a token may look for what it is to say.
    """

    features: Tensor
    prompts: Tensor
    labels: Tensor
    letters: Tensor
    earlier: Tensor
    later: Tensor
    heard: Tensor


def make_clip(language: str, mel: np.ndarray, tokens: list[list[int]], places: np.ndarray) -> Clip:
    """A clip that is cut half-way between the end of a word and the beginning of the next."""
    ends = np.cumsum([0, *map(len, tokens)])
    spans = [np.flatnonzero((places >= low) & (places < high)) for low, high in pairwise(ends)]
    inner = [int(left[-1] + 1 + right[0]) // 2 for left, right in pairwise(spans)]
    return Clip(language, mel, tokens, places, [0, *inner, mel.shape[1]])


def draw_words(clip: Clip, draw: random.Random) -> tuple[int, int]:
    """The first word and the one after the last of a short run of words, mostly of one or two."""
    first = draw.randrange(len(clip.tokens))
    return first, min(len(clip.tokens), first + draw.choice((1, 1, 2, 2, 3, 4, 5)))


def cut(clip: Clip, first: int, last: int) -> Part:
    """The words from `first` up to, but without, `last`."""
    start, stop = clip.cuts[first], clip.cuts[last]
    before, after = sum(map(len, clip.tokens[:first])), sum(map(len, clip.tokens[:last]))
    places = clip.places[start:stop]
    places = np.where((places >= before) & (places < after), places - before, -1)
    return Part(clip.mel[:, start:stop], [token for word in clip.tokens[first:last] for token in word], places)


class Splicer:
    """Draws batches.

    Args:
        clips: what to cut.
        weights: language -> how often it is drawn.
        prompts: language -> ids of `<|startoftranscript|> <|language|> <|transcribe|> <|notimestamps|>`.
        end: id of `<|endoftext|>`, which also stands for a frame without a letter.
        seed: the same seed draws the same batches.
        change: how strongly speed, frequencies and noise are varied and features masked; 0 for not at all.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        weights: Mapping[str, float],
        prompts: Mapping[str, list[int]],
        *,
        end: int,
        seed: int,
        change: float = 1.0,
    ) -> None:
        self.clips = {language: [clip for clip in clips if clip.language == language] for language in weights}
        self.weights = dict(weights)
        self.prompts = prompts
        self.end = end
        self.change = change
        self.draw = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        # Long clips have more words, but their words are not to be all that is heard.
        self._shares = {name: [clip.mel.shape[1] ** 0.5 for clip in group] for name, group in self.clips.items()}

    def batch(self, size: int) -> Batch:
        """Examples of any of the languages, all as long as the longest of them."""
        examples = [self._example() for _ in range(size)]
        longest = max(part.mel.shape[1] for _, part in examples) + self.draw.randrange(40)
        frames = FRAMES if self.draw.random() < 0.15 else min(FRAMES, (longest + 7) // 8 * 8)
        rows = [[*self.prompts[language], *part.tokens, self.end] for language, part in examples]
        shape = size, max(map(len, rows)) - 1
        batch = Batch(
            torch.from_numpy(np.stack([self._features(part, frames) for _, part in examples])),
            torch.full(shape, self.end),
            torch.full(shape, -100),
            *(torch.full((size, frames // 2), self.end) for _ in range(3)),
            torch.zeros(*shape, frames // 2),
        )
        for i, (row, (language, part)) in enumerate(zip(rows, examples, strict=True)):
            prompt = len(self.prompts[language])
            batch.prompts[i, : len(row) - 1] = torch.tensor(row[:-1])
            batch.labels[i, prompt - 1 : len(row) - 1] = torch.tensor(row[prompt:])
            self._place(batch, i, part, prompt - 1)
        return batch

    def _place(self, batch: Batch, row: int, part: Part, first: int) -> None:
        """Fill in what a row's frames are to say; `first` is the position that says the first letter."""
        places = part.places[: batch.letters.shape[1] * 2 : 2]
        spoken = places >= 0
        tokens = np.array([*part.tokens, self.end])
        latest = np.maximum.accumulate(places)
        before = np.where(spoken, places - 1, latest)
        after = np.minimum(np.where(spoken, places, latest) + 1, len(part.tokens))
        width = len(places)
        batch.letters[row, :width] = torch.from_numpy(np.where(spoken, tokens[places], self.end))
        batch.earlier[row, :width] = torch.from_numpy(np.where(before >= 0, tokens[before], self.end))
        batch.later[row, :width] = torch.from_numpy(tokens[after])
        frames = torch.from_numpy(np.flatnonzero(spoken))
        for offset in (-1, 0, 1):
            near = (frames + offset).clamp(0, batch.letters.shape[1] - 1)
            batch.heard[row, torch.from_numpy(places[spoken]) + first, near] = 1
        # The end is where no letter follows.
        batch.heard[row, first + len(part.tokens), int(frames[-1]) + 1 :] = 1

    def _example(self) -> tuple[str, Part]:
        """Parts of clips of one language in a row, faster or slower, and by a longer or shorter throat."""
        (language,) = self.draw.choices(list(self.weights), list(self.weights.values()))
        stretch = 1 + self.change * self.draw.uniform(-0.13, 0.15)
        room = int(FRAMES * self.draw.uniform(0.4, 1.0) * stretch) - 2
        parts: list[Part] = []
        used = 0
        while not parts or (self.draw.random() > 0.35 and room - used > 40):
            part = self._part(language, room - used)
            if part is None:
                if parts:
                    break
                room = int(FRAMES * stretch) - 2
                continue
            if parts and self.draw.random() < 0.4:
                pause = min(self.draw.randrange(1, 25), room - used - part.mel.shape[1])
                quiet = np.minimum(parts[-1].mel[:, -1:], part.mel[:, :1])
                parts.append(Part(np.repeat(quiet, pause, axis=1), [], np.full(pause, -1)))
                used += pause
            level = part.mel.max() + self.draw.uniform(-0.15, 0.15)
            parts.append(Part(part.mel - level, part.tokens, part.places))
            used += part.mel.shape[1]
        return language, self._changed(_joined(parts), stretch)

    def _part(self, language: str, room: int) -> Part | None:
        """A whole clip or some of its words, of at most `room` frames; None if none was found."""
        for _ in range(20):
            (clip,) = self.draw.choices(self.clips[language], self._shares[language])
            whole = self.draw.random() < 0.5 and clip.mel.shape[1] <= room
            part = cut(clip, *((0, len(clip.tokens)) if whole else draw_words(clip, self.draw)))
            # What is cut too tightly has lost all its letters at the rate of the encoder's frames.
            if part.mel.shape[1] <= room and (part.places[::2] >= 0).any():
                return part
        return None

    def _changed(self, part: Part, stretch: float) -> Part:
        """Stretched in time, shifted in frequency, tilted, and at times noisy."""
        count = max(4, int(part.mel.shape[1] / stretch))
        times = np.linspace(0, part.mel.shape[1] - 1.001, count)
        bands = np.clip(np.arange(80) * (1 + self.change * self.draw.uniform(-0.08, 0.09)), 0, 78.999)
        mel = _interpolated(_interpolated(part.mel, times).T, bands).T
        mel = mel + self.draw.uniform(-0.25, 0.25) * np.linspace(-1, 1, 80, dtype=np.float32)[:, None]
        if self.draw.random() < 0.5 * self.change:
            noise = self.draw.uniform(-5.4, -2.7) + self.noise.normal(0, 0.45, mel.shape)
            mel = np.log10(10**mel + 10**noise)
        places = part.places[np.round(times).astype(int)]
        return Part(mel[:, :FRAMES].astype(np.float32), part.tokens, places[:FRAMES])

    def _features(self, part: Part, frames: int) -> np.ndarray:
        """Whisper's features with some bands and moments masked (SpecAugment)."""
        features = normalised(part.mel, frames) + np.float32(self.draw.uniform(-0.1, 0.1))
        spoken = part.mel.shape[1]
        mean = features[:, :spoken].mean()
        for _ in range(round(2 * self.change)):
            width = self.draw.randrange(12)
            low = self.draw.randrange(80 - width)
            features[low : low + width] = mean
            width = self.draw.randrange(10)
            start = self.draw.randrange(max(1, spoken - width))
            features[:, start : start + width] = mean
        return features


def normalised(mel: np.ndarray, frames: int) -> np.ndarray:
    """Whisper's features of log10 energies followed by silence, `(80, frames)`, float32."""
    window = np.full((80, frames), SILENCE, np.float32)
    window[:, : mel.shape[1]] = mel[:, :frames]
    return (np.maximum(window, window.max() - 8.0) + 4.0) / 4.0


def _joined(parts: Sequence[Part]) -> Part:
    tokens: list[int] = []
    places = []
    for part in parts:
        places.append(np.where(part.places < 0, -1, part.places + len(tokens)))
        tokens = [*tokens, *part.tokens]
    return Part(np.concatenate([part.mel for part in parts], axis=1), tokens, np.concatenate(places))


def _interpolated(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Columns between columns: `(n, columns)` at the places `where`."""
    left = where.astype(int)
    share = (where - left).astype(np.float32)
    return values[:, left] * (1 - share) + values[:, left + 1] * share
