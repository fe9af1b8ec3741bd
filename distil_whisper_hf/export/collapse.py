"""Plain Whisper with one expert in the place of what all languages share.

An expert whose gates are all open is added to Whisper's weights, and the outcome computes the same. One with gates that
close has no equal among plain Whispers: in each layer either the expert or Whisper's own network is taken for all
tokens, by what most of them take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import nn
from transformers import PreTrainedConfig, WhisperConfig, WhisperForConditionalGeneration

from ..compact_experts import CompactExpert, LowRank
from ..configuration_distil_whisper import DistilWhisperConfig
from ..expert_verbs import is_expert_key
from ..language_experts import Expert, LanguageExpert
from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

# Of a layer's gates on speech: above it, the expert takes the layer.
MOST = 0.5


@dataclass(frozen=True)
class Collapsed:
    """An expert as plain Whisper.

    Attributes:
        model: transformers' own class, in evaluation mode, in the type of what it was made of.
        replaced: layers with the expert's feed-forward network, as expert files call them: "encoder.layers.0", ...
        left: layers of the expert that keep Whisper's own.
        exact: whether it computes what the expert does for every token, but for rounding.
    """

    model: WhisperForConditionalGeneration
    replaced: tuple[str, ...]
    left: tuple[str, ...]
    exact: bool


def gated_layers(model: DistilWhisperForConditionalGeneration, name: str) -> tuple[str, ...]:
    """Layers of an expert in which some token may close the gate, as expert files call them."""
    return tuple(key for key, layer in model.expert_layers(name) if _may_close(layer.language_experts[name]))


def collapse(
    model: DistilWhisperForConditionalGeneration, name: str, open_shares: Mapping[str, float] | None = None
) -> Collapsed:
    """Put an expert in the place of the shared networks.

    Args:
        model: with the expert, in a floating-point type; it stays as it is.
        name: the expert.
        open_shares: layer, as expert files call it -> share of its gates that is open on speech, in [0, 1]; needed for
            layers whose gates may close.

    Raises:
        KeyError: no such expert, or no share of such a layer.
    """
    model.expert_index(name)
    gated, shares = gated_layers(model, name), open_shares or {}
    left = tuple(key for key in gated if shares[key] <= MOST)
    changed: dict[str, torch.Tensor] = {}
    replaced = []
    with torch.no_grad():
        for key, layer in model.expert_layers(name):
            expert, here = layer.language_experts[name], key not in left
            if here and _has_network(expert):
                replaced.append(key)
            for projection, (weight, bias) in _merged(layer, expert, feed_forward=here).items():
                changed[f"model.{key}.{projection}.weight"] = weight
                if bias is not None:
                    changed[f"model.{key}.{projection}.bias"] = bias
    return Collapsed(plain_whisper(model, changed), tuple(replaced), left, exact=not gated)


def plain_whisper(
    model: DistilWhisperForConditionalGeneration, changed: Mapping[str, torch.Tensor] | None = None
) -> WhisperForConditionalGeneration:
    """The base of a model as transformers' own class, in memory of its own.

    Args:
        changed: tensors to put in the place of the base's, by their names in a checkpoint.
    """
    state = {key: tensor for key, tensor in model.state_dict().items() if not is_expert_key(key)}
    state |= changed or {}
    # Without memory first: it takes these tensors, copied so that the model's stay its own.
    with torch.device("meta"):
        whisper = WhisperForConditionalGeneration(plain_config(model.config))
    whisper.load_state_dict({key: tensor.detach().clone() for key, tensor in state.items()}, assign=True, strict=False)
    whisper.tie_weights()
    _check_whole(whisper, state)
    whisper.generation_config = type(model.generation_config).from_dict(model.generation_config.to_dict())
    return whisper.eval()


def plain_config(config: WhisperConfig) -> WhisperConfig:
    """What transformers' own classes read of a configuration, without anything of experts."""
    own = {one.name for one in fields(DistilWhisperConfig)} - {one.name for one in fields(PreTrainedConfig)}
    own -= set(WhisperConfig().to_dict())
    said = {key: value for key, value in config.to_dict().items() if key not in own | {"model_type", "auto_map"}}
    return WhisperConfig.from_dict({**said, "architectures": [WhisperForConditionalGeneration.__name__]})


def _check_whole(whisper: nn.Module, names: Iterable[str]) -> None:
    """Refuse a model with tensors that nothing was put into, or names that it does not know."""
    unknown = sorted(set(names) - whisper.state_dict().keys())
    empty = [name for name, tensor in whisper.state_dict().items() if tensor.is_meta]
    if unknown or empty:
        raise ValueError(
            f"Expected all tensors of a plain Whisper, got none for {empty[:3]} and too many: {unknown[:3]}."
        )


def _may_close(expert: Expert) -> bool:
    return _has_network(expert) and not expert.always_open


def _has_network(expert: Expert) -> bool:
    """Whether it changes the feed-forward network: a compact one may change attention alone."""
    return isinstance(expert, LanguageExpert) or expert.fc1 is not None


def _merged(
    layer: nn.Module, expert: Expert, *, feed_forward: bool
) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
    """Projection, such as "fc1" or "self_attn.q_proj" -> its weight and bias with the expert in it."""
    if isinstance(expert, LanguageExpert):
        own = {"fc1": expert.fc1, "fc2": expert.fc2} if feed_forward else {}
        return {name: (linear.weight, linear.bias) for name, linear in own.items()}
    return {
        name: _sum(layer.get_submodule(name), pair)
        for name, pair in low_ranks(expert).items()
        if feed_forward or name not in ("fc1", "fc2")
    }


def low_ranks(expert: CompactExpert) -> dict[str, LowRank]:
    """Projection, such as "fc1" or "self_attn.q_proj" -> what a compact expert adds to it."""
    return {name: part for name, part in expert.named_modules() if isinstance(part, LowRank)}


def _sum(shared: nn.Module, pair: LowRank) -> tuple[torch.Tensor, torch.Tensor | None]:
    weight, bias = shared.weight + pair.delta, shared.bias
    # Whisper's keys have no bias, and need none: it would add the same to all scores that a softmax compares.
    return weight, bias if bias is None or pair.bias is None else bias + pair.bias
