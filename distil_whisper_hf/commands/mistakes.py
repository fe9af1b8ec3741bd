"""What a program says when it cannot go on: one sentence on stderr and an exit status, with `--debug` the traceback.

    @program("distil-whisper train")
    def main(arguments: Sequence[str]) -> int:
        ...

Status 2: a mistake in the input, which is what `ValueError`, `OSError`, `KeyError` and `ImportError` mean here.
Status 1: `Failed`, the input was right and the work did not succeed. Status 130: stopped by Ctrl-C. Any other exception
is a fault of this package and keeps its traceback.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps

from ..secret_tokens import given_tokens, hide_tokens

PACKAGE = __name__.partition(".")[0]
DEBUG_VARIABLE = "DISTIL_WHISPER_DEBUG"
Main = Callable[[Sequence[str]], int]


class HelpAsked(Exception):
    """Not a fault: somebody asked for help, and `str` of it is the text."""


class Failed(Exception):
    """The input was right and the work did not succeed: status 1."""


def program(name: str) -> Callable[[Main], Callable[[Sequence[str] | None], int]]:
    """Decorate a `main` that takes words and returns a status: whatever ends it becomes a sentence and a status.

    Args:
        name: what stands before the sentence, such as "distil-whisper train".

    The decorated function takes the words of the command line where it is given none.
    """

    def decorate(main: Main) -> Callable[[Sequence[str] | None], int]:
        @wraps(main)
        def run(arguments: Sequence[str] | None = None) -> int:
            words, debug = take_debug(sys.argv[1:] if arguments is None else arguments)
            return guard(name, lambda: main(words), debug=debug, secrets=given_tokens(words))

        return run

    return decorate


def take_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """The words without `--debug`, and whether tracebacks are wanted.

    With a value after it, `--debug` is a flag of transformers and stays.
    """
    kept, debug = [], os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")
    for word, following in zip(words, [*words, "--"][1:], strict=True):
        if word == "--debug" and following.startswith("-"):
            debug = True
        else:
            kept.append(word)
    return kept, debug


def guard(name: str, work: Callable[[], int], *, debug: bool = False, secrets: Iterable[str] = ()) -> int:
    """The status that `work` returns, or the one that its exception stands for, said in a sentence on stderr.

    Args:
        name: what stands before the sentence.
        debug: let exceptions through.
        secrets: tokens that no message may hold, whatever they look like.
    """
    try:
        return work()
    except HelpAsked as asked:
        sys.stdout.write(f"{asked}\n")
        return 0
    except KeyboardInterrupt:
        if debug:
            raise
        sys.stderr.write(f"{name}: stopped.\n")
        return 130
    except Exception as error:
        hide_tokens(error, secrets)
        if not isinstance(error, (Failed, ValueError, OSError, KeyError, ImportError)):
            raise
        # That our own files do not find each other is nothing that a user did.
        ours = isinstance(error, ImportError) and (error.name or "").partition(".")[0] == PACKAGE
        if debug or ours:
            raise
        sys.stderr.write(f"{name}: {sentence(error)}\n")
        return 1 if isinstance(error, Failed) else 2


def sentence(error: Exception) -> str:
    """One line for an error; where it was not raised by this package, with a hint how to see more."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return missing_library(error.name.partition(".")[0])
    if isinstance(error, KeyError) and len(error.args) == 1:
        text = str(error.args[0])
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {str(error.filename)!r}"
    else:
        text = str(error)
    text = _one_line(text) or type(error).__name__
    if not text.endswith((".", "?", "!")):
        text += "."
    return text if _raised_here(error) else f"{text} (--debug shows where.)"


def _one_line(text: str) -> str:
    """The first line that says something; a line that ends in a colon takes the next one with it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = lines[:1]
    while found and found[-1].endswith(":") and len(found) < len(lines):
        found.append(lines[len(found)])
    return " ".join(found)


def _raised_here(error: Exception) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE


def missing_library(library: str) -> str:
    """That a library is not installed, and the command that installs it: by the extra that brings it, if one does."""
    try:
        requirements = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"""extra\s*==\s*["']([\w-]+)["']""", requirement)
        if name and extra and re.sub(r"[.-]", "_", name[0]).lower() == library.lower():
            return f'{library} is not installed. Install it with: pip install "{PACKAGE}[{extra[1]}]"'
    return f"{library} is not installed. Install it with: pip install {library}"
