"""Transcribing data sets so that an interrupted run goes on where it stopped.

Each batch's hypotheses go to a JSON-lines file in one write, flushed to the disk. Which clips share a batch is decided
before the first one runs, from the data set alone, so that a run in two pieces computes the very batches of a run in
one, and so do several processes, which share them. `transcribe_clips` does the same without a file.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...data.atomic_files import append_lines
from ...data.audio import AudioError, read_audio
from ...data.clips import Clip
from .opening import System, SystemSpec, open_system, system_digest
from .outcomes import SAMPLING_RATE, WINDOW_SECONDS, Outcome, Samples, audio_outcome
from .processes import ALONE, Processes


@dataclass(frozen=True)
class GenerationSettings:
    """How text is generated. All but the batch size is part of what a stored hypothesis is known by.

    Attributes:
        num_beams: 1 is greedy.
        max_new_tokens: most tokens of a clip (of each window of a long one); None is the model's own limit. A clip that
            reaches it is reported as cut.
        long_form: decode clips over 30 s window by window, one at a time; False gives them the outcome "too long".
        batch_size: clips at once. Results can depend on it by rounding.
    """

    num_beams: int = 1
    max_new_tokens: int | None = None
    long_form: bool = True
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("num_beams", "batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}")

    def digest(self) -> str:
        state = {key: value for key, value in asdict(self).items() if key != "batch_size"}
        return hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class Hypothesis:
    """What a system made of one clip.

    Attributes:
        dataset, id, digest, language, task, expert: what it was asked.
        text: None if there is none; `outcome` then says why, and `detail` gives the figure or error behind it.
        cut: whether `max_new_tokens` ended it.
        audio_seconds: length of the clip, in s.
        seconds: this clip's share of its batch's time, reading and decoding included, in s.
    """

    dataset: str
    id: str
    digest: str
    language: str
    task: str
    text: str | None
    outcome: Outcome
    detail: str = ""
    cut: bool = False
    audio_seconds: float = 0.0
    seconds: float = 0.0
    expert: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        return self.dataset, self.id, self.digest, self.language, self.task, self.expert or ""


def clip_key(clip: Clip) -> tuple[str, ...]:
    """What a stored hypothesis is found by."""
    return clip.dataset, clip.id, clip.digest or "", clip.language, clip.task, clip.expert or ""


class HypothesisStore:
    """Hypotheses of one system on disk, a JSON object a line. A last line that was cut off by a kill is removed.

    Of several processes the first writes into the file itself, and the others each into one beside it; `take_in` puts
    their lines into it. What a killed run left beside it is found by the next one, of any number of processes.

    Args:
        path: the file.
        process: the number of this process.

    Raises:
        ValueError: a line that is complete and no hypothesis: the file is not ours or was edited.
    """

    def __init__(self, path: str | Path, process: int = 0) -> None:
        self.main_path = Path(path)
        self.path = self.main_path if process == 0 else self.main_path.with_suffix(f".{process}.jsonl")
        self.hypotheses: dict[tuple[str, ...], Hypothesis] = {}
        for file in dict.fromkeys([self.main_path, self.path]):
            self._read(file)

    def take_in(self) -> None:
        """Put what other processes have written into the file of the first, and remove theirs; for that one alone."""
        for path in sorted(self.main_path.parent.glob(f"{self.main_path.stem}.*.jsonl")):
            if not path.suffixes[-2][1:].isdigit():
                continue
            before = dict(self.hypotheses)
            self._read(path)
            new = [made for key, made in self.hypotheses.items() if key not in before]
            if new:
                self.append(new)
            path.unlink()

    def _read(self, path: Path) -> None:
        if path.exists():
            self._heal(path)
            # Not by splitlines(), which also takes signs for ends of lines that JSON leaves in a text.
            lines = path.read_bytes().split(b"\n")[:-1]
            for number, line in enumerate(lines, start=1):
                try:
                    hypothesis = Hypothesis(**json.loads(line))
                except (ValueError, TypeError) as error:
                    raise ValueError(
                        f"expected a hypothesis in line {number} of {path}, got {line[:80]!r} ({error}): remove "
                        "the line, and that clip is transcribed again"
                    ) from error
                self.hypotheses[hypothesis.key] = hypothesis

    @staticmethod
    def _heal(path: Path) -> None:
        with path.open("rb+") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)

    def __contains__(self, clip: Clip) -> bool:
        return clip_key(clip) in self.hypotheses

    def __getitem__(self, clip: Clip) -> Hypothesis:
        return self.hypotheses[clip_key(clip)]

    def append(self, batch: Iterable[Hypothesis]) -> None:
        """Write hypotheses at once, all of them or none, and let them reach the disk before returning."""
        batch = list(batch)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(self.path, [json.dumps(asdict(hypothesis), ensure_ascii=False) for hypothesis in batch])
        self.hypotheses.update((hypothesis.key, hypothesis) for hypothesis in batch)


def store_path(folder: str | Path, spec: SystemSpec, settings: GenerationSettings) -> Path:
    """The file of a system's hypotheses in `folder`: readable name, digest of the system, digest of the settings."""
    name = re.sub(r"[^\w.+-]+", "_", spec.name)
    return Path(folder) / f"{name}.{system_digest(spec)}.{settings.digest()}.jsonl"


