"""Generation: the expert of every row, from its prompt or by name, carried through Whisper's own decoding (see
`routing`)."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    WhisperNoSpeechDetection,
    WhisperTimeStampLogitsProcessor,
)
from transformers.models.whisper.configuration_whisper import NON_SPEECH_TOKENS, NON_SPEECH_TOKENS_MULTI
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin
from transformers.utils import logging

from .configuration_distil_whisper import ENGLISH_ONLY_START, MULTILINGUAL_START
from .languages import WHISPER_LANGUAGES, language_code, token_language
from .routing import LoadedExperts, mark_experts

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
        forced_decoder_ids: list[list[int | None]] | None


logger = logging.get_logger(__name__)
# Beside languages and times.
PROMPT_TOKENS = {
    f"<|{name}|>"
    for name in (
        "endoftext",
        "startoftranscript",
        "translate",
        "transcribe",
        "startoflm",
        "startofprev",
        "notimestamps",
    )
}
# What every WhisperConfig says by itself, with the end of the English-only vocabulary.
UNSAID = ("begin_suppress_tokens", [220, 50256])


class DistilWhisperGenerationMixin(WhisperGenerationMixin):
    """Whisper's `generate` with an expert per row."""

    if TYPE_CHECKING:
        # What the class has that this is mixed into; the model with its `route` stands in a file that imports this one.
        config: DistilWhisperConfig
        model: Any

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
        complete_generation_config(cast("WhisperGenerationConfig", self.generation_config), self.config)
        if language is not None:
            own = getattr(self.generation_config, "lang_to_id", None) or {}
            tokens = getattr(generation_config, "lang_to_id", None) or own
            rows = [language] if isinstance(language, str) else list(language)
            codes = [known_language(name, tokens) if isinstance(name, str) else name for name in rows]
            kwargs["language"] = codes[0] if isinstance(language, str) else codes
        if expert is not None:
            kwargs["expert"] = expert
        # Until it ends, whatever other threads do to the model.
        kwargs.setdefault("loaded_experts", self.model.loaded_experts.for_one_call())
        if generation_config is not None and generation_config.is_assistant:
            self._draft(kwargs)
        # By another name, as Whisper would let a text begin as it must not where it is assisted.
        if "assistant_model" in kwargs:
            kwargs["assistant"] = kwargs.pop("assistant_model")
        return super().generate(input_features, generation_config, *args, **kwargs)

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
        names = [expert] * batch_size if isinstance(expert, str) else list(expert)
        if len(names) != batch_size:
            raise ValueError(f"Expected one expert for each of {batch_size} rows, got {len(names)}: {names}.")
        loaded: LoadedExperts = kwargs["loaded_experts"]
        choices = [None if name is None else loaded.index(name) for name in names]
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
        entries = list(kwargs["loaded_experts"].entries.values())
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

    # Whisper detects silence by a pass of its own, and hands it tensors only.
    @staticmethod
    def _setup_no_speech_detection(
        logits_processor: list[LogitsProcessor],
        segment_input: torch.Tensor,
        decoder_input_ids: torch.Tensor,
        kwargs: dict[str, Any],
    ) -> None:
        WhisperGenerationMixin._setup_no_speech_detection(  # type: ignore[no-untyped-call]
            logits_processor, segment_input, decoder_input_ids, kwargs
        )
        for processor in logits_processor:
            if isinstance(processor, WhisperNoSpeechDetection):
                processor.inputs["loaded_experts"] = kwargs["loaded_experts"]  # type: ignore[index]

    # Rows are final here: windows cut, finished rows dropped, retries selected. The encoder runs afterwards, then beams
    # are multiplied, together with every tensor in `model_kwargs`.
    def _prepare_model_inputs(
        self, inputs: torch.Tensor | None, bos_token_id: torch.Tensor | None, model_kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, str | None, dict[str, Any]]:
        # Transformers types the `self` of these methods as a whole model.
        found, name, model_kwargs = super()._prepare_model_inputs(  # type: ignore[misc]
            inputs, bos_token_id, model_kwargs
        )
        loaded = model_kwargs.get("loaded_experts", self.model.loaded_experts)
        if loaded.entries and "decoder_input_ids" in model_kwargs:
            prompt, expert_ids = self.model.route(model_kwargs["decoder_input_ids"], loaded)
            model_kwargs = {**model_kwargs, "decoder_input_ids": prompt, "expert_ids": expert_ids}
            # Now, so that the pass itself reads nothing on the host.
            self.model.encoder._routing(expert_ids, loaded=loaded)
        return found, name, model_kwargs

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the next pass of the decoder is given, its experts worked out: once, as long as rows stay the same."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)
        self.model.decoder._routing(inputs.get("expert_ids"), loaded=inputs.get("loaded_experts"))
        return inputs

    def _draft(self, kwargs: dict[str, Any]) -> None:
        """Set the arguments of `generate` for a draft, at the end of a text that another model has begun."""
        # Left there by a Whisper that is assisted; for good, which would cut long audio short.
        vars(self.generation_config).pop("force_unique_generate_call", None)
        kwargs["force_unique_generate_call"] = True
        kwargs["return_timestamps"] = False
        kwargs["logits_processor"] = for_drafts(kwargs["logits_processor"])

    def generate_with_fallback(self, **arguments: Any) -> Any:  # type: ignore[override]  # all are given by keyword
        """As Whisper's: decode a window, once for every temperature that it takes."""
        kwargs = dict(arguments.pop("kwargs"))
        if "assistant" in kwargs:
            kwargs["assistant_model"] = kwargs.pop("assistant")
            # For the assistant, which is handed these settings.
            arguments["generation_config"].force_unique_generate_call = True
        return super().generate_with_fallback(kwargs=kwargs, **arguments)  # type: ignore[no-untyped-call]

    # An assistant is no part of the choice: it knows no experts, or has its own, by the language in its prompt. Nor may
    # it, which begins anew with every draft, move the beginning that the processors of this model know.
    def _get_candidate_generator(  # type: ignore[override]  # what is handed on stays in **kwargs
        self,
        generation_config: GenerationConfig,
        *args: Any,
        logits_processor: list[LogitsProcessor],
        model_kwargs: dict[str, Any],
        **kwargs: Any,
    ) -> Any:
        drafting = copy.deepcopy(generation_config)
        drafting.return_timestamps = False  # type: ignore[attr-defined]
        mine = ("expert_ids", "loaded_experts")
        return super()._get_candidate_generator(  # type: ignore[misc]
            drafting,
            *args,
            logits_processor=for_drafts(logits_processor),
            model_kwargs={key: value for key, value in model_kwargs.items() if key not in mine},
            **kwargs,
        )

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


