# An activated virtual environment is used as it is; otherwise .venv, which the first target that needs it makes.
VENV := $(or $(VIRTUAL_ENV),.venv)
PYTHON := $(VENV)/bin/python
# What makes an environment: any Python from 3.11 on.
BASE_PYTHON ?= python3

# One version, so that a wheel for machines without a GPU is taken where pip is set up to find one.
TORCH ?= torch==2.13.0

# What was installed, and when: older than setup.py, it is installed again.
STAMP := $(VENV)/.distil-whisper-dev
DOCS_STAMP := $(VENV)/.distil-whisper-docs

.PHONY: setup demo transcribe check test slow fuzz kills bench docs

setup: $(STAMP)

$(STAMP): setup.py
	@BASE_PYTHON="$(BASE_PYTHON)" sh .ci/environment "$(VENV)" "$(TORCH)" dev
	@touch "$@"

$(DOCS_STAMP): setup.py
	@BASE_PYTHON="$(BASE_PYTHON)" sh .ci/environment "$(VENV)" "$(TORCH)" docs
	@touch "$@"

demo: $(STAMP)
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE "$(PYTHON)" examples/demo.py

# The whisper-base that this repository's experts are for: its Hub name, or a folder.
MODEL ?= openai/whisper-base

transcribe: $(STAMP)
	"$(PYTHON)" examples/transcribe.py --model "$(MODEL)"

check: $(STAMP)
	"$(PYTHON)" -m ruff check .
	"$(PYTHON)" -m ruff format --check .
	"$(PYTHON)" -m mypy

# In two processes, tests of one file in one of them: many share a model that is slow to make.
test: $(STAMP)
	HF_HUB_OFFLINE=1 "$(PYTHON)" -m pytest -m "not real and not slow" -n 2 --dist loadfile

# Those that `make test` leaves out: whole programs, killed runs, several processes.
slow: $(STAMP)
	HF_HUB_OFFLINE=1 "$(PYTHON)" -m pytest -m "slow and not real" -n 2 --dist loadfile

# Damaged expert files, and runs that are killed: minutes each, counted by kind.
fuzz: $(STAMP)
	HF_HUB_OFFLINE=1 "$(PYTHON)" tests/fuzz_expert_files.py --number 10000

kills: $(STAMP)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$(PYTHON)" tests/kill_campaign.py --kills 60

bench: $(STAMP)
	"$(PYTHON)" benchmarks/inference.py

docs: $(DOCS_STAMP)
	"$(PYTHON)" -m mkdocs build --strict
