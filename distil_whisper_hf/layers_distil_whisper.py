"""The two layers: Whisper's, with language experts behind their feed-forward network, which keeps its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer, WhisperEncoderLayer

from .adapted_attention import AdaptedAttention
from .compact_experts import CompactExpert, LinearFactors
from .configuration_distil_whisper import DistilWhisperConfig
from .expert_form import ATTENTIONS, ExpertForm
from .language_experts import Expert, LanguageExpert, LanguageExperts, SharedPath
from .routing import ExpertRouting

if TYPE_CHECKING:
    from torch.nn import Module as _Layer
else:
    _Layer = object


class _FeedForwardExpertsMixin(_Layer):
    """What the two layers add to Whisper's: experts beside `fc1` and `fc2`.

    Attributes:
        side: "encoder" or "decoder"; experts of the other side alone have nothing here.
    """

    side: str
    if TYPE_CHECKING:
        # What both of Whisper's layers have.
        fc1: nn.Linear
        fc2: nn.Linear
        activation_fn: Callable[[torch.Tensor], torch.Tensor]
        activation_dropout: float
        dropout: float
        final_layer_norm: nn.LayerNorm

    def _init_experts(self, config: DistilWhisperConfig, layer: int) -> None:
        self.language_experts = LanguageExperts(
            {
                name: self.new_expert(config, config.expert_form(name))
                for name in config.language_experts
                if self.side in config.expert_sides(name)
            },
            layer_name=f"{self.side}.layers.{layer}",
            skip_probability=config.skip_gate_probability,
            straight_through=config.gate_estimator == "straight_through",
        )
        # The same module, of the same parameters, which takes `factors` besides.
        for name in ATTENTIONS[self.side]:
            getattr(self, name).__class__ = AdaptedAttention

    def new_expert(self, config: DistilWhisperConfig, form: ExpertForm) -> Expert:
        gate = {name: getattr(config, name) for name in ("gate_dim", "gate_dropout", "gate_init_std")}
        rank = form.rank_of(self.side)
        if rank is not None:
            return CompactExpert(
                config.d_model,
                self.fc1.out_features,
                rank=rank,
                targets=form.parts,
                attentions=ATTENTIONS[self.side],
                bias=form.bias,
                expert_dropout=config.expert_dropout,
                **gate,
            )
        return LanguageExpert(
            config.d_model,
            self.fc1.out_features,
            activation=ACT2FN[config.activation_function],
            activation_dropout=config.activation_dropout,
            expert_dropout=config.expert_dropout,
            **gate,
        )

    def attention_factors(self, name: str, routing: ExpertRouting | None) -> Mapping[str, LinearFactors] | None:
        """What the batch's compact experts add to "self_attn" or "encoder_attn"."""
        return None if routing is None else routing.attention(self.language_experts.layer, name)

    @property
    def shared_path(self) -> SharedPath:
        """Whisper's own feed-forward network."""
        return SharedPath(self.fc1, self.fc2, self.activation_fn, self.activation_dropout, self.dropout, self.training)


class DistilWhisperEncoderLayer(_FeedForwardExpertsMixin, WhisperEncoderLayer):
    """An encoder layer: `(batch, frames, d_model)` -> the same."""

    side = "encoder"

    def __init__(self, config: DistilWhisperConfig, layer_idx: int) -> None:
        super().__init__(config)
        self._init_experts(config, layer_idx)

    # Adapted from transformers 5.23 WhisperEncoderLayer.forward; only the feed-forward path differs.
    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        routing: ExpertRouting | None = None,
        output_gate_values: bool | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        residual = hidden_states
        hidden_states = self.self_attn_layer_norm(hidden_states)
        hidden_states, _ = self.self_attn(
            hidden_states=hidden_states,
            attention_mask=attention_mask,
            factors=self.attention_factors("self_attn", routing),
            **kwargs,
        )
        hidden_states = nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)
        hidden_states = residual + hidden_states

        residual = hidden_states
        hidden_states = self.final_layer_norm(hidden_states)
        hidden_states, _ = self.language_experts(
            hidden_states, self.shared_path, routing, record=bool(output_gate_values)
        )
        hidden_states = residual + hidden_states

        if hidden_states.dtype == torch.float16:
            clamp_value = torch.finfo(hidden_states.dtype).max - 1000
            hidden_states = torch.clamp(hidden_states, min=-clamp_value, max=clamp_value)
        return hidden_states


class DistilWhisperDecoderLayer(_FeedForwardExpertsMixin, WhisperDecoderLayer):
    """A decoder layer: `(batch, tokens, d_model)` -> the same."""

    side = "decoder"

    def __init__(self, config: DistilWhisperConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self._init_experts(config, layer_idx)

    # Adapted from transformers 5.23 WhisperDecoderLayer.forward; only the feed-forward path differs.
    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        use_cache: bool | None = True,
        routing: ExpertRouting | None = None,
        output_gate_values: bool | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        residual = hidden_states
        hidden_states = self.self_attn_layer_norm(hidden_states)
        # The cache is among the further arguments: transformers has renamed it in 5.24.
        hidden_states, _ = self.self_attn(
            hidden_states,
            attention_mask=attention_mask,
            factors=self.attention_factors("self_attn", routing),
            **kwargs,
        )
        hidden_states = nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)
        hidden_states = residual + hidden_states

        if encoder_hidden_states is not None:
            residual = hidden_states
            hidden_states = self.encoder_attn_layer_norm(hidden_states)
            hidden_states, _ = self.encoder_attn(
                hidden_states,
                key_value_states=encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                factors=self.attention_factors("encoder_attn", routing),
                **kwargs,
            )
            hidden_states = nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)
            hidden_states = residual + hidden_states

        residual = hidden_states
        hidden_states = self.final_layer_norm(hidden_states)
        hidden_states, _ = self.language_experts(
            hidden_states, self.shared_path, routing, record=bool(output_gate_values)
        )
        return residual + hidden_states


ExpertLayer = DistilWhisperEncoderLayer | DistilWhisperDecoderLayer


def expert_networks(
    layers: Mapping[str, ExpertLayer],
    config: DistilWhisperConfig,
    form: ExpertForm,
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, Expert]:
    """An expert's network for each layer, of tensors that are called as in expert files.

    Args:
        layers: "encoder.layers.0", ... -> the layer; it stays as it is.
        config: of the model.
        form: of the expert.
        tensors: all of the expert's, of any type and on any device.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in layers}
    for key, tensor in tensors.items():
        side, stack, number, name = key.split(".", 3)
        parts[f"{side}.{stack}.{number}"][name] = tensor
    # Without memory of their own first, for they take these tensors.
    with torch.device("meta"):
        networks = {name: layer.new_expert(config, form) for name, layer in layers.items()}
    for name, layer in layers.items():
        # The layer norm is never quantised, so it tells where and in which type the layer computes.
        where = layer.final_layer_norm.weight
        own = {key: tensor.to(where.device, where.dtype) for key, tensor in parts[name].items()}
        networks[name].load_state_dict(own, assign=True)
        networks[name].train(layer.training)
    return networks
