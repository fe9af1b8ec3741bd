"""Markdown tables: the one writer of reports, cards and the programs' output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# What a reader of Markdown takes for the beginning of a tag, a comment or a link; "<0.001" is none.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def one_line(text: object) -> str:
    """Text that can neither end its table's cell nor its line, nor begin a tag; whatever it is, `str` is taken of it.

    White space becomes single spaces, "|" is escaped, and "<" where a tag could begin.
    """
    return _TAG.sub("&lt;", re.sub(r"\s+", " ", str(text)).replace("|", "\\|"))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of one line for each row, every cell made safe by `one_line`; its last line has no line end."""
    lines = ["| " + " | ".join(map(one_line, row)) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])
