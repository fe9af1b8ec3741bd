"""Whisper's attention with what compact experts add to its projections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from transformers import WhisperConfig
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.whisper.modeling_whisper import WhisperAttention, eager_attention_forward

from .compact_experts import LinearFactors
from .transformers_contract import CACHE_NAME


class AdaptedAttention(WhisperAttention):
    """Whisper's attention, `(batch, tokens, d_model)` -> the same; a row that adds nothing is Whisper's to the bit."""

    # Adapted from transformers 5.23 WhisperAttention.forward: same operations in the same order, and `factors`.
    def forward(  # type: ignore[override]  # what is handed on stays in **kwargs
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
        factors: Mapping[str, LinearFactors] | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As WhisperAttention's forward; `factors` by projection: "q_proj", "k_proj", "v_proj", "out_proj"."""
        if not factors:
            return super().forward(  # type: ignore[no-any-return]
                hidden_states,
                key_value_states=key_value_states,
                attention_mask=attention_mask,
                output_attentions=output_attentions,
                **kwargs,
            )
        shape = (hidden_states.shape[0], -1, self.num_heads, self.head_dim)
        query = (self._project("q_proj", hidden_states, factors) * self.scaling).view(shape)
        query = query.transpose(1, 2).contiguous()

        # A layer of a model has its place and the model's configuration.
        layer, config = cast(int, self.layer_idx), cast(WhisperConfig, self.config)
        cache, computed = kwargs.pop(CACHE_NAME, None), False
        if isinstance(cache, EncoderDecoderCache):
            computed = key_value_states is not None and bool(cache.is_updated.get(layer))
            if key_value_states is not None:
                cache.is_updated[layer] = True
                cache = cache.cross_attention_cache
            else:
                cache = cache.self_attention_cache
        if computed:
            key, value = cache.layers[layer].keys, cache.layers[layer].values
        else:
            source = hidden_states if key_value_states is None else key_value_states
            key, value = (
                self._project(name, source, factors).view(shape).transpose(1, 2).contiguous()
                for name in ("k_proj", "v_proj")
            )
            if cache is not None:
                key, value = cache.update(key, value, layer)

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=1.0,
            output_attentions=output_attentions,
            **kwargs,
        )
        output = output.reshape(*hidden_states.shape[:-1], -1).contiguous()
        return self._project("out_proj", output, factors), weights

    def _project(self, name: str, x: torch.Tensor, factors: Mapping[str, LinearFactors]) -> torch.Tensor:
        output = getattr(self, name)(x)
        return factors[name].add_to(output, x) if name in factors else output
