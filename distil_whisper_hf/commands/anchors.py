"""Speech that holds an expert to Whisper: other speakers', without transcripts, and what Whisper says on it.

A model that is trained on one speaker changes on all others. Windows of other speakers, among those that are trained
on, pull the expert back to the distribution of Whisper itself on Whisper's own words: no transcript is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from transformers import WhisperProcessor

from ..cpu_precision import computing_dtype
from ..data.arguments import one_for_each
from ..data.clips import Clip
from ..data.corpus import Corpus
from ..data.joining import MAX_TOKENS, join_clips
from ..data.labels import LabelBuilder
from ..data.sampling import choose_clips
from ..data.untranscribed import read_untranscribed
from ..evaluation.scores.metrics import find_repetition
from ..evaluation.systems.hypotheses import GenerationSettings, transcribe_clips
from ..evaluation.systems.opening import System
from ..evaluation.systems.processes import running
from ..languages import language_code
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from .runs import RunArguments


@dataclass
class AnchorArguments:
    """Speech without transcripts that holds experts to Whisper."""

    anchor_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of audio of other speakers, without transcripts, on which the expert is to say what "
            "Whisper says; short files are joined."
        },
    )
    anchor_language: list[str] = field(
        default_factory=list,
        metadata={"help": "Language of each folder, one that is trained; left out, the only one that is."},
    )
    anchor_share: float = field(default=0.25, metadata={"help": "Share of the training windows that are such."})

    def __post_init__(self) -> None:
        if not 0.0 < self.anchor_share < 1.0:
            raise ValueError(f"anchor_share must be above 0 and below 1, got {self.anchor_share:g}.")


def anchor_windows(
    arguments: AnchorArguments,
    run: RunArguments,
    corpus: Corpus,
    experts: Sequence[tuple[str, str]],
    processor: WhisperProcessor,
    labels: LabelBuilder,
    *,
    windows: int,
    seed: int,
    device: torch.device,
) -> list[Clip]:
    """Windows of speech without transcripts, with what Whisper says on them; as many as make `anchor_share`.

    Args:
        corpus: its clips are no anchors.
        experts: names and languages of those that are trained.
        windows: number of those that are trained on.

    Raises:
        ValueError: a folder without audio, a language that is not trained, or nothing that Whisper has words for.
    """
    most = run.join_seconds or float(processor.feature_extractor.chunk_length)
    found = join_clips(_unseen(arguments, experts, corpus, most), labels=labels, max_seconds=most, seed=seed)
    wanted = max(1, round(windows * arguments.anchor_share / (1.0 - arguments.anchor_share)))
    chosen = choose_clips(found, wanted)
    # Its own, so that nothing of an expert that goes on is in it.
    base = DistilWhisperForConditionalGeneration.from_pretrained(run.model, experts=[])
    dtype = computing_dtype(getattr(torch, run.test_precision), device)
    # Transformers' wrapper of `to` hides from type checkers that it is a method.
    system = System("anchors", base.to(device, dtype).eval(), processor)  # type: ignore[arg-type,call-arg]
    settings = GenerationSettings(batch_size=run.test_batch_size)
    # Processes share them, and each has all.
    made = transcribe_clips(system, chosen, settings, progress=running().main, processes=running())
    said = [one.text or "" for one in made]
    usable, left_out = [], Counter[str]()
    for clip, text in zip(chosen, said, strict=True):
        ids = tuple(labels(text, language=clip.language))
        reason = _fault(text, clip.language, len(ids))
        if reason is None:
            usable.append(replace(clip, text=text, labels=ids, anchor=True))
        else:
            left_out[reason] += 1
    shown = f" ({', '.join(f'{number} {reason}' for reason, number in left_out.items())})" if left_out else ""
    _say(f"anchors: {len(usable)} windows of {wanted} wanted, {left_out.total()} left out{shown}")
    if not usable:
        raise ValueError("Expected speech that Whisper has words for in --anchor_data, got none: name other folders.")
    return usable


def _unseen(
    arguments: AnchorArguments, experts: Sequence[tuple[str, str]], corpus: Corpus, max_seconds: float
) -> list[Clip]:
    """Clips of all folders that are neither trained on nor tested."""
    trained = {language: name for name, language in experts}
    languages = one_for_each(arguments.anchor_language, arguments.anchor_data, "anchor_language")
    used = corpus.held_out | {clip.digest for clip in corpus.splits.train}
    clips: list[Clip] = []
    for folder, given in zip(arguments.anchor_data, languages, strict=True):
        if given is None and len(trained) > 1:
            raise ValueError(f"Expected the language of {folder!r}, where several are trained: --anchor_language.")
        language = next(iter(trained)) if given is None else language_code(given)
        if language not in trained:
            raise ValueError(
                f"Expected a language that is trained ({', '.join(trained)}) in --anchor_language, got {given!r}."
            )
        read, rejected = read_untranscribed(
            folder, language=language, expert=trained[language], max_seconds=max_seconds
        )
        kept = [clip for clip in read if clip.digest not in used]
        minutes = sum(clip.seconds or 0.0 for clip in kept) / 60
        _say(
            f"{folder}: {len(kept)} stretches to hold on to Whisper, {minutes:.0f} minutes; {len(read) - len(kept)} "
            f"are trained on or tested, {len(rejected)} cannot be read"
        )
        clips += kept
    return clips


def _say(line: str) -> None:
    if running().main:
        print(line)


def _fault(text: str, language: str, tokens: int) -> str | None:
    """Why what Whisper said is no anchor."""
    if not text.strip():
        return "without words"
    repetition = find_repetition(text, normalized_hypothesis=text, normalized_reference="", language=language)
    if repetition.is_loop:
        return "that repeat themselves"
    return "too long" if tokens > MAX_TOKENS else None
