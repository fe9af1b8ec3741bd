"""Pushing while training and at its end: experts, in one commit each time, and never what else lies in the folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import CommitInfo, HfApi

from ..publishing.listing import check_token
from ..publishing.push import HubPushError
from ..publishing.release import public_base
from ..transformers_contract import TRANSFORMERS_VERSION

if TYPE_CHECKING:
    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
    from .speech_trainer import SpeechTrainer as _Trainer
else:
    _Trainer = object

logger = logging.getLogger(__name__)

STRATEGIES = ("end", "every_save")


class HubPushMixin(_Trainer):
    """What Trainer does for `push_to_hub=True`, for trainers whose model holds experts. Stands before Trainer.

    The stock methods upload the output folder as it is, with pickles in it. Here the trained experts are pushed, with
    configuration, processor and card, beside what the repository holds already.
    """

    if TYPE_CHECKING:
        train_experts: tuple[str, ...]

        def _whisper(self) -> DistilWhisperForConditionalGeneration: ...

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, before training; raises ValueError for what would fail at its end."""
        check_token(self.args.hub_token if token is None else token)
        strategy = getattr(self.args.hub_strategy, "value", self.args.hub_strategy)
        if strategy not in STRATEGIES:
            raise ValueError(
                f"Expected hub_strategy to be one of {STRATEGIES}, got {strategy!r}: states of the optimiser are not "
                "pushed. Keep them in the output folder."
            )
        if self.args.push_to_hub:
            public_base(self._whisper().config.base_model_name_or_path, None)
        if TRANSFORMERS_VERSION >= (5, 23):
            super().init_hf_repo(token=token, private=private)
            return
        # Before, Trainer makes the repository as `args` say, and takes one that is there.
        if private is not None and self.is_world_process_zero():
            name = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
            api = HfApi(token=self.args.hub_token if token is None else token)
            api.create_repo(name, private=private, exist_ok=True)
        super().init_hf_repo(token=token)

    def push_to_hub(  # type: ignore[override]  # None on other processes, as the stock one returns too
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        results: Mapping[str, Any] | None = None,
        base_model: str | None = None,
        **kwargs: Any,
    ) -> CommitInfo | None:
        """Save and push the trained experts; returns the commit, None on all processes but the first.

        Args:
            commit_message, token, revision, private: as for Trainer.
            blocking: there for Trainer's callers; a push is always waited for.
            results: measured figures for the card, by expert name (see `publishing.measured_results`).
            base_model: the base's name on the Hub, where it was opened from a local folder.
            kwargs: there for Trainer's callers; the card has its own metadata.

        Raises:
            HubPushError: the push failed. The output folder holds everything: `distil-whisper push` sends it.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        return self._push_experts(
            commit_message, token=token, revision=revision, private=private, results=results, base_model=base_model
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        strategy = getattr(self.args.hub_strategy, "value", self.args.hub_strategy)
        if not self.is_world_process_zero() or strategy == "end":
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        try:
            self._push_experts(f"Training in progress, step {self.state.global_step}")
        except HubPushError as error:
            # Hours of training are worth more than one push, and the next one sends everything.
            logger.warning("%s Training goes on.", error)

    def _push_experts(
        self,
        commit_message: str | None,
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        results: Mapping[str, Any] | None = None,
        base_model: str | None = None,
    ) -> CommitInfo:
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        return self._whisper().push_expert_to_hub(
            cast(str, self.hub_model_id),
            self.train_experts,
            private=self.args.hub_private_repo if private is None else private,
            revision=self.args.hub_revision if revision is None else revision,
            commit_message=commit_message,
            token=self.args.hub_token if token is None else token,
            processor=self.processing_class,
            results=results,
            base_model=base_model,
        )
