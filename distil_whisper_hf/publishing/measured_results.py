"""Results of an expert: the measured figures that its card states, as JSON, one file per expert.

The fields are those of `MeasuredResults` and of the classes in it. One without a default is required; what is not
there, a card calls not known. A command is what printed the figure.
"""

# No postponed annotations: `strict` checks nothing where a type is only its name.
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import yaml_dump

OWN_SYSTEM = "expert"

Part = TypeVar("Part")


@strict
@dataclass
class Recording:
    """A data set that the expert was trained or tested on.

    Attributes:
        license: of the recordings, as their source words it.
        language: Whisper's code.
        clips, minutes: how much of it was used.
        hub_dataset: its name on the Hub.
    """

    name: str
    role: Literal["training", "evaluation"]
    license: str
    source: str
    language: str | None = None
    clips: int | None = None
    minutes: float | int | None = None
    hub_dataset: str | None = None
    notes: str | None = None

    def __post_init__(self) -> None:
        _check_filled(self)


@strict
@dataclass
class Row:
    """An error rate of one system on one test set.

    Attributes:
        system: "expert" is this one, "base" the plain Whisper; baselines have any other name.
        domain: whether the set is of the domain that the expert was trained on.
        language: Whisper's code.
        value: in %.
        interval: lower and upper limit, in %.
        hub_dataset, task_id: of a benchmark on the Hub, which the row then counts for.
    """

    system: str
    dataset: str
    split: str
    domain: Literal["in", "out"]
    language: str
    metric: str
    value: float | int
    command: str
    interval: Sequence[float | int] | None = None
    normalizer: str | None = None
    clips: int | None = None
    hub_dataset: str | None = None
    task_id: str | None = None

    def __post_init__(self) -> None:
        _check_filled(self)
        _check_figure(self.value, self.interval)


@strict
@dataclass
class Gates:
    """Share of open gates in each layer, in [0, 1]."""

    encoder: Sequence[float | int]
    decoder: Sequence[float | int]
    command: str

    def __post_init__(self) -> None:
        _check_filled(self)
        for side in ("encoder", "decoder"):
            if not all(0 <= share <= 1 for share in getattr(self, side)):
                raise ValueError(f"expected shares in [0, 1] as {side}, got {list(getattr(self, side))}")


@strict
@dataclass
class BiasFigure:
    """A difference between groups of speakers, such as "women - men", or one group's rate; `value` in % or points."""

    attribute: str
    group: str
    metric: str
    value: float | int
    command: str
    interval: Sequence[float | int] | None = None
    clips: int | None = None
    speakers: int | None = None

    def __post_init__(self) -> None:
        _check_filled(self)
        _check_figure(self.value, self.interval)


@strict
@dataclass
class MeasuredResults:
    """All that is known about one expert.

    Attributes:
        license: of the expert's weights, by the Hub's name ("cc-by-sa-4.0").
        limits: sentences.
    """

    license: str | None = None
    data: list[Recording] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    gates: Gates | None = None
    bias: list[BiasFigure] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a JSON file, without what is not known."""
        found = asdict(self, dict_factory=lambda pairs: {name: value for name, value in pairs if value is not None})
        return {part: value for part, value in found.items() if value != []}


_LISTS = {"data": Recording, "rows": Row, "bias": BiasFigure}


def read_results(source: str | os.PathLike | Mapping[str, Any]) -> MeasuredResults:
    """Read and check results, from a JSON file or as they would stand in one.

    Raises:
        ValueError: a field that is unknown, missing or of another type, a figure without a command, a number that is
            not finite or outside its interval. The message names the file, the part and the entry's index.
    """
    found = source if isinstance(source, Mapping) else json.loads(Path(source).read_text(encoding="utf-8"))
    where = "the results" if isinstance(source, Mapping) else os.fspath(source)
    parts = dict(found) if isinstance(found, Mapping) else found
    if isinstance(parts, dict):
        for part, kind in _LISTS.items():
            if isinstance(parts.get(part), list):
                parts[part] = [
                    _read(kind, entry, f"{where}: {part}[{index}]") for index, entry in enumerate(parts[part])
                ]
        if parts.get("gates") is not None:
            parts["gates"] = _read(Gates, parts["gates"], f"{where}: gates")
    return _read(MeasuredResults, parts, where)


def _read(kind: type[Part], entry: Any, place: str) -> Part:
    """`kind` with the fields that `entry` gives; an error names the place."""
    known = [one.name for one in fields(kind)]
    if not isinstance(entry, Mapping):
        raise ValueError(f"{place}: expected an object with some of the fields {known}, got {entry!r}.")
    required = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    missing = [name for name in required if name not in entry]
    stray = sorted(entry.keys() - set(known))
    if missing or stray:
        raise ValueError(f"{place}: expected some of the fields {known}, missing {missing}, unknown {stray}.")
    try:
        return kind(**entry)
    except StrictDataclassError as error:
        # Its own words are those of its cause with a heading.
        raise ValueError(f"{place}: {error.__cause__}.") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}.") from error


def _check_filled(entry: Recording | Row | Gates | BiasFigure) -> None:
    empty = [one.name for one in fields(entry) if one.default is MISSING and getattr(entry, one.name) == ""]
    if empty:
        raise ValueError(f"expected some text as {', '.join(empty)}, got none")


def _check_figure(value: float, interval: Sequence[float] | None) -> None:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number as value, got {value}")
    if interval is not None and (len(interval) != 2 or not interval[0] <= value <= interval[1]):
        raise ValueError(f"expected an interval [low, high] around {value}, got {list(interval)}")


def eval_result_file(results: MeasuredResults, name: str) -> str | None:
    """Text of `.eval_results/<name>.yaml`; None without rows on Hub benchmarks (`hub_dataset`, `task_id`)."""
    entries = [
        EvalResultEntry(
            dataset_id=row.hub_dataset,
            task_id=row.task_id,
            value=row.value,
            notes=", ".join(
                [f"{row.metric} in %", f"expert {name}", f"split {row.split}"]
                + ([f"normaliser {row.normalizer}"] if row.normalizer else [])
            ),
        )
        for row in results.rows
        if row.system == OWN_SYSTEM and row.hub_dataset and row.task_id
    ]
    return yaml_dump(eval_result_entries_to_yaml(entries)) if entries else None
