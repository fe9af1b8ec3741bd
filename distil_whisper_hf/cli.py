"""The console command `distil-whisper`: one word, then the arguments of the program that it names."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from . import __version__
from .commands.mistakes import guard, take_debug


class Command(NamedTuple):
    """A program: the module of `commands` that has its `main`, and what it is for."""

    module: str
    purpose: str


# Imported when called only: each needs other libraries.
COMMANDS = {
    "average": Command("average", "the mean of several trainings of one thing"),
    "baseline": Command("baseline", "full fine-tuning or LoRA on the same data, to compare with"),
    "compare": Command("compare", "trained systems beside each other, and which gates open"),
    "compress": Command("compress", "cut experts to a low rank: some megabytes in place of a hundred"),
    "convert": Command("convert", "turn the original release, or a LoRA adapter, into expert files"),
    "curve": Command("curve", "methods beside each other: gain in domain against loss out of it, over rates and seeds"),
    "evaluate": Command("evaluate", "error rates with intervals, bias by group, and what quantisation does to both"),
    "export": Command("export", "an expert for faster-whisper, whisper.cpp, PEFT, and as plain Whisper"),
    "gates": Command("gates", "a picture of where an expert's gates are open on a recording"),
    "push": Command("push", "push a release or an expert to the Hub"),
    "release": Command("release", "make the folder that would be pushed, from trained experts"),
    "serve": Command("serve", "transcriptions over HTTP, by the schema of OpenAI"),
    "teach": Command("teach", "keep what a teacher says of the training speech, before training"),
    "train": Command("train", "experts from speech, with test scores"),
    "transcribe": Command("transcribe", "recordings to text, subtitles and JSON, each in its language's expert"),
}


def usage() -> str:
    """What there is to call, a line each."""
    lines = [f"  {name:<12} {command.purpose}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"distil-whisper {__version__}",
            "",
            *lines,
            "",
            "`distil-whisper help COMMAND` or `distil-whisper COMMAND --help` says what a command takes, --help_all "
            "everything.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one program; returns the exit status: 2 for a mistake in the input, 1 for work that failed, 130 for Ctrl-C.

    Args:
        arguments: the words after `distil-whisper`; None takes them from the command line.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) > 1 and words[0] == "help":
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage() + "\n")
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(__version__ + "\n")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        remedy = f"is it {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}."
        sys.stderr.write(f"distil-whisper: there is no command {name!r}: {remedy}\n")
        return 2
    # A library that is missing is found when the program is imported.
    return guard(f"distil-whisper {name}", lambda: _program(name)(rest), debug=take_debug(rest)[1])


def _program(name: str) -> Callable[[Sequence[str]], int]:
    return import_module(f"{__package__}.commands.{COMMANDS[name].module}").main


if __name__ == "__main__":
    sys.exit(main())
