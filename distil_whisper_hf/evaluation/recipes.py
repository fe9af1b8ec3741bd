"""What an evaluation is: systems, data sets and settings, as one JSON object or as flags."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ..data.arguments import check_share
from ..data.clips import Task
from ..data.sources import SourceKind
from .scores.normalization import NormalizerName
from .scores.numerals import SpellNumbers
from .statistics.intervals import Resampling
from .systems.hypotheses import GenerationSettings
from .systems.opening import SystemSpec, parse_spec
from .systems.quantization import Precision, check_precision

Domain = Literal["in", "out", ""]


@dataclass(frozen=True)
class DatasetSpec:
    """Where utterances come from.

    Attributes:
        path: folder with metadata.csv, .tsv or .jsonl, manifest, folder of a Common Voice locale, or Hub data set.
        name: in the report; the last part of the path by default.
        kind: "" finds it out from the path; a Hub data set has to be named as such.
        language: of all rows; None reads the column.
        domain: "in" or "out" of the domain that the systems were trained on; "" where that is no question.
        task: "translate" compares with English references by BLEU; `columns` then says where these are.
        where: column to value; rows that differ are left out.
        columns: field (audio, text, language, speaker, gender, age, expert, start, end, duration) to column, where it
            has no usual name.
        limit: at most so many clips (see `data.sampling.choose_clips`); None takes all.
        split, config, revision: for Common Voice (the table) and Hub data sets.
        expert: the expert to take for all rows, where the language does not say it.
    """

    path: str
    name: str = ""
    kind: SourceKind | Literal[""] = ""
    language: str | None = None
    domain: Domain = ""
    task: Task = "transcribe"
    where: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    split: str = "test"
    config: str | None = None
    revision: str | None = None
    expert: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (("kind", ("", *get_args(SourceKind))), ("domain", get_args(Domain))):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r} of {self.path}; choose one of {choices}")
        if self.task not in get_args(Task):
            raise ValueError(f"unknown task {self.task!r} of {self.path}; choose one of {get_args(Task)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected a limit of at least 1 clip of {self.path}, got {self.limit}")
        if not self.name:
            object.__setattr__(self, "name", Path(self.path).stem if self.kind != "hub" else self.path)


@dataclass(frozen=True)
class Recipe:
    """An evaluation: every system on every data set.

    Attributes:
        systems: each a word as for `parse_spec`, or an object with the fields of `SystemSpec`.
        datasets: see `DatasetSpec`.
        precisions: each system is opened in each of them; those of objects that name their own are kept.
        output: folder for everything that is written.
        normalizer: "unicode", "basic", "english" or "none".
        spell_numbers: "no", "digits" or "cardinals" (see `numerals`).
        generation: see `GenerationSettings`.
        level, resamples, seed: of all intervals and tests.
        attributes: what speakers are grouped by.
        measure_cost: time, memory and size of every system.
        cost_clips: clips that time and memory are measured on.
        cost_repeats: interleaved repetitions of the timing; the median is reported.
        gate_clips: clips of each language with an expert that gates are recorded on.
        max_rejected: largest share of a data set's rows that may describe no clip, and of its clips without audio.
        device: torch's name of it.
    """

    systems: tuple[SystemSpec, ...]
    datasets: tuple[DatasetSpec, ...]
    output: str = "evaluation"
    normalizer: NormalizerName = "unicode"
    spell_numbers: SpellNumbers = "no"
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    level: float = 0.95
    resamples: int = 10_000
    seed: int = 0
    attributes: tuple[str, ...] = ("gender", "age")
    measure_cost: bool = True
    cost_clips: int = 8
    cost_repeats: int = 3
    gate_clips: int = 16
    max_rejected: float = 0.5
    device: str = "cpu"

    def __post_init__(self) -> None:
        for what, names in (
            ("system", [spec.name for spec in self.systems]),
            ("data set", [spec.name for spec in self.datasets]),
        ):
            if not names:
                raise ValueError(f"expected at least one {what}, got none")
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"expected one name for each {what}, got {', '.join(repeated)} twice: set a label")
        check_share(self.max_rejected)
        # Refuses numbers that no interval could be made of.
        Resampling(resamples=self.resamples, level=self.level)
        for name in ("cost_clips", "cost_repeats", "gate_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        choices = {"normalizer": get_args(NormalizerName), "spell_numbers": get_args(SpellNumbers)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(allowed)}")


def expand_systems(
    systems: Sequence[str | Mapping[str, Any]], precisions: Sequence[Precision], *, device: str
) -> tuple[SystemSpec, ...]:
    """Every system in every precision, the precisions of one system beside each other."""
    specs: list[SystemSpec] = []
    for system in systems:
        if isinstance(system, str):
            given = asdict(parse_spec(system))
        else:
            given = dict(system)
            _check_names("a system", given, SystemSpec)
            if isinstance(given.get("experts"), Mapping):
                given["experts"] = given["experts"].items()
        given["experts"] = tuple(tuple(pair) for pair in given.get("experts", ()))
        own = () if isinstance(system, str) or "precision" not in given else (given["precision"],)
        given.pop("precision", None)
        given["device"] = device
        specs += [SystemSpec(**given, precision=check_precision(precision)) for precision in own or precisions]
    return tuple(specs)


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values, as in JSON.

    Raises:
        ValueError: a field that does not exist (with those that do), one that is missing, or a value out of range.
    """
    values = dict(values)
    precisions = values.pop("precisions", ["float32"])
    _check_names("a recipe", values, Recipe)
    values["systems"] = expand_systems(values["systems"], precisions, device=values.get("device", "cpu"))
    datasets = []
    for dataset in values["datasets"]:
        dataset = {"path": dataset} if isinstance(dataset, str) else dict(dataset)
        _check_names("a data set", dataset, DatasetSpec)
        datasets.append(DatasetSpec(**dataset))
    values["datasets"] = tuple(datasets)
    generation = values.get("generation", {})
    _check_names("generation", generation, GenerationSettings)
    values["generation"] = GenerationSettings(**generation)
    values["attributes"] = tuple(values.get("attributes", ("gender", "age")))
    return Recipe(**values)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The values of a recipe file; `ValueError` for one that is not a JSON object."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON in {path}, got {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object in {path}, got {type(values).__name__}")
    return values


def _check_names(what: str, values: Mapping[str, Any], kind: type) -> None:
    known = [entry.name for entry in fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{what} has no field {', '.join(unknown)}; it has {', '.join(known)}")
    required = [e.name for e in fields(kind) if e.default is MISSING and e.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"expected {', '.join(missing)} in {what}, got {dict(values)}")
