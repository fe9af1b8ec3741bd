"""How long an expert takes to load from a local file, with all its checks: a full one, and a compact one in float16.

python benchmarks/loading.py --base BASE
"""

import argparse
import statistics
import tempfile
import time

from distil_whisper_hf import DistilWhisperForConditionalGeneration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="plain Whisper: folder or Hub name")
    parser.add_argument("--rank", type=int, default=16, help="of the compact one")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    model = DistilWhisperForConditionalGeneration.from_pretrained(args.base)
    for name, rank, dtype in (("full", None, "float32"), ("compact", args.rank, "float16")):
        model.add_expert(name, language="es", rank=rank)
        with tempfile.TemporaryDirectory() as folder:
            size = model.save_expert(name, folder, dtype=dtype).stat().st_size / 1e6
            times = []
            for _ in range(args.repeats):
                model.remove_expert(name)
                started = time.perf_counter()
                model.load_expert(name, folder)
                times.append(1000 * (time.perf_counter() - started))
        print(f"{name}, {size:.1f} MB: {statistics.median(times):.1f} ms (median), {min(times):.1f} ms (least)")


if __name__ == "__main__":
    main()