def plan_batches(clips: Sequence[Clip], settings: GenerationSettings) -> list[list[Clip]]:
    """All batches of a run, a function of the clips alone.

    Within a data set and task, clips of about the same length share a batch, longest first: a batch decodes for as
    long as its longest text. Clips over 30 s stand alone.
    """
    groups: dict[tuple[str, str], list[Clip]] = {}
    for clip in clips:
        groups.setdefault((clip.dataset, clip.task), []).append(clip)
    batches = []
    for group in groups.values():
        ordered = sorted(group, key=lambda clip: (-(clip.seconds or 0.0), clip.id))
        long = [clip for clip in ordered if (clip.seconds or 0.0) > WINDOW_SECONDS]
        batches += [[clip] for clip in long]
        short = ordered[len(long) :]
        size = settings.batch_size
        batches += [short[start : start + size] for start in range(0, len(short), size)]
    return batches


def transcribe(
    spec: SystemSpec,
    clips: Sequence[Clip],
    store: HypothesisStore,
    *,
    settings: GenerationSettings,
    open_model: Callable[[SystemSpec], System] = open_system,
    progress: bool = True,
    processes: Processes = ALONE,
) -> int:
    """Transcribe what the store lacks, of several processes a share each; returns how many clips that were.

    The model is opened only if there is something to do.
    """
    # Shared before any is left out: the processes may have read the file at different times.
    planned = processes.share(plan_batches(clips, settings))
    batches = [[u for u in batch if u not in store] for batch in planned]
    batches = [batch for batch in batches if batch]
    whole, total = sum(map(len, planned)), sum(map(len, batches))
    if total == 0:
        return 0
    system = open_model(spec)
    with tqdm(total=whole, initial=whole - total, desc=spec.name, unit="clip", disable=not progress) as bar:
        for batch in batches:
            store.append(transcribe_batch(system, batch, settings))
            bar.update(len(batch))
    return total


def transcribe_clips(
    system: System,
    clips: Sequence[Clip],
    settings: GenerationSettings,
    *,
    progress: bool = True,
    processes: Processes = ALONE,
) -> list[Hypothesis]:
    """Hypotheses of a model that is open already, in the order of the clips; several processes share the work, and each
    has all of it in the end."""
    places = {id(clip): place for place, clip in enumerate(clips)}
    found: dict[int, Hypothesis] = {}
    batches = processes.share(plan_batches(clips, settings))
    total = sum(map(len, batches))
    with tqdm(total=total, desc=system.name, unit="clip", leave=False, disable=not progress) as bar:
        for batch in batches:
            made = transcribe_batch(system, batch, settings)
            found.update((places[id(clip)], hypothesis) for clip, hypothesis in zip(batch, made, strict=True))
            bar.update(len(batch))
    everything = {place: made for part in processes.gather(found) for place, made in part.items()}
    return [everything[places[id(clip)]] for clip in clips]


