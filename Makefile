# An activated virtual environment is used as it is; otherwise .venv, which `make setup` creates.
VENV := $(or $(VIRTUAL_ENV),.venv)
# Without either, the tools may still be installed for the system's Python.
PYTHON ?= $(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,python3)

# One version, so that a wheel for machines without a GPU is taken where pip is set up to find one.
TORCH := torch==2.13.0

.PHONY: setup demo transcribe check test bench

setup:
	test -x "$(VENV)/bin/python" || python3 -m venv "$(VENV)"
	"$(VENV)/bin/python" -m pip install "$(TORCH)"
	"$(VENV)/bin/python" -m pip install -e ".[dev]"

demo:
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE "$(PYTHON)" examples/demo.py

# Any Whisper: a Hub name or a folder.
MODEL ?= openai/whisper-tiny

transcribe:
	"$(PYTHON)" examples/transcribe.py --model "$(MODEL)"

check:
	"$(PYTHON)" -m ruff check .
	"$(PYTHON)" -m ruff format --check .
	"$(PYTHON)" -m mypy

test:
	HF_HUB_OFFLINE=1 "$(PYTHON)" -m pytest -m "not real"

bench:
	"$(PYTHON)" benchmarks/inference.py

.PHONY: docs
docs:
	"$(PYTHON)" -m pip install -q -e ".[docs]"
	"$(PYTHON)" -m mkdocs build --strict
