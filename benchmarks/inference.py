"""Speed and memory of a Whisper with language experts, against plain Whisper and PEFT LoRA in the same process.

    python benchmarks/inference.py --base BASE [--device cpu] [--dtype float32] [--batches 1 8] [--compile]

BASE is any multilingual Whisper: folder or Hub name. Variants: plain Whisper; a full expert, gathered and dense; a
compact one of rank 16; a batch whose rows take four compact experts in turn (mixed); LoRA of rank 16 on fc1 and fc2,
not merged. Gates are set, layer by layer on the clip itself, so that half of the tokens take an expert. What rows
take is worked out before the passes, as `generate` does. Figures are medians over interleaved runs, with their ratio
to plain Whisper. With --compile, decoding steps are compiled, with a static cache. Some ten minutes on two cores.
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
from transformers import AutoProcessor, StaticCache, WhisperForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.transformers_contract import CACHE_NAME

LANGUAGE, COMPACT, RANK = "ca", ("gl", "es", "it", "pt"), 16
VARIANTS = ("plain", "gather", "dense", "compact", "mixed", "lora")
STEPS = 24


@torch.no_grad()
def set_half_open(model: DistilWhisperForConditionalGeneration, name: str, inputs: torch.Tensor) -> None:
    """Random gates whose logits have their median at 0: one hidden unit, always 1, carries the offset."""
    torch.manual_seed(0)
    prompt = torch.tensor([prompt_of(model, LANGUAGE)], device=model.device)
    for layer_name, layer in model.expert_layers(name):
        expert = layer.language_experts[name]
        expert.gate_in.weight.normal_(std=0.1)
        expert.gate_out.weight.normal_()
        expert.gate_in.weight[0], expert.gate_in.bias[0], expert.gate_out.weight[0, 0] = 0.0, 1.0, 0.0
        seen = []
        hook = layer.final_layer_norm.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output))
        if layer_name.startswith("decoder"):
            model.generate(inputs[:1], language=LANGUAGE, expert="shared", max_new_tokens=STEPS)
        else:
            model(inputs[:1], decoder_input_ids=prompt, expert_ids=torch.tensor([-1], device=model.device))
        hook.remove()
        logits = torch.cat([expert.gate_logits(output).flatten() for output in seen])
        expert.gate_out.weight[0, 0] = -logits.median()


def prompt_of(model: torch.nn.Module, language: str) -> list[int]:
    generation = model.generation_config
    return [
        generation.decoder_start_token_id,
        generation.lang_to_id[f"<|{language}|>"],
        generation.task_to_id["transcribe"],
        generation.no_timestamps_token_id,
    ]


def open_variants(base: str, inputs: torch.Tensor, wanted: tuple[str, ...]) -> dict[str, torch.nn.Module]:
    """The models by variant, of the inputs' type and device; those with experts are one, switched before each run."""
    how = {"dtype": inputs.dtype, "device_map": inputs.device}
    models = {}
    if "plain" in wanted:
        models["plain"] = WhisperForConditionalGeneration.from_pretrained(base, **how).eval()
    ours = [variant for variant in wanted if variant not in ("plain", "lora")]
    if ours:
        model = DistilWhisperForConditionalGeneration.from_pretrained(base, **how).eval()
        if {"gather", "dense"} & set(ours):
            model.add_expert(LANGUAGE)
        for name in COMPACT if {"compact", "mixed"} & set(ours) else ():
            model.add_expert(name, rank=RANK)
        for name in model.expert_names:
            set_half_open(model, name, inputs)
        models |= dict.fromkeys(ours, model)
    if "lora" in wanted:
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["fc1", "fc2"])
        plain = WhisperForConditionalGeneration.from_pretrained(base, **how).eval()
        models["lora"] = get_peft_model(plain, config).base_model.model.eval()
    return {name: models[name] for name in wanted}


def switch(variant: str, model: torch.nn.Module) -> torch.nn.Module:
    if isinstance(model, DistilWhisperForConditionalGeneration):
        # "dense" computes full experts for rows of compact ones too, where the model has both.
        model.config.expert_routing = variant if variant in ("gather", "dense") else "auto"
    return model


def names_of(variant: str, batch: int) -> list[str]:
    """The expert of every row; none for a variant without experts."""
    names = {"gather": [LANGUAGE], "dense": [LANGUAGE], "compact": COMPACT[:1], "mixed": COMPACT}.get(variant, [])
    return [names[row % len(names)] for row in range(batch if names else 0)]


