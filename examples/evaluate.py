"""Evaluate systems on data sets: the program behind `distil-whisper evaluate`.

    python examples/evaluate.py --systems openai/whisper-tiny --data examples/audio --output_dir runs/evaluation

The three clips of this repository take a minute on a CPU. `--help` lists everything; a recipe in JSON says more than
flags do, see examples/recipes/evaluate_quantization.json.
"""

import sys

from distil_whisper_hf.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
