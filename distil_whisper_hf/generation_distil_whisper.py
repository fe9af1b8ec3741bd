"""Generation: the expert of every row, from its prompt or by name, carried through Whisper's own decoding (see
`routing`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import GenerationConfig
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from .languages import WHISPER_LANGUAGES, language_code, token_language
from .routing import mark_experts

if TYPE_CHECKING:
    from .configuration_distil_whisper import DistilWhisperConfig

    class WhisperGenerationConfig(GenerationConfig):
        """What Whisper's generation reads beside transformers' own fields."""

        is_multilingual: bool
        language: str | list[str] | None
        task: str | None
        lang_to_id: dict[str, int]
        task_to_id: dict[str, int]
        prev_sot_token_id: int
        no_timestamps_token_id: int
        max_initial_timestamp_index: int
        return_timestamps: bool


class DistilWhisperGenerationMixin(WhisperGenerationMixin):
    """Whisper's `generate` with an expert per row."""

    if TYPE_CHECKING:
        # What the class has that this is mixed into; the model with its `route` stands in a file that imports this one.
        config: DistilWhisperConfig
        model: Any

        @property
        def expert_names(self) -> tuple[str, ...]: ...
        def expert_index(self, name: str) -> int: ...

    def generate(  # type: ignore[override]  # as Whisper's own, which takes `input_features` for `inputs`
        self,
        input_features: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        language: str | list[str] | None = None,
        expert: str | list[str | None] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | dict[str, Any]:
        """Transcribe or translate, as `WhisperForConditionalGeneration.generate`; all its arguments are accepted.

        Each row takes the expert of its language: the `language` given for it, or the one detected. Languages without
        an expert and `task="translate"` take the shared path: plain Whisper.

        Args:
            input_features: log-mel spectrogram, `(batch, mel bins, frames)`, 100 frames per second.
            language: a language for all rows or a list with one per row, as `languages.language_code` takes it ("ca",
                "Catalan", "ca_es"). None: the one of `expert`, or the one detected.
            expert: name of a loaded expert, for all rows or a list with one per row, over what the language would
                choose, whatever the task. None (also in a list): by language. "shared": plain Whisper. Where no
                `language` is given, the expert's own language is taken rather than detected.

        Raises:
            KeyError: an expert that is not loaded.
            ValueError: a list that is not as long as the batch, or a language that the vocabulary has no token for.
        """
        if language is not None:
            config = self.generation_config if generation_config is None else generation_config
            tokens = getattr(config, "lang_to_id", None) or {}
            rows = [language] if isinstance(language, str) else list(language)
            codes = [known_language(name, tokens) if isinstance(name, str) else name for name in rows]
            kwargs["language"] = codes[0] if isinstance(language, str) else codes
        if expert is not None:
            kwargs["expert"] = expert
        return super().generate(input_features, generation_config, *args, **kwargs)

    def _expert_choices(self, expert: str | list[str | None], batch_size: int) -> list[int | None]:
        names = [expert] * batch_size if isinstance(expert, str) else list(expert)
        if len(names) != batch_size:
            raise ValueError(f"Expected one expert for each of {batch_size} rows, got {len(names)}: {names}.")
        return [None if name is None else self.expert_index(name) for name in names]

    # Adds to the prompts that Whisper has made: the language of an expert chosen by name, and that choice itself.
    def _retrieve_init_tokens(
        self,
        input_features: torch.Tensor | None,
        batch_size: int,
        generation_config: WhisperGenerationConfig,
        config: Any,
        num_segment_frames: int,
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        expert = kwargs.pop("expert", None)
        if expert is None:
            return super()._retrieve_init_tokens(
                input_features, batch_size, generation_config, config, num_segment_frames, kwargs
            )
        choices = self._expert_choices(expert, batch_size)
        if getattr(generation_config, "language", None) is None and getattr(generation_config, "is_multilingual", True):
            languages = self._languages_of(choices, input_features, generation_config, num_segment_frames, kwargs)
            generation_config.language = languages
        init_tokens = super()._retrieve_init_tokens(
            input_features, batch_size, generation_config, config, num_segment_frames, kwargs
        )
        return mark_experts(init_tokens, choices, self.config.vocab_size)

    def _languages_of(
        self,
        choices: list[int | None],
        input_features: torch.Tensor | None,
        generation_config: WhisperGenerationConfig,
        num_segment_frames: int,
        kwargs: dict[str, Any],
    ) -> list[str]:
        """Per row the chosen expert's language, or the detected one where there is no expert or it has none."""
        entries = list(self.config.language_experts.values())
        languages = [None if c is None or c < 0 else entries[c].get("language") for c in choices]
        if None in languages:
            detected = self.detect_language(
                input_features=input_features,
                encoder_outputs=kwargs.get("encoder_outputs"),
                generation_config=generation_config,
                num_segment_frames=num_segment_frames,
            ).tolist()
            codes = {token_id: token for token, token_id in generation_config.lang_to_id.items()}
            languages = [language or codes[detected[row]] for row, language in enumerate(languages)]
        return cast(list[str], languages)

    # Rows are final here: windows cut, finished rows dropped, retries selected. The encoder runs afterwards, then beams
    # are multiplied, together with every tensor in `model_kwargs`.
    def _prepare_model_inputs(
        self, inputs: torch.Tensor | None, bos_token_id: torch.Tensor | None, model_kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, str | None, dict[str, Any]]:
        # Transformers types the `self` of these methods as a whole model.
        found, name, model_kwargs = super()._prepare_model_inputs(  # type: ignore[misc]
            inputs, bos_token_id, model_kwargs
        )
        if self.expert_names and "decoder_input_ids" in model_kwargs:
            prompt, expert_ids = self.model.route(model_kwargs["decoder_input_ids"])
            model_kwargs = {**model_kwargs, "decoder_input_ids": prompt, "expert_ids": expert_ids}
        return found, name, model_kwargs

    # Adapted from transformers 5.23 GenerationMixin, which leaves Whisper's prompts alone by its model type; only that
    # differs: a prompt that begins with <|startofprev|> must not get a start token in front.
    def _prepare_decoder_input_ids_for_generation(
        self,
        batch_size: int,
        model_input_name: str,
        model_kwargs: dict[str, torch.Tensor],
        decoder_start_token_id: torch.Tensor,
        device: torch.device | None = None,
    ) -> tuple[torch.LongTensor, dict[str, torch.Tensor]]:
        if "decoder_input_ids" in model_kwargs:
            return cast(torch.LongTensor, model_kwargs.pop("decoder_input_ids")), model_kwargs
        return super()._prepare_decoder_input_ids_for_generation(  # type: ignore[misc]
            batch_size, model_input_name, model_kwargs, decoder_start_token_id, device
        )


def known_language(language: str, tokens: dict[str, int]) -> str:
    """A language as Whisper's `generate` takes it: its code, or its token where the code is none of Whisper's.

    Args:
        language: as `languages.language_code` takes it.
        tokens: the vocabulary's language tokens, `generation_config.lang_to_id`; empty if they are not known.

    Raises:
        ValueError: a language that is unknown, or that has no token.
    """
    code = language_code(language, {token_language(token) for token in tokens} or None)
    return code if code in WHISPER_LANGUAGES else f"<|{code}|>"


def complete_generation_config(generation_config: WhisperGenerationConfig, config: DistilWhisperConfig) -> None:
    """Fill in what a checkpoint without generation_config.json lacks for a multilingual vocabulary, in place."""
    languages, tasks = config.language_token_ids, config.task_token_ids
    if getattr(generation_config, "lang_to_id", None) is not None or not languages:
        return
    generation_config.is_multilingual = True
    generation_config.lang_to_id = {f"<|{code}|>": token_id for code, token_id in languages.items()}
    generation_config.task_to_id = {"transcribe": tasks["transcribe"], "translate": tasks["translate"]}
    # <|transcribe|> is followed by <|startoflm|>, <|startofprev|>, <|nospeech|>, <|notimestamps|>.
    generation_config.prev_sot_token_id = tasks["transcribe"] + 2
    generation_config.no_timestamps_token_id = tasks["transcribe"] + 4
    generation_config.max_initial_timestamp_index = 50
    generation_config.return_timestamps = False
    generation_config.max_length = config.max_target_positions
    generation_config._from_model_config = False
