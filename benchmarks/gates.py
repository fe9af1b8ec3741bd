"""Which gates open, for experts of several languages: a table and a figure.

    python benchmarks/gates.py runs/el-clsr runs/pl-clsr runs/uk-clsr --output gates.png

A run is an output folder of `distil-whisper train` with test scores: its `scores.json` has the share of open gates over
speech frames and the tokens of the true transcripts. `distil-whisper compare` shows the same for runs of one language.
"""

import argparse
from pathlib import Path

from distil_whisper_hf.commands.compare import draw_gates, gate_shares, gate_table, read_systems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of train")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    args = parser.parse_args()
    shares = [found for run in args.runs for found in gate_shares(read_systems([run]))]
    print(gate_table(shares))
    draw_gates(shares, args.output)


if __name__ == "__main__":
    main()
