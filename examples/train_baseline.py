"""Train a baseline on the same data and steps; the same program as `distil-whisper baseline`.

    python examples/train_baseline.py examples/recipes/lora.json --model openai/whisper-small --data FOLDER \
        --language ca --output_dir runs/ca-lora

`full.json` fine-tunes all weights. Full fine-tuning needs four times the parameters in memory, LoRA a little more than
the model.
"""

import sys

from distil_whisper_hf.commands.baseline import main

if __name__ == "__main__":
    sys.exit(main())
