"""Train a language expert; the same program as `distil-whisper train`.

    python examples/train_expert.py examples/recipes/paper_js.json --model openai/whisper-small \
        --teacher openai/whisper-large-v2 --data FOLDER --language ca --output_dir runs/ca

FOLDER has metadata.csv (file_name, text) beside its audio. One GPU with 16 GB, some hours for 10k clips; with
`--max_steps 40 --join_seconds 28` and whisper-base some minutes on 2 CPU cores.
"""

import sys

from distil_whisper_hf.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
