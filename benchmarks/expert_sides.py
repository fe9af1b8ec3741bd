"""What a trained expert owes to its encoder layers and to its decoder layers.

    python benchmarks/expert_sides.py runs/el-js --base BASE --data tuxpaint-el --test-data artikulate-el --language el

Tests the expert as it is, with the gates of all decoder layers closed, and with those of all encoder layers closed: on
test clips of the data that it was trained on, split as `distil-whisper train` does, and on clips of another domain.
"""

import argparse

import torch
from transformers import AutoProcessor

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.commands.final_scores import ScoreRow, score_system, table
from distil_whisper_hf.data.arguments import DataArguments
from distil_whisper_hf.data.corpus import read_corpus
from distil_whisper_hf.data.labels import LabelBuilder
from distil_whisper_hf.evaluation.systems.hypotheses import GenerationSettings
from distil_whisper_hf.evaluation.systems.opening import System


@torch.no_grad()
def close_gates(model: DistilWhisperForConditionalGeneration, name: str, side: str) -> None:
    """Leave an expert out of the layers of one side: the logit of every gate there is negative."""
    for layer_name, layer in model.expert_layers(name):
        if layer_name.startswith(side):
            expert = layer.language_experts[name]
            expert.gate_in.weight.zero_()
            expert.gate_in.bias.fill_(1.0)
            expert.gate_out.weight.fill_(-1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder with expert.<language>.safetensors")
    parser.add_argument("--base", required=True, help="plain Whisper: folder or Hub name")
    parser.add_argument("--data", required=True, help="folder that the expert was trained on")
    parser.add_argument("--test-data", required=True, help="folder of another domain")
    parser.add_argument("--language", required=True, help="Whisper's code")
    parser.add_argument("--clips", type=int, default=40, help="most clips of each set")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    args = parser.parse_args()

    processor = AutoProcessor.from_pretrained(args.base)
    arguments = DataArguments(
        data=[args.data], language=[args.language], test_data=[args.test_data], test_language=[args.language],
        where=["suspect=0"],
    )  # fmt: skip
    labels = LabelBuilder(processor.tokenizer)
    corpus = read_corpus(arguments, labels, processor.feature_extractor, test_limit=args.clips)
    rows: list[ScoreRow] = []
    for system, closed in (("both sides", None), ("encoder alone", "decoder"), ("decoder alone", "encoder")):
        model = DistilWhisperForConditionalGeneration.from_pretrained(args.base)
        model.load_expert(args.language, args.run)
        if closed is not None:
            close_gates(model, args.language, closed)
        model = model.to(getattr(torch, args.precision))
        settings = GenerationSettings(max_new_tokens=160, batch_size=16)
        found, _ = score_system(System(system, model.eval(), processor), corpus.test_sets, settings)
        rows += found
    print(table(rows))


if __name__ == "__main__":
    main()
