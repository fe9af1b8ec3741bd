"""How many hours of transcribed speech Whisper was trained on in each language, and what counts as few."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

ResourceClass = Literal["low", "mid", "high"]

# Limits in hours of transcribed training speech, a factor of ten apart. "high" begins where the outlook of the Whisper
# paper draws the line: most languages have less than 1000 hours.
MID_RESOURCE_HOURS = 100.0
HIGH_RESOURCE_HOURS = 1000.0


@dataclass(frozen=True)
class TrainingHours:
    """Hours of transcribed speech in one language (Whisper code) that Whisper was trained on, and their source."""

    language: str
    name: str
    hours: float
    source: str


@cache
def training_hours() -> Mapping[str, TrainingHours]:
    """Training data by language code, from `data/whisper_hours.csv`.

    The figures are those of the models up to large-v2, speech recognition only (translation data is not counted). They
    add up to the 117 113 multilingual hours that the paper states, within the rounding of 74 languages. Whisper's
    other languages are not in the file, because no hours of transcribed speech could be verified for them.
    """
    with (files(__package__) / "data" / "whisper_hours.csv").open(encoding="utf-8") as file:
        rows = [
            TrainingHours(row["language"], row["name"], float(row["hours"]), row["source"])
            for row in csv.DictReader(file)
        ]
    return MappingProxyType({row.language: row for row in rows})


def resource_class(hours: float) -> ResourceClass:
    """The class of a language: "low" below 100 hours of transcribed training speech, "high" from 1000 hours on."""
    if not hours >= 0:
        raise ValueError(f"hours of training speech must not be negative, got {hours}")
    if hours < MID_RESOURCE_HOURS:
        return "low"
    return "mid" if hours < HIGH_RESOURCE_HOURS else "high"
