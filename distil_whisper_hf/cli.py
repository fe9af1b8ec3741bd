"""The console command `distil-whisper`: one word, then the arguments of the program that it names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from . import __version__


class Command(NamedTuple):
    """A program: the module of `commands` that has its `main`, and what it is for."""

    module: str
    purpose: str


# Imported when called only: each needs other libraries.
COMMANDS = {
    "baseline": Command("baseline", "full fine-tuning or LoRA on the same data, to compare with"),
    "compare": Command("compare", "trained systems beside each other, and which gates open"),
    "convert": Command("convert", "turn a checkpoint of the original release into base and expert files"),
    "evaluate": Command("evaluate", "error rates with intervals, bias by group, and what quantisation does to both"),
    "push": Command("push", "push a release or an expert to the Hub"),
    "release": Command("release", "make the folder that would be pushed, from trained experts"),
    "train": Command("train", "experts from speech, with test scores"),
}


def usage() -> str:
    """What there is to call, a line each."""
    lines = [f"  {name:<12} {command.purpose}" for name, command in COMMANDS.items()]
    return "\n".join(
        [f"distil-whisper {__version__}: distil-whisper COMMAND ... (COMMAND --help says what it takes)", *lines]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one program; returns the exit status.

    Args:
        arguments: the words after `distil-whisper`; None takes them from the command line.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage() + "\n")
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(__version__ + "\n")
        return 0
    if words[0] not in COMMANDS:
        sys.stderr.write(f"Expected one of {', '.join(COMMANDS)}, got {words[0]!r}.\n{usage()}\n")
        return 2
    program: Callable[[Sequence[str]], int] = import_module(f"{__package__}.commands.{COMMANDS[words[0]].module}").main
    return program(words[1:])


if __name__ == "__main__":
    sys.exit(main())
