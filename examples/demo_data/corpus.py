"""The prompts of a language with their splits, and for training the place of every letter in the sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from alignment import align, letters_of
from prompts import LANGUAGES, Prompt, fetch_prompts
from splicing import Clip, make_clip
from splits import split_texts
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperProcessor
from vocabulary import letter_processor

# Below this likelihood of a frame a prompt says something else than its text.
WORST_FIT = 0.6


@dataclass(frozen=True)
class Entry:
    """A prompt, its split, and, where it is aligned, the place of the letter in each 10 ms (-1: silence)."""

    prompt: Prompt
    split: str
    places: np.ndarray | None


def read_corpus(work: Path) -> dict[str, list[Entry]]:
    """All languages. Packages and alignments are kept in `work`.

    Only the training prompts are aligned: nothing that is made here has heard a dev or test clip.
    """
    packages = work / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    corpus = {}
    for language in LANGUAGES:
        prompts = fetch_prompts(language, packages)
        splits = split_texts(prompts)
        training = [prompt for prompt in prompts if splits[prompt.text] == "train"]
        kept = work / f"alignments-{language}.npz"
        if not kept.is_file():
            np.savez_compressed(kept, **aligned(training))
        with np.load(kept) as file:
            places = dict(file)
        corpus[language] = [Entry(prompt, splits[prompt.text], places.get(prompt.name)) for prompt in prompts]
        print(f"{language}: {len(prompts)} prompts, {len(training)} to train on, {len(places)} of them aligned")
    return corpus


def aligned(prompts: list[Prompt]) -> dict[str, np.ndarray]:
    """Name -> the place of the letter in each 10 ms, of the prompts that say their text."""
    extractor = WhisperFeatureExtractor()
    found = align([prompt.text for prompt in prompts], [log_mel(prompt, extractor) for prompt in prompts])
    return {
        prompt.name: result[0]
        for prompt, result in zip(prompts, found, strict=True)
        if result is not None and result[1] >= WORST_FIT
    }


def make_processor(corpus: dict[str, list[Entry]]) -> WhisperProcessor:
    """The processor of both models: a vocabulary of the letters of all languages."""
    return letter_processor([entry.prompt.text for entries in corpus.values() for entry in entries])


def log_mel(prompt: Prompt, extractor: WhisperFeatureExtractor) -> Tensor:
    """log10 mel energies `(80, frames)`, float32: `WhisperFeatureExtractor` without its normalisation."""
    samples = torch.from_numpy(prompt.samples.astype(np.float32) / 32768)
    window = torch.hann_window(extractor.n_fft)
    spectrum = torch.stft(samples, extractor.n_fft, extractor.hop_length, window=window, return_complex=True)
    filters = torch.from_numpy(extractor.mel_filters).float()
    return (filters.T @ spectrum[..., :-1].abs() ** 2).clamp(min=1e-10).log10()


def training_clip(entry: Entry, processor: WhisperProcessor) -> Clip:
    """An aligned entry ready to be cut."""
    words = entry.prompt.text.split()
    tokens = [processor.tokenizer(f" {word}", add_special_tokens=False).input_ids for word in words]
    if [len(word) for word in tokens] != [len(letters) for letters in letters_of(entry.prompt.text)]:
        raise ValueError(f"Expected a token for each letter of {entry.prompt.text!r}, got {tokens}.")
    mel = log_mel(entry.prompt, processor.feature_extractor).numpy()
    return make_clip(entry.prompt.language, mel, tokens, entry.places)
