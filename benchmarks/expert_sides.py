"""What a trained expert owes to its encoder layers and to its decoder layers.

    python benchmarks/expert_sides.py runs/el-js --base BASE --data tuxpaint-el --test-data artikulate-el --language el

Tests the expert as it is, with the gates of all decoder layers closed, and with those of all encoder layers closed: on
test clips of the data that it was trained on, split as `distil-whisper train` does, and on clips of another domain.
"""

import argparse
from collections.abc import Iterator

import torch
from split_scores import add_arguments, print_scores
from transformers import PreTrainedModel

from distil_whisper_hf import DistilWhisperForConditionalGeneration


@torch.no_grad()
def close_gates(model: DistilWhisperForConditionalGeneration, name: str, side: str) -> None:
    """Leave an expert out of the layers of one side: the logit of every gate there is negative."""
    for layer_name, layer in model.expert_layers(name):
        if layer_name.startswith(side):
            expert = layer.language_experts[name]
            expert.gate_in.weight.zero_()
            expert.gate_in.bias.fill_(1.0)
            expert.gate_out.weight.fill_(-1.0)


def variants(args: argparse.Namespace) -> Iterator[tuple[str, PreTrainedModel]]:
    """The expert whole, and with the gates of one side closed."""
    for name, closed in (("both sides", None), ("encoder alone", "decoder"), ("decoder alone", "encoder")):
        model = DistilWhisperForConditionalGeneration.from_pretrained(args.base)
        model.load_expert(args.language, args.run)
        if closed is not None:
            close_gates(model, args.language, closed)
        yield name, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder with expert.<language>.safetensors")
    add_arguments(parser)
    args = parser.parse_args()
    print_scores(args, variants(args))


if __name__ == "__main__":
    main()
