"""What experts a repository on the Hub holds, from its file list and headers: no weights are downloaded."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import SafetensorsParsingError
from huggingface_hub.utils import SafetensorsFileMetadata
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..checkpoints import listed_experts
from ..configuration_distil_whisper import EXPERT_NAME
from ..expert_header import read_header
from ..original_release import original_language
from ..untrusted_files import ExpertFileError, read_json

# A name that is none of ours is no expert, whatever a repository calls its files.
EXPERT_FILE = re.compile(rf"expert\.({EXPERT_NAME.pattern})\.safetensors")
WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, "model-*-of-*.safetensors")


def is_weight_file(filename: str) -> bool:
    """Whether a file holds base weights, or is the index of such files."""
    return any(fnmatch.fnmatchcase(filename, pattern) for pattern in WEIGHTS)


@dataclass(frozen=True)
class ListedExpert:
    """An expert in a repository.

    Attributes:
        language: Whisper's code of the language that it is prompted with, or None.
        base_model: the base that it was made for, or None where the file does not say.
        training: what its file says about its training.
        size: bytes of its weights.
        filename: its file; None where it is inside a whole checkpoint.
    """

    name: str
    language: str | None
    base_model: str | None
    training: dict[str, Any]
    size: int
    filename: str | None


def list_experts(
    repo_id: str, *, revision: str | None = None, token: str | bool | None = None
) -> dict[str, ListedExpert]:
    """The experts that a Hub repository holds, by name, from file headers alone: no weights are downloaded.

    Raises:
        ValueError: a token with white space in it.
        OSError: no such repository or revision, no access, no connection.
        ExpertFileError: an expert's file whose header is damaged.
    """
    check_token(token)
    api = HfApi(token=token)
    info = api.model_info(repo_id, revision=revision, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    config = remote_config(repo_id, info.sha, sizes, token)
    listed = listed_experts(config, f"{repo_id}/{CONFIG_NAME}")
    found: dict[str, ListedExpert] = {}
    for filename, size in sorted(sizes.items()):
        ours, code = EXPERT_FILE.fullmatch(filename), original_language(filename)
        if ours:
            header = remote_header(api, repo_id, filename, info.sha).metadata
            one = read_header(filename, header)
            if one.name == ours[1]:
                found[one.name] = ListedExpert(one.name, one.language, one.base_model, one.training, size, filename)
        elif code is not None:
            found.setdefault(code, ListedExpert(code, code, None, {}, size, filename))
    inside = {name: entry for name, entry in listed.items() if name not in found}
    weights = _inside_sizes(api, repo_id, info.sha, sizes, inside) if inside else {}
    for name, entry in inside.items():
        if weights.get(name):
            base, training = config.get("base_model_name_or_path"), entry.get("training") or {}
            found[name] = ListedExpert(name, entry.get("language"), base, training, weights[name], None)
    return dict(sorted(found.items()))


def check_token(token: str | bool | None) -> None:
    """Refuse a token that no header can carry: the HTTP library would say so, and show it."""
    if isinstance(token, str) and (not token.isprintable() or token.split() != [token]):
        raise ValueError("Expected a token without white space, got one with it. Copy it again, without line ends.")


def remote_config(repo_id: str, commit: str, files: Iterable[str], token: str | bool | None) -> dict[str, Any]:
    """A repository's config.json at a commit; empty if it has none."""
    if CONFIG_NAME not in files:
        return {}
    return read_json(hf_hub_download(repo_id, CONFIG_NAME, revision=commit, token=token))


def remote_header(api: HfApi, repo_id: str, filename: str, commit: str) -> SafetensorsFileMetadata:
    """What a safetensors file in a repository says about itself and its tensors."""
    try:
        return api.parse_safetensors_file_metadata(repo_id, filename, revision=commit)
    except (SafetensorsParsingError, RecursionError, KeyError, ValueError, TypeError) as error:
        raise ExpertFileError(
            f"{repo_id}/{filename}: expected a safetensors file, its header cannot be read ({error}). Push it again."
        ) from error


def _inside_sizes(api: HfApi, repo_id: str, commit: str, files: Iterable[str], names: Iterable[str]) -> dict[str, int]:
    """Bytes of experts inside a whole checkpoint."""
    sizes = dict.fromkeys(names, 0)
    for filename in files:
        if filename.endswith(".safetensors") and is_weight_file(filename):
            tensors = remote_header(api, repo_id, filename, commit).tensors
            for key, tensor in tensors.items():
                name = key.partition(".language_experts.")[2].partition(".")[0]
                if name in sizes:
                    sizes[name] += tensor.data_offsets[1] - tensor.data_offsets[0]
    return sizes
