"""Whisper with language experts: the difference to transformers' Whisper.

Every layer gets `language_experts` beside Whisper's own feed-forward network, which keeps its names (`fc1`, `fc2`):
plain Whisper checkpoints open as they are, and a row without an expert is computed by the very same operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers import initialization
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.models.whisper.modeling_whisper import (
    WhisperAttention,
    WhisperDecoder,
    WhisperEncoder,
    WhisperForConditionalGeneration,
    WhisperModel,
    WhisperPreTrainedModel,
    shift_tokens_right,
    sinusoids,
)
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from .compact_experts import LowRank
from .configuration_distil_whisper import DistilWhisperConfig
from .expert_verbs import ExpertVerbsMixin
from .gates import GateLinear
from .generation_distil_whisper import DistilWhisperGenerationMixin
from .language_experts import LanguageExperts
from .layers_distil_whisper import DistilWhisperDecoderLayer, DistilWhisperEncoderLayer
from .pipeline_distil_whisper import install_pipeline
from .pretrained import PretrainedMixin
from .routing import ExpertRouting, LoadedExperts, read_marks, route_by_prompt
from .transformers_contract import CACHE_NAME, check_transformers

check_transformers()


@dataclass
class DistilWhisperModelOutput(Seq2SeqModelOutput):
    """Seq2SeqModelOutput plus, if asked for by `output_gate_values=True`, the gate of every layer and token.

    encoder_gate_values: per encoder layer `(batch, frames)`, in [0, 1]; 0 for rows on the shared path.
    decoder_gate_values: per decoder layer `(batch, tokens)`, likewise.
    """

    encoder_gate_values: tuple[torch.Tensor, ...] | None = None
    decoder_gate_values: tuple[torch.Tensor, ...] | None = None


@dataclass
class DistilWhisperLMOutput(Seq2SeqLMOutput):
    """Seq2SeqLMOutput plus gate values, as in `DistilWhisperModelOutput`."""

    encoder_gate_values: tuple[torch.Tensor, ...] | None = None
    decoder_gate_values: tuple[torch.Tensor, ...] | None = None


class DistilWhisperPreTrainedModel(WhisperPreTrainedModel):
    """What all model classes share: configuration, weight initialisation, routing.

    Attributes:
        loaded_experts: the experts that there are now. Encoder, decoder and the model of both have it.
    """

    config_class = DistilWhisperConfig
    config: DistilWhisperConfig
    loaded_experts: LoadedExperts
    _no_split_modules = ["DistilWhisperEncoderLayer", "DistilWhisperDecoderLayer"]
    # Experts that were not asked for may stand in a whole checkpoint.
    _keys_to_ignore_on_load_unexpected = [r"\.language_experts\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, GateLinear | LowRank):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def _experts_of_layers(self) -> LoadedExperts:
        layers = [module for module in self.modules() if isinstance(module, LanguageExperts)]
        return LoadedExperts(self.config.language_experts, {layer.layer_name: layer.networks for layer in layers})

    def _routing(
        self, expert_ids: torch.Tensor | None, gate_noise: float = 0.0, loaded: LoadedExperts | None = None
    ) -> ExpertRouting | None:
        loaded = loaded or self.loaded_experts
        if expert_ids is None or not loaded.entries:
            return None
        layers = [cast(LanguageExperts, layer.language_experts) for layer in cast(nn.ModuleList, self.layers)]
        dtype = cast(nn.LayerNorm, self.layer_norm).weight.dtype
        return loaded.routing(expert_ids, layers, dtype=dtype, mode=self.config.expert_routing, gate_noise=gate_noise)

    # Behind every public way of switching checkpointing on.
    def _set_gradient_checkpointing(  # type: ignore[override]  # the rest is given by keyword
        self, enable: bool = True, gradient_checkpointing_func: Any = None, **kwargs: Any
    ) -> None:
        if enable and isinstance(gradient_checkpointing_func, partial):
            if gradient_checkpointing_func.keywords.get("use_reentrant"):
                raise ValueError(
                    "Expected gradient checkpointing with use_reentrant=False, got True: it would cut the gates off "
                    "from their loss. Leave `gradient_checkpointing_kwargs` out."
                )
            kwargs["gradient_checkpointing_func"] = gradient_checkpointing_func
        super()._set_gradient_checkpointing(enable, **kwargs)


class DistilWhisperEncoder(DistilWhisperPreTrainedModel, WhisperEncoder):
    """Whisper's encoder with language experts."""

    _can_record_outputs = {
        "hidden_states": DistilWhisperEncoderLayer,
        "attentions": WhisperAttention,
        "gate_values": OutputRecorder(LanguageExperts, index=1),
    }

    def __init__(self, config: DistilWhisperConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList([DistilWhisperEncoderLayer(config, i) for i in range(config.encoder_layers)])
        self.loaded_experts = self._experts_of_layers()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Whisper does this where it comes to the encoder itself, which transformers passes over in classes that are not
        # its own, since it has no parameters but those of its parts.
        if module is self.embed_positions:
            initialization.copy_(module.weight, sinusoids(*module.weight.shape))

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        expert_ids: torch.Tensor | None = None,
        gate_noise: float = 0.0,
        loaded_experts: LoadedExperts | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """As WhisperEncoder's, with `expert_ids` `(batch,)`: index of each row's expert, -1 for the shared path."""
        routing = self._routing(expert_ids, gate_noise, loaded_experts)
        return super().forward(input_features, attention_mask, routing=routing, **kwargs)


class DistilWhisperDecoder(DistilWhisperPreTrainedModel, WhisperDecoder):
    """Whisper's decoder with language experts."""

    _can_record_outputs = {
        "hidden_states": DistilWhisperDecoderLayer,
        "attentions": OutputRecorder(WhisperAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(WhisperAttention, index=1, layer_name="encoder_attn"),
        "gate_values": OutputRecorder(LanguageExperts, index=1),
    }

    def __init__(self, config: DistilWhisperConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList([DistilWhisperDecoderLayer(config, i) for i in range(config.decoder_layers)])
        self.loaded_experts = self._experts_of_layers()
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        expert_ids: torch.Tensor | None = None,
        gate_noise: float = 0.0,
        loaded_experts: LoadedExperts | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """As WhisperDecoder's, with `expert_ids` `(batch,)`: index of each row's expert, -1 for the shared path."""
        routing = self._routing(expert_ids, gate_noise, loaded_experts)
        return super().forward(input_ids, attention_mask, encoder_hidden_states, routing=routing, **kwargs)


class DistilWhisperModel(PretrainedMixin, ExpertVerbsMixin, DistilWhisperPreTrainedModel, WhisperModel):
    """The bare encoder and decoder with language experts."""

    def __init__(self, config: DistilWhisperConfig) -> None:
        # Past WhisperModel's own __init__, which would build plain layers first.
        super(WhisperModel, self).__init__(config)
        self.encoder = DistilWhisperEncoder(config)
        self.decoder = DistilWhisperDecoder(config)
        self.loaded_experts = self._experts_of_layers()
        self.post_init()

    def route(
        self, decoder_input_ids: torch.Tensor, loaded_experts: LoadedExperts | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The plain prompt and the expert of each row `(batch,)`: chosen by name (a mark), else by language token."""
        prompt, marks = read_marks(decoder_input_ids, self.config.vocab_size)
        expert_ids = route_by_prompt(
            prompt,
            (loaded_experts or self.loaded_experts).language_tokens,
            start_token_id=self.config.decoder_start_token_id,
            translate_token_id=self.config.translate_token_id,
        )
        return prompt, torch.where(marks > 0, marks - 2, expert_ids)

    # Adapted from transformers 5.23 WhisperModel.forward; only experts and gate values are added.
    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: Cache | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        expert_ids: torch.Tensor | None = None,
        loaded_experts: LoadedExperts | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> DistilWhisperModelOutput:
        """As WhisperModel's forward; see there for everything but the following.

        Args:
            expert_ids: `(batch,)`, int64: index into `expert_names` of each row's expert, -1 for the shared path.
                None: by the language token in `decoder_input_ids`.
            loaded_experts: what `expert_ids` mean; None: the experts that there are now. Passes that belong together
                hand on those of their beginning, as `generate` does, and other threads may change the model meanwhile.
            cache: `past_key_values`, as transformers calls it from 5.24 on.
            output_gate_values: return the gates of every layer (`encoder_gate_values`, `decoder_gate_values`).
        """
        cache = past_key_values if cache is None else cache
        loaded = loaded_experts or self.loaded_experts
        if loaded.entries and expert_ids is None and decoder_input_ids is not None:
            if cache is not None and cache.get_seq_length() > 0:
                raise ValueError(
                    f"Expected `expert_ids` beside `{CACHE_NAME}`: the prompt that names the language is in the past. "
                    "Pass `expert_ids` of shape (batch,), as `model.route(prompt)` returns it, to every step."
                )
            decoder_input_ids, expert_ids = self.route(decoder_input_ids, loaded)
        chosen = {"expert_ids": expert_ids, "loaded_experts": loaded}
        encoded: BaseModelOutput
        if encoder_outputs is None:
            # As the stock forward hands them on, whatever the types say.
            masked = self._mask_input_features(input_features, attention_mask=attention_mask)  # type: ignore[arg-type]
            encoded = self.encoder(masked, **chosen, **kwargs)
        elif isinstance(encoder_outputs, BaseModelOutput):
            encoded = encoder_outputs
        else:
            encoded = BaseModelOutput(*encoder_outputs)

        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoded[0],
            inputs_embeds=decoder_inputs_embeds,
            position_ids=decoder_position_ids,
            use_cache=use_cache,
            **chosen,
            **{CACHE_NAME: cache},
            **kwargs,
        )
        return DistilWhisperModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
            encoder_gate_values=encoded.get("gate_values"),
            decoder_gate_values=decoder_outputs.get("gate_values"),
            **{CACHE_NAME: decoder_outputs.get(CACHE_NAME)},
        )


class DistilWhisperForConditionalGeneration(
    PretrainedMixin,
    ExpertVerbsMixin,
    DistilWhisperGenerationMixin,
    DistilWhisperPreTrainedModel,
    WhisperForConditionalGeneration,
):
    """Whisper with language experts and a language modelling head.

    Attributes:
        gate_noise: α, the noise on the gates' logits in training; a schedule sets it (`GateNoiseCallback`), 0 is none.
        encoder_is_frozen: after `freeze_encoder`.
    """

    def __init__(self, config: DistilWhisperConfig) -> None:
        # Past WhisperForConditionalGeneration's own __init__, which would build a plain model first.
        super(WhisperForConditionalGeneration, self).__init__(config)
        self.model = DistilWhisperModel(config)
        self.proj_out = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.max_target_positions = config.max_target_positions
        self.gate_noise, self.encoder_is_frozen = 0.0, False
        self.post_init()

    # Adapted from transformers 5.23 WhisperForConditionalGeneration.forward; experts, gate values and the loss's
    # normalisation over accumulated batches are added.
    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: Cache | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        expert_ids: torch.Tensor | None = None,
        loaded_experts: LoadedExperts | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> DistilWhisperLMOutput:
        """As WhisperForConditionalGeneration's forward; see there for everything but the following.

        Args:
            labels: `(batch, tokens)`, int64, -100 where no loss is wanted; the language token in them routes.
            expert_ids: `(batch,)`, int64: index into `expert_names` of each row's expert, -1 for the shared path.
                None: by the language token in `labels` or `decoder_input_ids`.
            loaded_experts: the experts that `expert_ids` mean, as in `DistilWhisperModel.forward`.
            num_items_in_batch: number of target tokens over all accumulated batches; the loss is then the sum over
                this batch divided by it. None: the mean over this batch.
            cache: `past_key_values`, as transformers calls it from 5.24 on.
            output_gate_values: return the gates of every layer (`encoder_gate_values`, `decoder_gate_values`).
        """
        if labels is not None:
            if labels.shape[1] > self.max_target_positions:
                raise ValueError(
                    f"Expected labels of at most {self.max_target_positions} tokens, got {labels.shape[1]}. "
                    "Leave longer transcripts out or cut their audio."
                )
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = shift_tokens_right(
                    labels,
                    self.config.pad_token_id,  # type: ignore[arg-type]  # Whisper's has a padding token
                    self.config.decoder_start_token_id,
                )

        outputs = self.model(
            input_features,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=encoder_outputs,
            decoder_attention_mask=decoder_attention_mask,
            cache=past_key_values if cache is None else cache,
            decoder_inputs_embeds=decoder_inputs_embeds,
            decoder_position_ids=decoder_position_ids,
            use_cache=use_cache,
            expert_ids=expert_ids,
            loaded_experts=loaded_experts,
            gate_noise=self.gate_noise,
            **kwargs,
        )
        logits = self.proj_out(outputs.last_hidden_state)
        return DistilWhisperLMOutput(
            loss=None if labels is None else self._cross_entropy(logits, labels, num_items_in_batch),
            logits=logits,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
            encoder_gate_values=outputs.encoder_gate_values,
            decoder_gate_values=outputs.decoder_gate_values,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )

    def _cross_entropy(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        logits, labels = logits.view(-1, self.config.vocab_size), labels.to(logits.device).reshape(-1)
        if num_items_in_batch is None:
            return nn.functional.cross_entropy(logits, labels)
        return nn.functional.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch

    def freeze_feature_encoder(self) -> None:
        """Freeze Whisper's own weights: what transformers' speech recognition scripts call before training."""
        self.requires_grad_(False)
        if self.expert_names:
            self.freeze_shared()

    def freeze_encoder(self) -> None:
        """As Whisper's, its experts included; a trainer of scripts then adds an expert to the decoder alone."""
        self.encoder_is_frozen = True
        super().freeze_encoder()


# Also where this file is all there is, as code from the Hub.
install_pipeline()
