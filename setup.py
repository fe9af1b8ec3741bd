"""Package metadata and dependencies of `distil_whisper_hf`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """Return the package's one version string, read as text because importing the package needs its dependencies."""
    text = (ROOT / "distil_whisper_hf" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError('distil_whisper_hf/__init__.py has no line of the form __version__ = "X.Y.Z"')
    return found[1]


CORE = [
    "torch>=2.11,<3",
    # Which names of it are relied on: distil_whisper_hf/transformers_contract.py.
    "transformers>=5.17,<6",
    "safetensors>=0.6,<1",
    "huggingface_hub>=1.31,<3",
    "langcodes>=3.5,<4",
    "numpy>=2.0,<3",
    "soundfile>=0.13,<1",
    "soxr>=1.0,<2",
]

# All that `train`, `baseline` and `compare` import: their scores and intervals too. peft is the LoRA baseline.
TRAIN = [
    "accelerate>=1.10,<2",
    "datasets>=5.0,<6",
    "jiwer>=4.0,<5",
    "matplotlib>=3.10,<4",
    "peft>=0.18,<1",
    "scipy>=1.15,<2",
    "tqdm>=4.60,<5",
]
EVAL = [
    "datasets>=5.0,<6",
    "jiwer>=4.0,<5",
    "matplotlib>=3.10,<4",
    # Numerals as words before scoring.
    "num2words>=0.5.13,<0.6",
    "sacrebleu>=2.5,<3",
    "scipy>=1.15,<2",
    "tqdm>=4.60,<5",
]
QUANT = ["bitsandbytes>=0.50,<1", "torchao>=0.18,<1"]
# What writes an export; whisper.cpp's file and plain Whisper need nothing. What opens it comes with the program.
EXPORT = [
    "ctranslate2>=4.8,<5",
    "onnx>=1.20,<2",
    "onnxruntime>=1.23,<2",
    "onnxscript>=0.6,<1",
    "peft>=0.18,<1",
]
# Silence left out of `transcribe`; it needs neither torchaudio nor the network.
VAD = ["silero-vad>=6.2,<7"]
# The HTTP server. python-multipart reads uploads.
SERVE = ["fastapi>=0.115,<1", "prometheus-client>=0.21,<1", "python-multipart>=0.0.18,<0.1", "uvicorn>=0.32,<1"]
DEMO = ["gradio>=6.0,<7"]
# The engine of examples/ray_train.py.
RAY = ["ray[train]>=2.60,<3"]
# What opens exports and asks the server in the tests, and readers of subtitles that are stricter than players.
CLIENTS = ["ctranslate2>=4.8,<5", "faster-whisper>=1.2,<2", "openai>=3.0,<4", "pywhispercpp>=1.5,<2", "srt>=3.5,<4"]
CLIENTS += ["webvtt-py>=0.5,<0.7"]
# The linter and the type checker are pinned to one version: another one would find other faults in the same code.
DEV = ["mypy==2.4.1", "pytest>=9.0,<10", "pytest-xdist>=3.6,<4", "ruff==0.17.6"]
DEV = sorted({*TRAIN, *EVAL, *VAD, *SERVE, *CLIENTS, *DEV})

setup(
    name="distil_whisper_hf",
    version=read_version(),
    description="Per-language expert feed-forward networks with token gates for Whisper, as a Transformers extension",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["distil_whisper_hf", "distil_whisper_hf.*"]),
    package_data={
        "distil_whisper_hf": ["py.typed"],
        "distil_whisper_hf.evaluation.statistics": ["data/*.csv"],
        "distil_whisper_hf.publishing": ["card.md"],
    },
    entry_points={"console_scripts": ["distil-whisper=distil_whisper_hf.cli:main"]},
    python_requires=">=3.11",
    install_requires=CORE,
    extras_require={
        "train": TRAIN,
        "eval": EVAL,
        "quant": QUANT,
        "export": EXPORT,
        "vad": VAD,
        "serve": SERVE,
        "demo": DEMO,
        "ray": RAY,
        "dev": DEV,
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1.0,<2"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
