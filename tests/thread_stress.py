"""Threads that transcribe while others remove, load and interpolate experts: every result must be one of one moment.

    python tests/thread_stress.py --swaps 5000 --seed 0

Rows of "gl" and of "sc" must come out as if nothing happened, though their ids move all the time. Rows of "ca" must
come out as by one of its four versions, or by Whisper where there was none. What else comes out is counted as wrong.
"""

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from models import features, randomize_expert, save_whisper, with_experts

TOKENS = {"max_new_tokens": 6, "min_new_tokens": 6}
LANGUAGES = ["ca", "gl", "it"]


def prepare(folder: Path):
    """The model, and for each version of "ca" its file and what it makes of the three rows."""
    model = with_experts(save_whisper(folder), "ca", "gl", "sc")
    inputs, chosen = features(3), {"language": LANGUAGES, "expert": [None, None, "sc"]}
    results, files = (
        {"whisper": model.generate(inputs, language=LANGUAGES, expert=["shared", None, "sc"], **TOKENS)},
        [],
    )
    for version in ("1", "2"):
        randomize_expert(model, "ca", int(version))
        files.append(model.save_expert("ca", folder / version))
        results[version] = model.generate(inputs, **chosen, **TOKENS)
        model.interpolate_expert("ca", 0.5)
        results[version + "/2"] = model.generate(inputs, **chosen, **TOKENS)
        model.remove_expert("ca")
        model.load_expert("ca", files[-1])
    rows = {tuple(result[0].tolist()): version for version, result in results.items()}
    assert len(rows) == len(results), results
    return model, inputs, chosen, rows, results["whisper"][1:], files


def stress(folder: Path, swaps: int, seed: int, readers: int = 3) -> Counter:
    """How often each version of "ca" was seen, "wrong", "errors", and how many "swaps" were made meanwhile."""
    model, inputs, chosen, rows, others, files = prepare(folder)
    seen, done, failures = Counter(wrong=0), threading.Event(), []

    def read(number: int) -> None:
        order = random.Random(f"{seed}/{number}")
        try:
            while not done.is_set():
                # Batches differ, so that threads are at different places in the model.
                first = 0 if order.random() < 0.7 else 1
                arguments = {key: value[first:] for key, value in chosen.items()}
                found = model.generate(inputs[first:], **arguments, **TOKENS)
                if not torch.equal(found[1 - first :], others):
                    seen["wrong"] += 1
                seen[rows.get(tuple(found[0].tolist()), "wrong") if first == 0 else "without ca"] += 1
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")

    def change() -> None:
        order = random.Random(seed)
        while seen["swaps"] < swaps and not failures:
            if "ca" not in model.expert_names:
                model.load_expert("ca", order.choice(files))
            elif order.random() < 0.5 and "interpolation" not in model.config.language_experts["ca"]["training"]:
                model.interpolate_expert("ca", 0.5)
            else:
                model.remove_expert("ca")
            # To the end of the row, or back from it.
            model.remove_expert("es") if "es" in model.expert_names else model.add_expert("es")
            seen["swaps"] += 2
            time.sleep(order.random() * 0.01)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
    for thread in threads:
        thread.start()
    try:
        change()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    seen["errors"] = len(failures)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(dict(stress(Path(folder), arguments.swaps, arguments.seed)))


if __name__ == "__main__":
    main()
