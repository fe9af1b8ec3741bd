"""Pushing to a repository on the Hub, without touching what is there already.

A push is one commit on top of the commit that it was planned on: if another writer was faster, it is planned again on
theirs. Whatever fails before that commit leaves the repository as it was.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME

from ..base_fingerprint import check_same_base
from ..checkpoints import expert_filename, listed_experts
from ..configuration_distil_whisper import DistilWhisperConfig
from ..expert_header import GEOMETRY, read_header
from ..secret_tokens import TOKEN, without_tokens
from ..untrusted_files import ExpertFileError, read_json
from .card import is_own_card, model_card
from .listing import EXPERT_FILE, WEIGHTS, check_token, is_weight_file, remote_config, remote_header
from .measured_results import MeasuredResults, eval_result_file, read_results

CARD_NAME = "README.md"
RESULTS_FILE = "results.{}.json"
EVAL_RESULTS_FILE = ".eval_results/{}.yaml"
# Files that are the base's: the same for every expert, so the first push brings them and later ones leave them.
SHARED_FILES = (
    "added_tokens.json",
    "generation_config.json",
    "merges.txt",
    "normalizer.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
# Nothing else in a folder is ever sent: a training folder holds pickles, logs and optimiser states too.
PUSHED = (
    CONFIG_NAME,
    CARD_NAME,
    "LICENSE*",
    "expert.*.safetensors",
    RESULTS_FILE.format("*"),
    *WEIGHTS,
    *SHARED_FILES,
)
MODEL_CODE = "modeling_distil_whisper.py"
ATTEMPTS = 8
# What the Hub answers when the branch has moved since, or another commit is being made.
MOVED = (409, 412)


class HubPushError(OSError):
    """A push that failed. The message says what the repository holds now, and how to go on."""


@dataclass(frozen=True)
class PushOptions:
    """How a push is made.

    Attributes:
        private: for a new repository. None: as the account has it.
        revision: branch to push to, made from main if it is not there.
        create_pr: open a pull request in place of a commit.
        commit_message, commit_description: of the commit.
        token: None takes the one of `hf auth login`.

    Raises:
        ValueError: a token with white space in it.
    """

    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    commit_message: str | None = None
    commit_description: str | None = None
    token: str | bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_token(self.token)


DEFAULT_OPTIONS = PushOptions()


def push_folder(folder: str | os.PathLike, repo_id: str, options: PushOptions = DEFAULT_OPTIONS) -> CommitInfo:
    """Push a folder (a release, an expert-only or a whole checkpoint) to the Hub, in one commit.

    Into a repository that holds experts already, these are added: its `config.json` lists both, the card is made for
    both, other experts' files and the processor stay untouched. A card that somebody wrote stays as well. Only files
    that belong to a model are sent.

    Args:
        repo_id: "user/name"; made if it is not there.
        options: see `PushOptions`.

    Returns:
        The commit: `oid`, `commit_url` and `pr_url`.

    Raises:
        ValueError: a folder without a DistilWhisper configuration, or with a token in one of its files.
        HubPushError: the Hub refused, or the connection was lost; or the repository is for another base.
    """
    folder = Path(folder)
    files = folder_files(folder)
    config = read_json(folder / CONFIG_NAME) if CONFIG_NAME in files else {}
    if config.get("model_type") != DistilWhisperConfig.model_type:
        raise ValueError(
            f"Expected a folder with a DistilWhisper {CONFIG_NAME}, got {str(folder)!r} with "
            f"{', '.join(files) or 'no file of a model'}. Make one with `distil-whisper release` or `save_pretrained`."
        )
    secrets = {secret for secret in (options.token, get_token()) if isinstance(secret, str) and secret}
    check_no_token(folder, files, secrets)
    names = ", ".join(listed_experts(config, folder / CONFIG_NAME)) or "no expert"
    push = _Push(folder, files, repo_id, options)
    try:
        push.prepare()
        return push.commit(options.commit_message or f"Upload {names}")
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        message = _explain(error, push, secrets)
    # Outside, so that it does not carry the client's errors along: they may hold a header with the token in it.
    raise HubPushError(message)


def code_files() -> list[Path]:
    """The files that a model needs to open where this package is not installed; they stand beside this one."""
    model = Path(__file__).parents[1] / MODEL_CODE
    return sorted({model, *map(Path, get_relative_import_files(model))})


def folder_files(folder: Path) -> list[str]:
    """Names of the files of a folder that a push sends, sorted."""
    plain = [path.name for path in folder.glob("*") if path.is_file() and not path.is_symlink()]
    patterns = (*PUSHED, *(path.name for path in code_files()))
    kept = [name for name in plain if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    return sorted(name for name in kept if not name.startswith("expert.") or EXPERT_FILE.fullmatch(name))


def check_no_token(folder: Path, files: Iterable[str], secrets: Iterable[str] = ()) -> None:
    """Raise ValueError if a token stands in a file's text, or in the header of its weights."""
    for name in files:
        with open(folder / name, "rb") as file:
            size = min(int.from_bytes(file.read(8), "little"), 1 << 25) if name.endswith(".safetensors") else -1
            text = file.read(size).decode("utf-8", errors="replace")
        if TOKEN.search(text) or any(secret in text for secret in secrets):
            raise ValueError(f"Expected no token in files to publish, found one in {name}. Take it out, and revoke it.")