class Unmoved(LogitsProcessor):
    """A processor that knows where a text began, and does not hear of another beginning."""

    def __init__(self, processor: LogitsProcessor) -> None:
        self.processor = processor

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.processor(input_ids, scores)  # type: ignore[arg-type]


def for_drafts(processors: list[LogitsProcessor]) -> LogitsProcessorList:
    """A model's processors as an assistant may use them: it moves their beginning to that of each of its drafts, for
    the model too, and does not listen for silence."""
    beginning = (SuppressTokensAtBeginLogitsProcessor, WhisperTimeStampLogitsProcessor)
    kept = [processor for processor in processors if not isinstance(processor, WhisperNoSpeechDetection)]
    return LogitsProcessorList(Unmoved(one) if isinstance(one, beginning) else one for one in kept)


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


def missing_settings(generation_config: GenerationConfig) -> list[str]:
    """What Whisper's decoding has to be told, and neither a generation config of 2022 nor one made from a model's
    configuration says."""
    needed = ["is_multilingual", "no_timestamps_token_id"]
    if getattr(generation_config, "is_multilingual", None) is not False:
        needed += ["lang_to_id", "task_to_id"]
    return [name for name in needed if getattr(generation_config, name, None) is None]


def complete_generation_config(
    generation_config: WhisperGenerationConfig, config: DistilWhisperConfig, tokens: dict[str, int] | None = None
) -> None:
    """Add, in place, what a generation config does not say: languages and tasks by the vocabulary, the rest as
    Whisper's authors have it. What it says stays, and one that says everything is left as it is.

    Args:
        generation_config: of any age, or made from `config`.
        config: the model's.
        tokens: special token -> id. None: as Whisper's vocabularies have them; of another one nothing is known.
    """
    missing = missing_settings(generation_config)
    tokens = config.special_token_ids if missing and tokens is None else tokens or {}
    if missing and tokens.keys() >= PROMPT_TOKENS:
        logger.warning_once(
            f"The generation settings of {config.name_or_path or 'a model'} lack {', '.join(missing)}, as those of "
            "2022 do. They are completed as Whisper's authors have them; `save_pretrained` keeps that."
        )
        for name, value in whisper_settings(config, tokens).items():
            if getattr(generation_config, name, None) is None or (name, getattr(generation_config, name)) == UNSAID:
                setattr(generation_config, name, value)
        generation_config._from_model_config = False
    if getattr(generation_config, "task_to_id", None) and getattr(generation_config, "task", None) is None:
        # Without a task, a detected language is followed by none, and that by nonsense.
        forced = getattr(generation_config, "forced_decoder_ids", None) or getattr(config, "forced_decoder_ids", None)
        ids = [token_id for _, token_id in forced or []]
        tasks = [task for task, token_id in generation_config.task_to_id.items() if token_id in ids]
        if missing or not tasks:
            spoken = [token for token, token_id in generation_config.lang_to_id.items() if token_id in ids]
            generation_config.task = tasks[0] if tasks else "transcribe"
            generation_config.language = getattr(generation_config, "language", None) or (spoken[0] if spoken else None)
            generation_config.forced_decoder_ids = None