def experts_of(variant: str, model: torch.nn.Module, batch: int) -> dict:
    """What a pass of this variant is given: which row takes which expert, worked out already."""
    ids = [model.expert_index(name) for name in names_of(variant, batch)]
    if not ids:
        return {}
    loaded, ids = model.model.loaded_experts.for_one_call(), torch.tensor(ids, device=model.device)
    for stack in (model.model.encoder, model.model.decoder):
        stack._routing(ids, loaded=loaded)
    return {"expert_ids": ids, "loaded_experts": loaded}


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def time_encoder(variant: str, model: torch.nn.Module, inputs: torch.Tensor) -> float:
    chosen = experts_of(variant, model, inputs.shape[0])
    started = now()
    model.model.encoder(inputs, **chosen)
    return 1000 * (now() - started)


@torch.no_grad()
def time_step(variant: str, model: torch.nn.Module, encoded: torch.Tensor, compiled: bool = False) -> float:
    """Milliseconds of one decoding step, over STEPS tokens behind the prompt."""
    batch = encoded.shape[0]
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    step = model.forward
    if compiled:
        lengths = (len(prompt_of(model, LANGUAGE)) + STEPS, encoded.shape[1])
        cache = EncoderDecoderCache(*(StaticCache(config=model.config, max_cache_len=length) for length in lengths))
        step = compiled_step(model)
    chosen = experts_of(variant, model, batch)
    arguments = {"encoder_outputs": (encoded,), CACHE_NAME: cache, "use_cache": True, **chosen}
    prompt = torch.tensor([prompt_of(model, LANGUAGE)] * batch, device=model.device)
    logits, at = model(decoder_input_ids=prompt, **arguments).logits, prompt.shape[1]
    # Drawn once, so that the rows of a batch go different ways as they do on different clips.
    tokens = torch.multinomial(logits[:, -1].float().softmax(-1), STEPS, replacement=True)
    places = torch.arange(at, at + STEPS, device=model.device)
    started = now()
    for number in range(STEPS):
        step(
            decoder_input_ids=tokens[:, number : number + 1],
            decoder_position_ids=places[None, number : number + 1],
            **arguments,
        )
    return 1000 * (now() - started) / STEPS


def compiled_step(model: torch.nn.Module) -> Callable:
    """The model's forward, compiled once and whole."""
    if not hasattr(model, "compiled_step"):
        mode = "reduce-overhead" if model.device.type == "cuda" else "default"
        object.__setattr__(model, "compiled_step", torch.compile(model.forward, fullgraph=True, mode=mode))
    return model.compiled_step


@torch.no_grad()
def time_clip(variant: str, model: torch.nn.Module, inputs: torch.Tensor) -> float:
    """Seconds per clip, features to tokens, STEPS tokens each."""
    names = names_of(variant, inputs.shape[0])
    started = now()
    model.generate(
        inputs, language=LANGUAGE, min_new_tokens=STEPS, max_new_tokens=STEPS, **({"expert": names} if names else {})
    )
    return (now() - started) / inputs.shape[0]


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
    tokens = model.generate(inputs[:1], language=LANGUAGE, expert=COMPACT[0], max_new_tokens=STEPS)
    prompt = torch.cat([torch.tensor([prompt_of(model, LANGUAGE)], device=model.device), tokens], dim=1)
    ids = torch.tensor([model.expert_index(COMPACT[0])], device=model.device)
    with torch.no_grad():
        outputs = model(inputs[:1], decoder_input_ids=prompt, expert_ids=ids, output_gate_values=True)
    return {side: float(torch.stack(getattr(outputs, f"{side}_gate_values")).mean()) for side in ("encoder", "decoder")}


def time_loading(model: DistilWhisperForConditionalGeneration, name: str, repeats: int) -> tuple[float, float]:
    """Milliseconds to load an expert from a local file, and its size in MB."""
    with tempfile.TemporaryDirectory() as folder:
        size = model.save_expert(name, folder).stat().st_size / 1e6
        times = []
        for _ in range(repeats):
            model.remove_expert(name)
            started = now()
            model.load_expert(name, folder)
            times.append(1000 * (now() - started))
    return statistics.median(times), size


