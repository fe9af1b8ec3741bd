"""Whether a device computes what a CPU computes, and bfloat16 what float32 does: with full, compact and no experts.

    python benchmarks/gpu/agreement.py --base BASE --device cuda

A batch of the same clip, shifted in time: rows of a full expert, of a compact one and of none, gates half open, experts
a little away from Whisper. Compared are the most likely tokens, the gates' decisions and logits (differences in
standard deviations of a logit), then a training step with bfloat16 autocast against one without: its loss and the
directions of the experts' gradients. Exit status 1 where less agrees than must.
"""

import argparse
import sys
from pathlib import Path

import soundfile
import torch
from transformers import AutoProcessor

from distil_whisper_hf import DistilWhisperForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from inference import prompt_of, set_half_open

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 24
# Nothing is drawn in a training step.
CALM = {"expert_dropout": 0.0, "gate_dropout": 0.0, "skip_gate_probability": 0.0}


@torch.no_grad()
def open_model(base: str, features: torch.Tensor) -> DistilWhisperForConditionalGeneration:
    """With a full and a compact expert, on the features' device."""
    model = DistilWhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32, **CALM)
    model.add_expert("ca")
    model.add_expert("gl", rank=16)
    generator = torch.Generator().manual_seed(0)
    for name in model.expert_names:
        for _, layer in model.expert_layers(name):
            for key, value in layer.language_experts[name].named_parameters():
                if ".weight" in key or key.endswith("lora_B"):
                    value.add_(0.02 * value.std().nan_to_num() * torch.randn(value.shape, generator=generator))
                    value.add_(0.001 * torch.randn(value.shape, generator=generator))
    model = model.to(features.device).eval()
    for name in model.expert_names:
        set_half_open(model, name, features)
    return model


def rows(model: DistilWhisperForConditionalGeneration, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a pass is given: a row of each kind of path, one kind twice."""
    batch = 4
    prompt = torch.tensor([prompt_of(model, "ca")] * batch, device=model.device)
    ids = torch.tensor([0, 1, -1, 0], device=model.device)
    return {"decoder_input_ids": torch.cat([prompt, tokens.to(model.device)], dim=1), "expert_ids": ids}


@torch.no_grad()
def outputs(
    model: DistilWhisperForConditionalGeneration, features: torch.Tensor, tokens: torch.Tensor, mode: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and decisions of all gates, on the CPU in float32."""
    model.config.expert_routing = mode
    own = features.to(model.device, model.dtype)
    made = model(own, **rows(model, tokens), output_gate_values=True)
    gates = [gate[[0, 1, 3]].flatten() for gate in (*made.encoder_gate_values, *made.decoder_gate_values)]
    return made.logits.float().cpu(), torch.cat(gates).float().cpu() > 0.5


def compare(one: tuple, other: tuple) -> dict[str, float]:
    """Share of tokens and of gates that agree, and the largest difference of a logit in standard deviations."""
    (logits, gates), (expected, decided) = one, other
    return {
        "tokens": (logits.argmax(-1) == expected.argmax(-1)).float().mean().item(),
        "gates": (gates == decided).float().mean().item(),
        "logits": ((logits - expected).abs().max() / expected.std()).item(),
    }


def step(
    model: DistilWhisperForConditionalGeneration, features: torch.Tensor, tokens: torch.Tensor, *, autocast: bool
) -> tuple[float, torch.Tensor]:
    """Loss of a training step and the experts' gradients, as one vector."""
    model.train().freeze_shared()
    model.zero_grad()
    given = rows(model, tokens)
    prompt = given.pop("decoder_input_ids")
    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        loss = model(features, labels=prompt[:, 1:], **given).loss
    loss.backward()
    model.eval()
    gradients = [value.grad.flatten().float().cpu() for value in model.parameters() if value.grad is not None]
    return loss.item(), torch.cat(gradients)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="a multilingual Whisper: Hub name or folder")
    parser.add_argument("--audio", type=Path, default=ROOT / "examples/audio/es.ogg")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--least_tokens", type=float, default=0.9, help="share of tokens that must agree in bfloat16")
    parser.add_argument("--least_gates", type=float, default=0.95, help="share of gates, likewise")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    audio, rate = soundfile.read(args.audio, dtype="float32")
    extractor = AutoProcessor.from_pretrained(args.base).feature_extractor
    audio = audio[: extractor.n_samples]
    one = extractor(audio, sampling_rate=rate, return_tensors="pt").input_features
    features = torch.cat([one.roll(100 * row, dims=-1) for row in range(4)]).to(args.device)
    exact = open_model(args.base, features)
    where = torch.cuda.get_device_name() if features.is_cuda else "CPU"
    print(f"torch {torch.__version__}, {where}")
    tokens = exact.generate(features, language="ca", min_new_tokens=TOKENS, max_new_tokens=TOKENS)[:, -TOKENS:]
    rough = DistilWhisperForConditionalGeneration.from_pretrained(args.base, **CALM)
    rough.add_expert("ca")
    rough.add_expert("gl", rank=16)
    rough.load_state_dict(exact.state_dict())
    cpu_tokens, faults = tokens.cpu(), []
    print("| compared | routing | same tokens | same gates | largest difference of a logit |\n|---|---|---|---|---|")

    def check(title: str, mode: str, found: dict[str, float], *, tokens: float, gates: float) -> None:
        print(f"| {title} | {mode} | {found['tokens']:.2%} | {found['gates']:.2%} | {found['logits']:.4f} |")
        if found["tokens"] < tokens or found["gates"] < gates:
            faults.append(f"{title}, {mode}")

    for mode in ("gather", "dense"):
        expected = outputs(exact, features, cpu_tokens, mode)
        if features.is_cuda:
            on_cpu = outputs(rough.float().cpu().eval(), features.cpu(), cpu_tokens, mode)
            check("float32, GPU and CPU", mode, compare(expected, on_cpu), tokens=0.99, gates=0.999)
        halved = outputs(rough.to(args.device, torch.bfloat16).eval(), features, cpu_tokens, mode)
        found = compare(halved, expected)
        check("bfloat16 and float32", mode, found, tokens=args.least_tokens, gates=args.least_gates)
        # Rounded weights do not come back.
        rough.load_state_dict(exact.state_dict())
    losses, gradients = zip(*(step(exact, features, tokens, autocast=on) for on in (False, True)), strict=True)
    away = abs(losses[1] - losses[0]) / losses[0]
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0).item()
    print(
        f"\ntraining step: loss {losses[0]:.4f} in float32, {losses[1]:.4f} with bfloat16 autocast ({away:.2%} away), "
        f"cosine of the gradients {cosine:.4f}"
    )
    if not (away < 0.02 and cosine > 0.95):
        faults.append("the training step")
    print("Less agrees than must: " + "; ".join(faults) if faults else "All agrees as it must.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
