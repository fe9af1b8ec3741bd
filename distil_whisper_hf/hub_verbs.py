"""Pushing experts, or a model with them, to the Hub: verbs of the model, done by the room `publishing`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperPreTrainedModel as _Model
else:
    _Model = object


def _pushing() -> tuple[Any, Any, Any]:
    """What pushes experts, what pushes models, and their options."""
    # By its absolute name and in a `try`: remote code is copied with what it imports relatively, and what publishes is
    # no part of it.
    try:
        from distil_whisper_hf.publishing.push import PushOptions
        from distil_whisper_hf.publishing.release import push_experts, push_model
    except ImportError as error:
        raise ImportError(
            "Expected the package distil_whisper_hf, to push to the Hub: the code in a repository only opens models. "
            "Install the package."
        ) from error
    return push_experts, push_model, PushOptions


class HubVerbsMixin(_Model):
    """The verbs that push, for every model class that has the verbs for experts."""

    def push_expert_to_hub(
        self,
        repo_id: str,
        name: str | Iterable[str],
        *,
        processor: Any = None,
        results: str | os.PathLike | Mapping[str, Any] | None = None,
        base_model: str | None = None,
        with_code: bool = True,
        **options: Any,
    ) -> CommitInfo:
        """Push experts, without the base: their files, configuration, processor and card, in one commit.

        Experts that the repository holds already stay as they are, and the card is made for all of them.

        Args:
            repo_id: "user/name" on the Hub; made if it is not there.
            name: one expert, or several.
            processor: None takes the base's.
            results: measured figures for the card: a JSON file or its content (see `publishing.measured_results`); for
                several experts a mapping from their names.
            base_model: the base's name on the Hub, where it was opened from a local folder.
            with_code: add the model's code (some 150 kB), so that `trust_remote_code=True` opens the repository where
                this package is not installed. With the package it is never run.
            options: `private`, `revision`, `create_pr`, `commit_message`, `commit_description` and `token`, the fields
                of `publishing.push.PushOptions`.

        Raises:
            KeyError: an expert that is not loaded.
            ValueError: no public name of the base, or results that are not as they should be.
            HubPushError: the push failed; nothing there has changed, and the message says how to go on.
        """
        push_experts, _, push_options = _pushing()
        return push_experts(
            self,
            repo_id,
            name,
            options=push_options(**options),
            processor=processor,
            results=results,
            base_model=base_model,
            with_code=with_code,
        )

    def push_to_hub(  # type: ignore[override]  # what transformers leaves to **kwargs is named
        self,
        repo_id: str,
        *,
        processor: Any = None,
        results: Mapping[str, Any] | None = None,
        base_model: str | None = None,
        with_code: bool = True,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
        **options: Any,
    ) -> CommitInfo:
        """Push base and experts, with configuration, processor and card, in one commit.

        Arguments and errors are those of `push_expert_to_hub`; `results` is by expert name, `max_shard_size` as for
        `save_pretrained`. `tags` is there for transformers' callers; the card has its own.
        """
        _, push_model, push_options = _pushing()
        return push_model(
            self,
            repo_id,
            options=push_options(**options),
            processor=processor,
            results=results,
            base_model=base_model,
            with_code=with_code,
            max_shard_size=max_shard_size,
        )