def time_choosing(model: DistilWhisperForConditionalGeneration, variant: str, batch: int, repeats: int) -> float:
    """Milliseconds to work out what the rows take: what another expert than the call before costs."""
    times = []
    for _ in range(repeats + 1):
        started = now()
        experts_of(variant, model, batch)
        times.append(1000 * (now() - started))
    return statistics.median(times[1:])


def peak_memory(args: argparse.Namespace) -> dict[str, float]:
    """Peak resident MB of a process of its own per variant that transcribes eight clips."""
    peaks = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--base", args.base, "--audio", str(args.audio), "--dtype", args.dtype]
        command += ["--threads", str(args.threads), "--device", args.device, "--memory-of", variant]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[variant] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def peak() -> float:
    """MB: the GPU's where there is one, else of resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    # Not getrusage, whose peak a child inherits from the process that started it.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024


def show(title: str, unit: str, figures: dict[str, float], digits: int = 1) -> None:
    cells = [f"{figures[v]:.{digits}f} ({figures[v] / figures['plain']:.2f}x)" for v in figures]
    sys.stdout.write(f"| {title} | {unit} | " + " | ".join(cells) + " |\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="openai/whisper-base", help="a multilingual Whisper: Hub name or folder")
    parser.add_argument("--audio", type=Path, default=Path(__file__).parents[1] / "examples/audio/es.ogg")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="compile decoding steps, with a static cache")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    audio, rate = soundfile.read(args.audio, dtype="float32")
    processor = AutoProcessor.from_pretrained(args.base)
    one = processor(audio, sampling_rate=rate, return_tensors="pt").input_features
    one = one.to(args.device, getattr(torch, args.dtype))

    def rows(batch: int) -> torch.Tensor:
        """Rows that are not the same: the clip shifted in time."""
        return torch.cat([one.roll(100 * row, dims=-1) for row in range(batch)])

    if args.memory_of:
        model = open_variants(args.base, one, (args.memory_of,))[args.memory_of]
        time_clip(args.memory_of, switch(args.memory_of, model), rows(8))
        sys.stdout.write(f"\n{json.dumps(peak())}\n")
        return

    models = open_variants(args.base, one, VARIANTS)
    ours = models["compact"]
    shares = open_shares(ours, one)
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{args.threads} threads"
    sys.stdout.write(f"torch {torch.__version__}, {device}, {args.dtype}, {args.repeats} interleaved runs\n")
    sys.stdout.write(f"gates open: encoder {shares['encoder']:.0%}, decoder {shares['decoder']:.0%}\n\n")
    sys.stdout.write("| | | " + " | ".join(VARIANTS) + " |\n|---|---|" + "---|" * len(VARIANTS) + "\n")
    for batch in args.batches:
        inputs, name = rows(batch), f"batch {batch}"
        repeats = args.repeats if batch == 1 or args.device != "cpu" else max(3, args.repeats // 3)
        show(f"encoder, {name}", "ms", interleave(models, lambda v, m, x=inputs: time_encoder(v, m, x), repeats))
        with torch.no_grad():
            encoded = models["plain"].model.encoder(inputs)[0]
        steps = interleave(models, lambda v, m, x=encoded: time_step(v, m, x), args.repeats)
        show(f"decoding step, {name}", "ms", steps, 2)
        if args.compile:
            traced = {variant: model for variant, model in models.items() if variant != "gather"}
            steps = interleave(traced, lambda v, m, x=encoded: time_step(v, m, x, True), args.repeats)
            show(f"decoding step, {name}, compiled", "ms", {v: steps.get(v, float("nan")) for v in VARIANTS}, 2)
        clips = interleave(models, lambda v, m, x=inputs: time_clip(v, m, x), repeats)
        show(f"features to tokens, {name}", "s/clip", clips, 3)
    show("peak memory, batch 8", "MB", peak_memory(args), 0)

    sys.stdout.write("\n")
    for variant, batch in (("compact", 1), ("mixed", 8)):
        chosen = time_choosing(ours, variant, batch, 4 * args.repeats)
        sys.stdout.write(f"choosing experts for a call, {variant}, batch {batch}: {chosen:.2f} ms\n")
    for name in (LANGUAGE, COMPACT[0]):
        loading, size = time_loading(ours, name, args.repeats)
        sys.stdout.write(f"loading {name} from a local file: {loading:.1f} ms ({size:.1f} MB)\n")


if __name__ == "__main__":
    main()