def transcribe_batch(system: System, batch: Sequence[Clip], settings: GenerationSettings) -> list[Hypothesis]:
    """Hypotheses of one batch, in its order; clips that cannot be transcribed have their outcome instead of a text."""
    started = time.perf_counter()
    made: list[dict[str, Any]] = [_look(system, clip, settings) for clip in batch]
    todo = [index for index, fields in enumerate(made) if fields["samples"] is not None]
    long = [index for index in todo if len(made[index]["samples"]) > WINDOW_SECONDS * SAMPLING_RATE]
    short = [index for index in todo if index not in long]
    for group in ([short] if short else []) + [[index] for index in long]:
        samples = [made[index]["samples"] for index in group]
        texts = generate(system, samples, [batch[index] for index in group], settings)
        for index, (text, cut) in zip(group, texts, strict=True):
            made[index] |= {"text": text, "cut": cut}
    seconds = (time.perf_counter() - started) / len(batch)
    for fields in made:
        del fields["samples"]
    return [
        Hypothesis(*clip_key(clip)[:5], **fields, seconds=round(seconds, 4), expert=clip.expert)
        for clip, fields in zip(batch, made, strict=True)
    ]


def _look(system: System, clip: Clip, settings: GenerationSettings) -> dict[str, Any]:
    """The samples of a clip, None where it cannot be transcribed, and its outcome."""
    nothing = {"samples": None, "text": None, "audio_seconds": clip.seconds or 0.0}
    if _prompt_language(system, clip) is None:
        return nothing | {"outcome": "language unknown to the model", "detail": clip.language}
    try:
        samples = read_audio(clip.audio, sampling_rate=SAMPLING_RATE)
    except AudioError as error:
        if error.missing:
            return nothing | {"outcome": "missing", "detail": f"no file {Path(str(clip.audio)).name}"}
        return nothing | {"outcome": "unreadable", "detail": str(error)}
    outcome, detail = audio_outcome(samples)
    seconds = round(len(samples) / SAMPLING_RATE, 4)
    found = {"outcome": outcome, "detail": detail, "audio_seconds": seconds}
    if outcome == "no samples":
        return nothing | found
    if seconds > WINDOW_SECONDS and not settings.long_form:
        return nothing | found | {"outcome": "too long", "detail": f"{seconds:.1f} s"}
    return nothing | found | {"samples": samples}


def _expert(system: System, clip: Clip) -> str | None:
    """The expert to name, where the language token alone would not choose it."""
    if clip.task == "translate":
        return None
    if clip.expert is not None:
        return clip.expert if clip.expert in system.expert_names else None
    named = clip.language in system.expert_names and clip.language not in system.languages
    return clip.language if named else None


def _prompt_language(system: System, clip: Clip) -> str | None:
    """The language to prompt with: the clip's own, or that of its expert; None if the model has neither."""
    if clip.language in system.languages:
        return clip.language
    expert = _expert(system, clip)
    return None if expert is None else system.model.config.language_experts[expert].get("language")


@torch.inference_mode()
def generate(
    system: System, samples: Sequence[Samples], clips: Sequence[Clip], settings: GenerationSettings
) -> list[tuple[str, bool]]:
    """Text of each clip, and whether `max_new_tokens` ended it. All clips of up to 30 s, or a single longer one."""
    long = len(samples[0]) > WINDOW_SECONDS * SAMPLING_RATE
    extractor = system.processor.feature_extractor
    windowing = {"truncation": False, "padding": "longest"} if long else {}
    inputs = extractor(
        list(samples), sampling_rate=SAMPLING_RATE, return_tensors="pt", return_attention_mask=True, **windowing
    )
    device, limit = system.device, settings.max_new_tokens
    options: dict[str, Any] = {"num_beams": settings.num_beams, "do_sample": False, "return_timestamps": long}
    if limit is not None:
        options["max_new_tokens"] = limit
    if getattr(system.model.generation_config, "is_multilingual", True):
        options["language"] = [_prompt_language(system, clip) for clip in clips]
        options["task"] = clips[0].task
    experts = [_expert(system, clip) for clip in clips]
    if any(experts):
        options["expert"] = experts
    tokens = system.model.generate(
        inputs.input_features.to(device, system.dtype), attention_mask=inputs.attention_mask.to(device), **options
    )
    texts = system.processor.batch_decode(tokens, skip_special_tokens=True)
    # One token, or a list of them.
    end = torch.tensor(system.model.generation_config.eos_token_id, device=tokens.device)
    # A row without an end token used up its limit; of a long clip only the text is known.
    ended = [long or bool(torch.isin(row, end).any()) or len(row) == 0 for row in tokens]
    if not long:
        # Rows that ended before the longest are padded with the end token; the longest drops its own.
        longest = tokens.shape[1]
        ended = [done or limit is None or longest < limit for done in ended]
    return [(text.strip(), not done) for text, done in zip(texts, ended, strict=True)]
