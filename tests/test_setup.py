"""Setting up: once, and one sentence for what keeps it from that."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of what setting up reads."""
    for name in ("Makefile", ".ci"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, tmp_path / name)
    (tmp_path / "setup.py").write_text("")
    return tmp_path


def make(project, *words, **environment):
    # What this run was itself set up with says nothing of the project's own.
    outside = ("PIP_", "VIRTUAL_ENV", "MAKE", "TORCH", "CONSTRAINTS", "BASE_PYTHON")
    env = {key: value for key, value in os.environ.items() if not key.startswith(outside)}
    # No index that answers, and nothing that lies on a disk.
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "0", **environment}
    return subprocess.run(["make", *words], capture_output=True, text=True, cwd=project, env=env, check=False)


def stub(folder: Path, body: str) -> str:
    """A Python that is none."""
    path = folder / "stub"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def sentences(done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line and not line.startswith("make")]


def test_no_python_is_one_sentence(project):
    """Silent: a shell's own complaint, which does not say which Python is wanted."""
    done = make(project, "test", "BASE_PYTHON=no-such-python")
    assert done.returncode != 0
    assert sentences(done) == [
        "Expected Python 3.11 or newer as no-such-python, found none: install it, or name another: "
        "make BASE_PYTHON=python3.12"
    ]


def test_too_old_a_python_is_one_sentence(project):
    """Silent: a syntax error out of the middle of a file."""
    old = stub(project, 'case "$2" in *platform*) echo 3.9.2 ;; *) exit 1 ;; esac')
    (said,) = sentences(make(project, "demo", f"BASE_PYTHON={old}"))
    assert said.startswith("Expected Python 3.11 or newer") and "3.9.2" in said


def test_a_python_without_venv_is_one_sentence(project):
    """Silent: Debian's Python without its venv package, and a page of advice that stops nobody."""
    bare = stub(project, 'case "$2" in *ensurepip*) exit 1 ;; *) exit 0 ;; esac')
    (said,) = sentences(make(project, "test", f"BASE_PYTHON={bare}"))
    assert "venv module" in said and "apt install python3-venv" in said


def test_no_network_is_one_sentence(project):
    """Silent: pip's retries and its traceback as the answer to a cable that is not plugged in."""
    done = make(project, "test", f"BASE_PYTHON={sys.executable}", "TORCH=no-such-package==1.0")
    assert done.returncode != 0 and "Installing no-such-package==1.0 into .venv" in done.stdout
    (said,) = sentences(done)
    assert said.startswith("Expected to install no-such-package==1.0, pip could not: ERROR") and "network" in said
    # What failed is tried again.
    assert not (project / ".venv" / ".distil-whisper-dev").exists()


def test_a_second_call_installs_nothing_unless_setup_py_changed(project):
    """Silent: minutes of pip before every test run, or a new requirement that is never installed."""
    environment = project / "environment" / "bin"
    environment.mkdir(parents=True)
    calls = project / "calls"
    python = environment / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    python.chmod(0o755)
    words = ["setup", f"VIRTUAL_ENV={environment.parent}"]
    assert make(project, *words).returncode == 0
    first = calls.read_text().splitlines()
    assert [line.split()[-1] for line in first if " pip install" in f" {line}"] == ["torch==2.13.0", "-e.[dev]"]
    assert make(project, *words).returncode == 0 and calls.read_text().splitlines() == first
    later = (environment.parent / ".distil-whisper-dev").stat().st_mtime + 10
    os.utime(project / "setup.py", (later, later))
    assert make(project, *words).returncode == 0 and len(calls.read_text().splitlines()) == 2 * len(first)
