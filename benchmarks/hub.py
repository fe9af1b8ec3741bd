"""Seconds and bytes of every step from a trained expert to somebody else's transcript, on a Hub on this machine.

    python benchmarks/hub.py --base BASE --audio CLIP [--language pl] [--experts RELEASE]

BASE is any multilingual Whisper, as a folder with its processor; CLIP is an audio file. The Hub is that of the tests,
on the loopback address: bytes are what the real client sends and receives, seconds are those of this machine without
any network between. Every step runs in a process of its own that has imported everything already. The experts are
those of RELEASE, the language's and Greek, or else new ones with a little noise. Some two minutes for whisper-base.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hub_client import Client
from hub_server import Hub

OTHER = "el"
IMPORTS = """
import torch, distil_whisper_hf
from distil_whisper_hf import DistilWhisperForConditionalGeneration
from distil_whisper_hf.publishing.listing import list_experts
from transformers import AutoProcessor, pipeline
"""
TRAINED = """
model = DistilWhisperForConditionalGeneration.from_pretrained({base!r})
torch.manual_seed(0)
for name in {names!r}:
    model.add_expert(name)
with torch.no_grad():
    for key, parameter in model.named_parameters():
        if '.language_experts.' in key:
            parameter.add_(1e-3 * torch.randn_like(parameter))
"""
LOADED = """
model = DistilWhisperForConditionalGeneration.from_pretrained({base!r})
model.load_expert({names!r}, {experts!r})
"""
PUSH = "model.push_expert_to_hub({repo!r}, {name!r}, base_model={base!r})"
OPEN = "transcribe = pipeline('automatic-speech-recognition', model={repo!r})"
TRANSCRIBE = """
options = {{'num_beams': 1, 'max_new_tokens': 60}}
result = transcribe({audio!r}, language={language!r}, generate_kwargs=options)['text']
"""


def measure(hub: Hub, run: Client, step: str, code: str) -> object:
    """Run one step, print its row: seconds, bytes sent to the Hub and received from it, requests."""
    hub.counted()
    started = time.perf_counter()
    result = run(code)
    seconds = time.perf_counter() - started
    counted = hub.counted()
    sent, received = counted["received"] / 1e6, counted["sent"] / 1e6
    sys.stdout.write(f"| {step} | {seconds:.1f} | {sent:.2f} | {received:.2f} | {counted['requests']} |\n")
    sys.stdout.flush()
    return result


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--audio", required=True, type=Path)
    parser.add_argument("--language", default="pl")
    parser.add_argument("--experts", type=Path, default=None, help="folder with trained experts")
    args = parser.parse_args()
    base, repo, language = "openai/base", "user/experts", args.language
    audio = str(args.audio.resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Hub(folder / "hub") as hub:
            hub.publish_folder(base, args.base)
            weights = (args.base / "model.safetensors").stat().st_size
            sys.stdout.write("| step | s | MB sent | MB received | requests |\n|---|---|---|---|---|\n")
            with Client(hub, folder / "author") as author:
                experts = None if args.experts is None else str(args.experts.resolve())
                model = TRAINED if experts is None else LOADED
                names = [language, OTHER]
                author(IMPORTS + model.format(base=str(args.base.resolve()), names=names, experts=experts))
                push = PUSH.format(repo=repo, name=language, base=base)
                measure(hub, author, "push an expert", push)
                with Client(hub, folder / "reader") as reader:
                    reader(IMPORTS)
                    measure(hub, reader, "open by name, empty cache", OPEN.format(repo=repo))
                    transcribe = TRANSCRIBE.format(audio=audio, language=language)
                    text = measure(hub, reader, "transcribe a clip", transcribe)
                measure(hub, author, "push a second expert", PUSH.format(repo=repo, name=OTHER, base=base))
                measure(hub, author, "push it again, nothing new", PUSH.format(repo=repo, name=OTHER, base=base))
            with Client(hub, folder / "reader") as reader:
                reader(IMPORTS)
                measure(hub, reader, "list experts", f"list_experts({repo!r})")
                measure(hub, reader, "open again, one expert new", OPEN.format(repo=repo))
            with Client(hub, folder / "reader", HF_HUB_OFFLINE="1") as reader:
                reader(IMPORTS)
                measure(hub, reader, "open offline", OPEN.format(repo=repo))
                same = reader(TRANSCRIBE.format(audio=audio, language=language)) == text
            size = len(hub.files(repo)[f"expert.{language}.safetensors"])
            sys.stdout.write(
                f"expert: {size / 1e6:.2f} MB; base: {weights / 1e6:.2f} MB; transcript:{text}\n"
                f"offline transcript the same: {same}\n"
            )


if __name__ == "__main__":
    main()