def whisper_settings(config: DistilWhisperConfig, tokens: dict[str, int]) -> dict[str, Any]:
    """The generation settings that Whisper's authors decode by, with the heads that they align by in a model of which
    they know no better: those of the upper half of the decoder.

    Args:
        config: the model's.
        tokens: special token -> id.
    """
    start, end, no_timestamps = config.decoder_start_token_id, tokens["<|endoftext|>"], tokens["<|notimestamps|>"]
    # Of all special tokens, those of two or three letters are languages. English-only vocabularies have them too.
    languages = {token: token_id for token, token_id in tokens.items() if re.fullmatch(r"<\|[a-z]{2,3}\|>", token)}
    multilingual = bool(languages) and start != ENGLISH_ONLY_START
    sounds = {ENGLISH_ONLY_START: NON_SPEECH_TOKENS, MULTILINGUAL_START: NON_SPEECH_TOKENS_MULTI}.get(start, [])
    # <|nospeech|>, before <|notimestamps|>, used to be called <|nocaptions|>.
    prompting = {tokens[token] for token in PROMPT_TOKENS} | {no_timestamps - 1}
    upper = range(config.decoder_layers // 2, config.decoder_layers)
    settings: dict[str, Any] = {
        "alignment_heads": [[layer, head] for layer in upper for head in range(config.decoder_attention_heads)],
        # " ", in both of Whisper's vocabularies.
        "begin_suppress_tokens": [220, end] if sounds else [end],
        "bos_token_id": config.bos_token_id,
        "decoder_start_token_id": start,
        "eos_token_id": config.eos_token_id,
        "is_multilingual": multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": config.max_target_positions,
        "no_timestamps_token_id": no_timestamps,
        "pad_token_id": config.pad_token_id,
        "prev_sot_token_id": tokens["<|startofprev|>"],
        "return_timestamps": False,
        "suppress_tokens": sorted(
            {token_id for token_id in sounds if token_id < end} | prompting - {end, no_timestamps}
        ),
    }
    if multilingual:
        settings["lang_to_id"] = languages
        settings["task_to_id"] = {task: tokens[f"<|{task}|>"] for task in ("transcribe", "translate")}
    return settings