def _explain(error: Exception, push: _Push, secrets: Iterable[str]) -> str:
    # The client wraps the reason of a failed upload.
    chain = [one for one in (error, error.__cause__) if one is not None]
    reason = without_tokens(" ".join(str(one).strip() for one in chain), secrets)
    statuses = [one.response.status_code for one in chain if isinstance(one, HfHubHTTPError)]
    status = statuses[0] if statuses else None
    remedy = {
        401: "Log in with `hf auth login`, or pass `token=`.",
        403: "Use a token that may write there, or `create_pr=True`.",
        404: "Check the name and that the token can see it.",
    }.get(status, "Call it again when the connection is back: weights that arrived are not sent twice.")
    if isinstance(error, ExpertFileError):
        remedy = "Push to another repository."
    if push.sent and status is None:
        state = "Whether its commit was made is not known; if it was, a second call changes nothing."
    else:
        state = "It was not changed" + (" (it was made, and holds no expert yet)." if push.created else ".")
    return f"Expected to push to {push.repo_id!r}, failed: {reason} {state} {remedy}"


class _Push:
    """One push: what is sent, and where it stands."""

    def __init__(self, folder: Path, files: list[str], repo_id: str, options: PushOptions) -> None:
        self.api = HfApi(token=options.token)
        self.folder, self.files, self.repo_id, self.options = folder, files, repo_id, options
        self.created = self.sent = False
        self.additions: list[CommitOperationAdd] = []
        self.weights = [name for name in files if name.endswith(".safetensors")]
        self.config = read_json(folder / CONFIG_NAME)

    def prepare(self) -> None:
        """Make repository and branch if need be, and send the weights, which are part of nothing until the commit."""
        if "/" not in self.repo_id or not self.api.repo_exists(self.repo_id):
            self.repo_id = self.api.create_repo(self.repo_id, private=self.options.private, exist_ok=True).repo_id
            self.created = True
        revision, create_pr = self.options.revision, self.options.create_pr
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            self.api.create_branch(self.repo_id, branch=revision, exist_ok=True)
        head, remote = self.head()
        # Refused before anything is sent.
        self.merged_config(head, remote)
        self.additions = self.new_additions()
        self.api.preupload_lfs_files(
            self.repo_id, self.additions, revision=revision, create_pr=create_pr, free_memory=False
        )

    def new_additions(self) -> list[CommitOperationAdd]:
        """The weights, without what the client has found out about them."""
        return [CommitOperationAdd(name, self.folder / name) for name in self.weights]

    def head(self) -> tuple[str, dict[str, int]]:
        """The commit that the branch is at, and its files with their sizes."""
        info = self.api.model_info(self.repo_id, revision=self.options.revision, files_metadata=True)
        return info.sha, {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}

    def commit(self, message: str) -> CommitInfo:
        for attempt in range(1, ATTEMPTS + 1):
            head, remote = self.head()
            operations = self.operations(head, remote)
            self.sent = True
            try:
                return self.api.create_commit(
                    self.repo_id,
                    operations,
                    commit_message=message,
                    commit_description=self.options.commit_description,
                    revision=self.options.revision,
                    create_pr=self.options.create_pr,
                    parent_commit=head,
                )
            except HfHubHTTPError as error:
                if error.response.status_code not in MOVED or attempt == ATTEMPTS:
                    raise
            except HTTPError:
                # The answer was lost. If the commit was made, the next attempt finds nothing to change.
                if self.options.create_pr or attempt == ATTEMPTS:
                    raise
                self.additions = self.new_additions()
        raise RuntimeError("unreachable: the last attempt returns or raises")

    def operations(self, head: str, remote: dict[str, int]) -> list[CommitOperationAdd | CommitOperationDelete]:
        config = self.merged_config(head, remote)
        added: dict[str, Path | bytes] = {name: self.folder / name for name in self.files if name not in self.weights}
        whole = any(map(is_weight_file, self.files))
        if not whole:
            added = {name: source for name, source in added.items() if name not in SHARED_FILES or name not in remote}
        added[CONFIG_NAME] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
        results = self.merged_results(head, remote, config["language_experts"])
        for name in config["language_experts"]:
            text = eval_result_file(results.get(name, MeasuredResults()), name)
            if text is not None and (self.folder / RESULTS_FILE.format(name)).exists():
                added[EVAL_RESULTS_FILE.format(name)] = text.encode()
        card = self.card(head, remote, config, results, whole)
        if card is None:
            added.pop(CARD_NAME, None)
        else:
            added[CARD_NAME] = card.encode()
        stale = self.stale(remote) if whole else []
        return [
            *self.additions,
            *(CommitOperationAdd(name, source) for name, source in sorted(added.items())),
            *(CommitOperationDelete(name) for name in stale),
        ]

    def stale(self, remote: dict[str, int]) -> list[str]:
        """Remote files that would contradict a whole checkpoint: older shards, older files of experts inside it."""
        inside = {expert_filename(name) for name in self.config["language_experts"]}
        shards = {name for name in remote if is_weight_file(name)}
        return sorted((shards | (inside & remote.keys())) - set(self.files))

    def merged_config(self, head: str, remote: dict[str, int]) -> dict[str, Any]:
        """config.json for what is there and what is added."""
        theirs = remote_config(self.repo_id, head, remote, self.options.token)
        if not theirs:
            return self.config
        wanted = {key: self.config.get(key) for key in ("model_type", "base_model_name_or_path", *GEOMETRY)}
        differing = [
            f"{key}: there {theirs.get(key)!r}, here {value!r}"
            for key, value in wanted.items()
            if theirs.get(key) != value
        ]
        if differing:
            raise ExpertFileError(f"expected a repository for this base, found another ({'; '.join(differing)}).")
        mine = self.config["language_experts"]
        self.check_fingerprint(head, remote)
        merged = {**theirs, "language_experts": {**theirs.get("language_experts", {}), **mine}}
        return merged | ({"auto_map": self.config["auto_map"]} if "auto_map" in self.config else {})

    def check_fingerprint(self, head: str, remote: dict[str, int]) -> None:
        """Compare with one expert that stays: all experts of a repository fit one base."""
        here = [name for name in self.weights if EXPERT_FILE.fullmatch(name)]
        there = [name for name in sorted(remote) if EXPERT_FILE.fullmatch(name) and name not in here]
        if not here or not there:
            return
        theirs = read_header(there[0], remote_header(self.api, self.repo_id, there[0], head).metadata)
        for name in here:
            mine = read_header(self.folder / name)
            check_same_base(mine.name, mine.fingerprint, theirs.fingerprint, mine.base_model, theirs.base_model)

    def merged_results(self, head: str, remote: dict[str, int], experts: Iterable[str]) -> dict[str, MeasuredResults]:
        found = {}
        for name in experts:
            filename = RESULTS_FILE.format(name)
            if (self.folder / filename).exists():
                found[name] = read_results(self.folder / filename)
            elif filename in remote:
                found[name] = read_results(
                    hf_hub_download(self.repo_id, filename, revision=head, token=self.options.token)
                )
        return found

    def card(
        self,
        head: str,
        remote: dict[str, int],
        config: dict[str, Any],
        results: dict[str, MeasuredResults],
        whole: bool,
    ) -> str | None:
        """The card to push; None leaves the repository's own."""
        own = self.folder / CARD_NAME
        if own.exists() and not is_own_card(own.read_text(encoding="utf-8")):
            return own.read_text(encoding="utf-8")
        if CARD_NAME in remote:
            there = Path(hf_hub_download(self.repo_id, CARD_NAME, revision=head, token=self.options.token))
            if not is_own_card(there.read_text(encoding="utf-8")):
                return None
        sizes = {found[1]: size for name, size in remote.items() if (found := EXPERT_FILE.fullmatch(name))}
        sizes |= {
            found[1]: (self.folder / name).stat().st_size
            for name in self.files
            if (found := EXPERT_FILE.fullmatch(name))
        }
        whole = whole or any(map(is_weight_file, remote))
        return model_card(config, results, repo_id=self.repo_id, sizes=sizes, whole=whole)
