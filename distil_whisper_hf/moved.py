"""Import paths of 0.1 that lead elsewhere now: they keep working, with a DeprecationWarning that names the new path."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

PACKAGE = __name__.rpartition(".")[0]

# A module of 0.1 -> the modules that its names are in now, looked through in this order.
MODULES: dict[str, tuple[str, ...]] = {
    "cards": ("publishing.card",),
    "checkpoints": ("original_release", "base_fingerprint", "expert_header", "untrusted_files", "whole_checkpoint"),
    "commands.evaluation_sets": ("evaluation.evaluated_clips",),
    "commands.programs": ("commands.runs",),
    "commands.scoring": ("commands.final_scores", "evaluation.systems.hypotheses", "evaluation.systems.gates"),
    "commands.speech": ("data.corpus", "data.arguments", "data.atomic_files"),
    "configuration_distil_whisper": ("languages", "original_release", "expert_form"),
    "evaluation": (
        "evaluation.scores.metrics",
        "evaluation.scores.normalization",
        "evaluation.scores.numerals",
        "evaluation.statistics.bleu_intervals",
        "evaluation.statistics.intervals",
        "evaluation.statistics.language_gaps",
        "evaluation.statistics.paired",
        "evaluation.statistics.speaker_gaps",
        "evaluation.statistics.speakers",
        "evaluation.statistics.training_hours",
        "evaluation.systems.costs",
        "evaluation.systems.hypotheses",
        "evaluation.systems.opening",
        "evaluation.systems.quantization",
        "evaluation.recipes",
        "evaluation.report.analysis",
        "evaluation.report.document",
        "evaluation.report.page",
        "languages",
    ),
    "evaluation.analysis": ("evaluation.report.analysis",),
    "evaluation.bias": ("evaluation.statistics.speaker_gaps",),
    "evaluation.figures": ("evaluation.report.figures",),
    "evaluation.gates": ("evaluation.systems.gates",),
    "evaluation.hypotheses": ("evaluation.systems.hypotheses",),
    "evaluation.markdown": ("evaluation.report.numbers", "markdown"),
    "evaluation.metrics": ("evaluation.scores.metrics",),
    "evaluation.normalization": ("evaluation.scores.normalization", "languages"),
    "evaluation.numerals": ("evaluation.scores.numerals",),
    "evaluation.precision": ("evaluation.systems.quantization",),
    "evaluation.prediction_metrics": ("evaluation.scores.trainer_metrics",),
    "evaluation.quantization": ("evaluation.systems.costs",),
    "evaluation.report": ("evaluation.report.document", "evaluation.report.page"),
    "evaluation.report_sections": ("evaluation.report.accuracy", "evaluation.report.bias", "evaluation.report.cost"),
    "evaluation.resources": ("evaluation.statistics.language_gaps", "evaluation.statistics.training_hours"),
    "evaluation.significance": ("evaluation.statistics.paired",),
    "evaluation.speakers": ("evaluation.statistics.speakers",),
    "evaluation.systems": ("evaluation.systems.opening",),
    "evaluation.translation": ("evaluation.statistics.bleu_intervals",),
    "evaluation.trends": ("evaluation.report.trends",),
    "evaluation.uncertainty": ("evaluation.statistics.intervals",),
    "evaluation.utterances": ("evaluation.systems.outcomes", "data.clips"),
    "generation_distil_whisper": ("routing", "expert_verbs"),
    "hub": ("publishing.push",),
    "language_experts": ("routing", "gates"),
    "listing": ("publishing.listing",),
    "pipeline_distil_whisper": ("audio_input",),
    "publishing": ("publishing.release",),
    "results": ("publishing.measured_results",),
    "training.audio": ("data.audio",),
    "training.clips": ("data.clips", "data.sampling", "languages"),
    "training.columns": ("data.columns",),
    "training.hub_datasets": ("data.hub_datasets",),
    "training.joining": ("data.joining",),
    "training.labels": ("data.labels",),
    "training.manifests": ("data.manifests", "data.common_voice"),
    "training.screening": ("data.screening", "data.rejections"),
    "training.speech_datasets": ("training.datasets",),
    "training.splits": ("data.splits",),
    "training.text": ("data.text",),
    "tokenization_distil_whisper": ("languages",),
}
# Names that are called otherwise now, by their old path.
RENAMED: dict[str, str] = {
    "checkpoints.ORIGINAL_BASE_KEYS": "original_release.BASE_KEYS",
    "commands.programs.sample": "data.sampling.choose_clips",
    "commands.scoring.TestRow": "commands.final_scores.ScoreRow",
    "commands.scoring.test_rows": "commands.final_scores.score_rows",
    "commands.speech.Speech": "data.corpus.Corpus",
    "commands.speech.SpeechArguments": "data.arguments.DataArguments",
    "commands.speech.read_speech": "data.corpus.read_corpus",
    "configuration_distil_whisper.ORIGINAL_FIELDS": "original_release.CONFIG_FIELDS",
    "evaluation.AudioUnreadable": "data.audio.AudioError",
    "evaluation.Utterance": "data.clips.Clip",
    "evaluation.convert": "evaluation.systems.quantization.convert",
    "evaluation.hypotheses.utterance_key": "evaluation.systems.hypotheses.clip_key",
    "evaluation.quantization.LoadedAudio": "data.audio.Waveform",
    "evaluation.recipes.DatasetKind": "data.sources.SourceKind",
    "evaluation.recipes.choose": "data.sampling.choose_clips",
    "evaluation.utterances.AudioUnreadable": "data.audio.AudioError",
    "evaluation.utterances.Utterance": "data.clips.Clip",
    "publishing.PublishingMixin": "expert_verbs.ExpertVerbsMixin",
}


def install_old_paths() -> None:
    """Let the paths of 0.1 be imported. Calling it again changes nothing."""
    # By name: a reload of the package brings a new class.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != _OldPaths.__name__]
    sys.meta_path.insert(0, _OldPaths())
    for name in _old_modules():
        loaded = sys.modules.get(f"{PACKAGE}.{name}")
        if loaded is not None:
            loaded.__getattr__ = _names_of(name)


def _old_modules() -> set[str]:
    return MODULES.keys() | {path.rpartition(".")[0] for path in RENAMED}


def _names_of(module: str) -> Callable[[str], Any]:
    return partial(_find, module)


def _find(module: str, name: str) -> Any:
    """What `name` of a module of 0.1 is now, with the warning that says where."""
    path = RENAMED.get(f"{module}.{name}")
    places = [path.rpartition(".")[0]] if path else [place for place in MODULES.get(module, ()) if place != module]
    wanted = path.rpartition(".")[2] if path else name
    # Protocols of Python ask every module for names of their own.
    if not name.startswith("__"):
        for place in places:
            found = vars(import_module(f"{PACKAGE}.{place}"))
            if wanted in found:
                message = f"{PACKAGE}.{module}.{name} has moved: import {wanted} from {PACKAGE}.{place}."
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                return found[wanted]
    raise AttributeError(f"module {PACKAGE + '.' + module!r} has no attribute {name!r}")


class _OldPaths(MetaPathFinder, Loader):
    """Finds modules that are gone, and gives those that are still there their old names beside the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = fullname.removeprefix(PACKAGE + ".")
        if module == fullname or module not in _old_modules():
            return None
        there = PathFinder.find_spec(fullname, path)
        if there is None or there.origin is None:
            return ModuleSpec(fullname, self)
        there.loader = _WithOldNames(fullname, there.origin)
        return there

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix(PACKAGE + ".")
        module.__doc__ = f"A path of 0.1, see {', '.join(MODULES[name])}."
        module.__getattr__ = _names_of(name)


class _WithOldNames(SourceFileLoader):
    """Loads a module that is still there, and adds what else it was called in 0.1."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.__getattr__ = _names_of(module.__name__.removeprefix(PACKAGE + "."))
