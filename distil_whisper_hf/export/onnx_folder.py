"""ONNX: the encoder, and the decoder with its head, as two graphs that any ONNX runtime computes.

    encoder_model.onnx    input_features (batch, mel bins, frames)   -> last_hidden_state (batch, frames / 2, d_model)
    decoder_model.onnx    input_ids (batch, tokens), encoder_hidden_states   -> logits (batch, tokens, vocabulary)

The names are those of Optimum's exports. Gates that close are in the graphs: the routing is worked out before, for a
batch that takes the expert in every row, and nothing that is left of it depends on a value.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperDecoder, WhisperEncoder

from ..routing import ExpertRouting
from .collapse import plain_config
from .whisper_folder import write_processor

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"
# What a graph is traced with; any batch and number of tokens goes later.
TRACED_BATCH, TRACED_TOKENS = 2, 6


def write_onnx(
    model: DistilWhisperForConditionalGeneration | WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    folder: Path,
    *,
    expert: str | None,
) -> None:
    """Write both graphs, the settings of generation, and the processor.

    Args:
        model: in float32: plain, or with an expert whose gates are to be kept.
        processor: of its base.
        folder: made if needed.
        expert: the expert that every row takes; None for a plain model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, before = model.config, model.config._attn_implementation
    model.requires_grad_(False)
    model.set_attn_implementation("eager")
    frames = 2 * config.max_source_positions
    features = torch.zeros(TRACED_BATCH, config.num_mel_bins, frames)
    tokens = torch.full((TRACED_BATCH, TRACED_TOKENS), config.decoder_start_token_id)
    heard = torch.zeros(TRACED_BATCH, config.max_source_positions, config.d_model)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("tokens", max=config.max_target_positions)
    try:
        with torch.no_grad(), _quiet():
            _save(_Encoder(model, expert), (features,), ({0: batch},), folder / ENCODER)
            shapes = ({0: batch, 1: length}, {0: batch})
            _save(_Decoder(model, expert), (tokens, heard), shapes, folder / DECODER)
    finally:
        model.set_attn_implementation(before)
    plain_config(config).save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    write_processor(processor, folder)


class _Encoder(nn.Module):
    names = (["input_features"], ["last_hidden_state"])

    def __init__(self, model: Any, expert: str | None) -> None:
        super().__init__()
        self.stack, self.taken = model.model.encoder, _routing(model, "encoder", expert)

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        return WhisperEncoder.forward(self.stack, input_features, **self.taken).last_hidden_state


class _Decoder(nn.Module):
    names = (["input_ids", "encoder_hidden_states"], ["logits"])

    def __init__(self, model: Any, expert: str | None) -> None:
        super().__init__()
        self.stack, self.head, self.taken = model.model.decoder, model.proj_out, _routing(model, "decoder", expert)

    def forward(self, input_ids: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        output = WhisperDecoder.forward(
            self.stack, input_ids, None, encoder_hidden_states, use_cache=False, **self.taken
        )
        return self.head(output.last_hidden_state)


def _routing(model: Any, side: str, expert: str | None) -> dict[str, ExpertRouting | None]:
    """What the layers of a stack are handed: the routing of rows that all take one expert."""
    if expert is None:
        return {}
    layers = [layer.language_experts.networks for layer in getattr(model.model, side).layers]
    ids = torch.tensor([model.expert_index(expert)])
    routing = ExpertRouting.build(ids, model.expert_names, layers, dtype=torch.float32, on_host=True, dense=True)
    return {"routing": routing}


def _save(module: nn.Module, inputs: tuple[torch.Tensor, ...], shapes: Any, path: Path) -> None:
    given, returned = module.names
    program = torch.onnx.export(
        module.eval(),
        inputs,
        dynamo=True,
        input_names=given,
        output_names=returned,
        dynamic_shapes=shapes,
        verbose=False,
    )
    if program is None:
        raise ValueError(f"Expected a graph of {path.stem} from torch.onnx.export, got none.")
    program.save(str(path), external_data=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of operators that no graph here has, and of constants."""
    known = logging.getLogger("torch.onnx")
    level = known.level
    known.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        known.setLevel(level)
