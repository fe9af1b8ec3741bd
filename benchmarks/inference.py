"""Speed and memory of a Whisper with language experts, against plain Whisper and PEFT LoRA in the same process.

    python benchmarks/inference.py --base BASE [--audio CLIP] [--threads 2] [--repeats 15] [--dtype float32]

BASE is any multilingual Whisper: folder or Hub name. The expert is a copy of the shared path whose gates are set, layer
by layer on the clip itself, so that half of the tokens take it; LoRA is rank 64 on fc1 and fc2, not merged. Figures are
medians over interleaved runs, with their ratio to plain Whisper. Some ten minutes for whisper-base on two cores.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoProcessor, WhisperForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.transformers_contract import CACHE_NAME

LANGUAGE, OTHER_LANGUAGE = "ca", "gl"
VARIANTS = ("plain", "routed", "dense", "lora")
STEPS = 24


@torch.no_grad()
def set_half_open(model: DistilWhisperForConditionalGeneration, name: str, inputs: torch.Tensor) -> None:
    """Random gates whose logits have their median at 0: one hidden unit, always 1, carries the offset."""
    torch.manual_seed(0)
    prompt = torch.tensor([prompt_of(model, LANGUAGE)])
    for layer_name, layer in model.expert_layers(name):
        expert = layer.language_experts[name]
        expert.gate_in.weight.normal_(std=0.1)
        expert.gate_out.weight.normal_()
        expert.gate_in.weight[0], expert.gate_in.bias[0], expert.gate_out.weight[0, 0] = 0.0, 1.0, 0.0
        seen = []
        hook = layer.final_layer_norm.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output))
        model.config.language_experts[name]["language_token_id"] = None
        if layer_name.startswith("decoder"):
            model.generate(inputs[:1], language=LANGUAGE, max_new_tokens=STEPS)
        else:
            model(inputs[:1], decoder_input_ids=prompt)
        hook.remove()
        logits = torch.cat([expert.gate_logits(output).flatten() for output in seen])
        expert.gate_out.weight[0, 0] = -logits.median()
        model.config.language_experts[name]["language_token_id"] = model.generation_config.lang_to_id[f"<|{name}|>"]


def prompt_of(model: torch.nn.Module, language: str) -> list[int]:
    generation = model.generation_config
    return [
        generation.decoder_start_token_id,
        generation.lang_to_id[f"<|{language}|>"],
        generation.task_to_id["transcribe"],
        generation.no_timestamps_token_id,
    ]


def open_variants(
    base: str, dtype: torch.dtype, inputs: torch.Tensor, wanted: tuple[str, ...]
) -> dict[str, torch.nn.Module]:
    models = {}
    if "plain" in wanted:
        models["plain"] = WhisperForConditionalGeneration.from_pretrained(base, dtype=dtype).eval()
    if "routed" in wanted or "dense" in wanted:
        model = DistilWhisperForConditionalGeneration.from_pretrained(base, dtype=dtype).eval()
        model.add_expert(LANGUAGE)
        set_half_open(model, LANGUAGE, inputs)
        # One set of weights; the setting is switched before each run.
        models["routed"] = models["dense"] = model
    if "lora" in wanted:
        config = LoraConfig(r=64, lora_alpha=64, target_modules=["fc1", "fc2"])
        plain = WhisperForConditionalGeneration.from_pretrained(base, dtype=dtype).eval()
        models["lora"] = get_peft_model(plain, config).base_model.model.eval()
    return {name: models[name] for name in wanted}


def switch(variant: str, model: torch.nn.Module) -> torch.nn.Module:
    if variant in ("routed", "dense"):
        model.config.expert_routing = "gather" if variant == "routed" else "dense"
    return model


def experts_of(variant: str, batch: int, index: int = 0) -> dict[str, torch.Tensor]:
    return {"expert_ids": torch.full((batch,), index)} if variant in ("routed", "dense") else {}


@torch.no_grad()
def time_encoder(variant: str, model: torch.nn.Module, inputs: torch.Tensor, index: int = 0) -> float:
    started = time.perf_counter()
    model.model.encoder(inputs, **experts_of(variant, inputs.shape[0], index))
    return 1000 * (time.perf_counter() - started)


@torch.no_grad()
def time_step(variant: str, model: torch.nn.Module, encoded: torch.Tensor) -> float:
    """Milliseconds of one decoding step, over STEPS tokens behind the prompt."""
    batch = encoded.shape[0]
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    arguments = {
        "encoder_outputs": (encoded,),
        CACHE_NAME: cache,
        "use_cache": True,
        **experts_of(variant, batch),
    }
    logits = model(decoder_input_ids=torch.tensor([prompt_of(model, LANGUAGE)] * batch), **arguments).logits
    started = time.perf_counter()
    for _ in range(STEPS):
        # Sampled, so that the rows of a batch go different ways as they do on different clips.
        tokens = torch.multinomial(logits[:, -1].float().softmax(-1), 1)
        logits = model(decoder_input_ids=tokens, **arguments).logits
    return 1000 * (time.perf_counter() - started) / STEPS


@torch.no_grad()
def time_clip(variant: str, model: torch.nn.Module, inputs: torch.Tensor) -> float:
    """Seconds per clip, features to tokens, STEPS tokens each."""
    started = time.perf_counter()
    model.generate(inputs, language=LANGUAGE, min_new_tokens=STEPS, max_new_tokens=STEPS)
    return (time.perf_counter() - started) / inputs.shape[0]


def interleave(
    models: dict[str, torch.nn.Module], run: Callable[[str, torch.nn.Module], float], repeats: int
) -> dict[str, float]:
    times = {variant: [] for variant in models}
    for repeat in range(repeats + 1):
        for variant, model in models.items():
            torch.manual_seed(repeat)
            elapsed = run(variant, switch(variant, model))
            if repeat:
                times[variant].append(elapsed)
    return {variant: statistics.median(values) for variant, values in times.items()}


def open_shares(model: DistilWhisperForConditionalGeneration, inputs: torch.Tensor) -> dict[str, float]:
    tokens = model.generate(inputs[:1], language=LANGUAGE, max_new_tokens=STEPS)
    prompt = torch.cat([torch.tensor([prompt_of(model, LANGUAGE)]), tokens], dim=1)
    with torch.no_grad():
        outputs = model(inputs[:1], decoder_input_ids=prompt, output_gate_values=True)
    return {side: float(torch.stack(getattr(outputs, f"{side}_gate_values")).mean()) for side in ("encoder", "decoder")}


def time_loading(model: DistilWhisperForConditionalGeneration, repeats: int) -> tuple[float, float]:
    """Milliseconds to load an expert from a local file, and its size in MB."""
    with tempfile.TemporaryDirectory() as folder:
        size = model.save_expert(LANGUAGE, folder).stat().st_size / 1e6
        times = []
        for _ in range(repeats):
            model.remove_expert(LANGUAGE)
            started = time.perf_counter()
            model.load_expert(LANGUAGE, folder)
            times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times), size


def peak_memory(args: argparse.Namespace) -> dict[str, float]:
    """Peak resident MB of a process of its own per variant that transcribes eight clips."""
    peaks = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--base", args.base, "--audio", str(args.audio), "--dtype", args.dtype]
        command += ["--threads", str(args.threads), "--memory-of", variant]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[variant] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def show(title: str, unit: str, figures: dict[str, float], digits: int = 1) -> None:
    cells = [f"{figures[v]:.{digits}f} ({figures[v] / figures['plain']:.2f}x)" for v in figures]
    sys.stdout.write(f"| {title} | {unit} | " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="openai/whisper-base", help="a multilingual Whisper: Hub name or folder")
    parser.add_argument("--audio", type=Path, default=Path(__file__).parents[1] / "examples/audio/es.ogg")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    audio, rate = soundfile.read(args.audio, dtype="float32")
    processor = AutoProcessor.from_pretrained(args.base)
    one = processor(audio, sampling_rate=rate, return_tensors="pt").input_features.to(dtype)
    # Eight rows that are not the same: the clip shifted in time.
    eight = torch.cat([one.roll(100 * row, dims=-1) for row in range(8)])

    if args.memory_of:
        model = open_variants(args.base, dtype, one, (args.memory_of,))[args.memory_of]
        time_clip(args.memory_of, switch(args.memory_of, model), eight)
        # Not getrusage, whose peak a child inherits from the process that started it.
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        sys.stdout.write(f"\n{json.dumps(int(peak.group(1)) / 1024)}\n")
        return

    models = open_variants(args.base, dtype, one, VARIANTS)
    shares = open_shares(models["routed"], one)
    sys.stdout.write(
        f"torch {torch.__version__}, {args.threads} threads, {args.dtype}, {args.repeats} interleaved runs\n"
    )
    sys.stdout.write(f"gates open: encoder {shares['encoder']:.0%}, decoder {shares['decoder']:.0%}\n\n")
    sys.stdout.write("| | | " + " | ".join(VARIANTS) + " |\n|---|---|" + "---|" * len(VARIANTS) + "\n")
    for inputs, name in ((one, "batch 1"), (eight, "batch 8")):
        repeats = args.repeats if inputs is one else max(3, args.repeats // 3)
        show(f"encoder, {name}", "ms", interleave(models, lambda v, m, x=inputs: time_encoder(v, m, x), repeats))
        with torch.no_grad():
            encoded = models["plain"].model.encoder(inputs)[0]
        show(
            f"decoding step, {name}",
            "ms",
            interleave(models, lambda v, m, x=encoded: time_step(v, m, x), args.repeats),
            2,
        )
        show(
            f"features to tokens, {name}",
            "s/clip",
            interleave(models, lambda v, m, x=inputs: time_clip(v, m, x), repeats),
            3,
        )
    show("peak memory, batch 8", "MB", peak_memory(args), 0)

    model = switch("routed", models["routed"])
    model.add_expert(OTHER_LANGUAGE)
    set_half_open(model, OTHER_LANGUAGE, one)
    same, alternating = [], []
    for repeat in range(2 * args.repeats):
        time_encoder("routed", model, one, 0)
        same.append(time_encoder("routed", model, one, 0))
        time_encoder("routed", model, one, repeat % 2)
        alternating.append(time_encoder("routed", model, one, (repeat + 1) % 2))
    ratio = statistics.median(alternating) / statistics.median(same)
    loading, size = time_loading(model, args.repeats)
    sys.stdout.write(f"\nswitching between two loaded experts: {ratio:.3f}x the time of staying with one (encoder)\n")
    sys.stdout.write(f"loading an expert from a local file: {loading:.0f} ms ({size:.0f} MB)\n")


if __name__ == "__main__":
    main()
