"""Releases: the folder that a repository is made of, written from a model or from expert files, and pushed."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.utils import CONFIG_NAME

from ..checkpoints import ExpertFile, listed_experts, local_experts, write_expert
from ..untrusted_files import read_json
from .card import model_card
from .listing import is_weight_file
from .measured_results import eval_result_file, read_results
from .push import (
    CARD_NAME,
    DEFAULT_OPTIONS,
    EVAL_RESULTS_FILE,
    RESULTS_FILE,
    SHARED_FILES,
    PushOptions,
    code_files,
    push_folder,
)

HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
# How transformers finds the code in a repository, with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_distil_whisper.DistilWhisperConfig",
    "AutoModel": "modeling_distil_whisper.DistilWhisperModel",
    "AutoModelForSpeechSeq2Seq": "modeling_distil_whisper.DistilWhisperForConditionalGeneration",
}

Results = str | os.PathLike | Mapping[str, Any]


def complete_release(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    processor: ProcessorMixin | None = None,
    results: Mapping[str, Results] | None = None,
    with_code: bool = True,
    with_card: bool = True,
) -> None:
    """Add to a checkpoint what a repository needs besides: processor, results, code and card.

    Args:
        folder: a whole or expert-only checkpoint.
        repo_id: the repository that it is for; the card names it.
        processor: None takes the base's.
        results: measured figures by expert name, as JSON files or their content (see `measured_results`).
        with_code: add the model's code, so that `trust_remote_code=True` opens it where this package is not installed.
        with_card: write the card too. A push makes its own, from what the repository will hold.

    Raises:
        ValueError: results that are not as they should be, or of an expert that is not there.
        OSError: no processor given, and the base has none.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG_NAME)
    experts = listed_experts(config, folder / CONFIG_NAME)
    stray = sorted((results or {}).keys() - experts.keys())
    if stray:
        raise ValueError(f"Expected results of {', '.join(experts) or 'no expert'}, got some of {stray[0]!r}.")
    checked = {name: read_results(source) for name, source in (results or {}).items()}
    _save_processor(folder, processor, config.get("base_model_name_or_path"))
    for name, found in checked.items():
        (folder / RESULTS_FILE.format(name)).write_text(_json(found.as_dict()), encoding="utf-8")
        text = eval_result_file(found, name)
        if text is not None:
            path = folder / EVAL_RESULTS_FILE.format(name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if with_code:
        for path in code_files():
            shutil.copyfile(path, folder / path.name)
        config["auto_map"] = AUTO_MAP
        (folder / CONFIG_NAME).write_text(_json(config), encoding="utf-8")
    if not with_card:
        return
    sizes = {name: path.stat().st_size for name, path in local_experts(folder).items()}
    whole = any(is_weight_file(path.name) for path in folder.iterdir())
    card = model_card(config, checked, repo_id=repo_id, sizes=sizes, whole=whole)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")


def write_experts(
    model: PreTrainedModel, files: Iterable[ExpertFile], folder: str | os.PathLike, *, base_model: str
) -> None:
    """Write an expert-only checkpoint for others: experts as they are, whose base is named `base_model`.

    Args:
        model: the base, opened as `DistilWhisperForConditionalGeneration`; it gives the configuration.
        files: experts that fit it.
        folder: made if needed.
        base_model: the base's name on the Hub (see `public_base`).
    """
    files = [replace(file, base_model=base_model) for file in files]
    config = copy.deepcopy(model.config)
    config.base_model_name_or_path = base_model
    token_ids = config.language_token_ids
    config.language_experts = {
        file.name: {
            **config.language_experts.get(file.name, {"language_token_id": token_ids.get(file.language)}),
            **file.entry,
        }
        for file in files
    }
    config.architectures = ["DistilWhisperForConditionalGeneration"]
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    model.save_generation_config(Path(folder))
    for file in files:
        write_expert(file, folder, config)


def public_base(known: str | None, base_model: str | None) -> str:
    """The name that others find a base by.

    Args:
        known: what it was opened from.
        base_model: what the user calls it; goes before.

    Raises:
        ValueError: only a local folder is known.
    """
    name = base_model or known
    if name is None or not HUB_NAME.fullmatch(name) or (base_model is None and Path(name).exists()):
        raise ValueError(
            f"Expected a base that others can open, got {name!r}. Name the repository that it came from, "
            'such as base_model="openai/whisper-small".'
        )
    return name


def _save_processor(folder: Path, processor: ProcessorMixin | None, base: str | None) -> None:
    if processor is None:
        processor = AutoProcessor.from_pretrained(base)
    with tempfile.TemporaryDirectory() as beside:
        processor.save_pretrained(beside)
        for path in Path(beside).iterdir():
            if path.name in SHARED_FILES:
                shutil.copyfile(path, folder / path.name)
    # The launcher's tokenizer, for training, encodes and decodes as the stock one does.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "DistilWhisperTokenizer":
        settings["tokenizer_class"] = "WhisperTokenizer"
        settings.pop("auto_map", None)
        path.write_text(_json(settings), encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def push_experts(
    model: PreTrainedModel,
    repo_id: str,
    name: str | Iterable[str],
    *,
    options: PushOptions = DEFAULT_OPTIONS,
    processor: ProcessorMixin | None = None,
    results: Results | None = None,
    base_model: str | None = None,
    with_code: bool = True,
) -> CommitInfo:
    """Push experts of a model, without the base; `model.push_expert_to_hub` says what the arguments are."""
    names = [name] if isinstance(name, str) else list(name)
    by_name = results if results is None or not isinstance(name, str) else {name: results}
    with tempfile.TemporaryDirectory() as folder:
        base_model = public_base(model.config.base_model_name_or_path, base_model)
        write_experts(model, [model.expert_file(name) for name in names], folder, base_model=base_model)
        processor = processor or _own_processor(model)
        # The card is the push's: it is made of what the repository will hold.
        complete_release(folder, repo_id, processor=processor, results=by_name, with_code=with_code, with_card=False)
        message = options.commit_message or f"Upload expert {', '.join(names)}"
        return push_folder(folder, repo_id, replace(options, commit_message=message))


def push_model(
    model: PreTrainedModel,
    repo_id: str,
    *,
    options: PushOptions = DEFAULT_OPTIONS,
    processor: ProcessorMixin | None = None,
    results: Mapping[str, Results] | None = None,
    base_model: str | None = None,
    with_code: bool = True,
    max_shard_size: int | str = "50GB",
) -> CommitInfo:
    """Push a model, base and experts; `model.push_to_hub` says what the arguments are."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        known = base_model or config.get("base_model_name_or_path")
        # The base is inside: the name of a folder would only say where it once lay.
        public = known is not None and HUB_NAME.fullmatch(known) and not Path(known).exists()
        config["base_model_name_or_path"] = known if public else None
        (folder / CONFIG_NAME).write_text(_json(config), encoding="utf-8")
        processor = processor or _own_processor(model)
        complete_release(folder, repo_id, processor=processor, results=results, with_code=with_code, with_card=False)
        return push_folder(folder, repo_id, options)


def _own_processor(model: PreTrainedModel) -> ProcessorMixin:
    base = model.config.base_model_name_or_path
    if base is None:
        raise ValueError("Expected a processor to push, got none and no base to take one from. Pass `processor=`.")
    return AutoProcessor.from_pretrained(base)
