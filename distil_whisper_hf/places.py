"""Whether a name on the command line is a place on this machine or a name on the Hub.

What looks like a path and is not there is never asked of the Hub: a slip in a folder's name is said at once, not after
a wait for the network, and nobody else's repository is opened in its place.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

# Of files that these programs read: no repository is taken for one.
FILE_SUFFIXES = (".json", ".csv", ".tsv", ".jsonl", ".ndjson", ".safetensors", ".bin")


def local_or_hub(name: str, what: str) -> str:
    """The name of something that is here or may be on the Hub; "~" at its beginning is written out.

    Args:
        name: folder, file, or Hub name.
        what: said in the error, such as "a Whisper (--model)".

    Raises:
        ValueError: it looks like a path and there is nothing, or it is neither a path nor a Hub name.
    """
    path = Path(os.path.expanduser(name))
    # Not Path.exists, which raises for a name that is too long or a folder that may not be looked into.
    if name and os.path.exists(path):
        return str(path) if name.startswith("~") else name
    if not name or not looks_like_path(name):
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise ValueError(f"Expected {what}, a folder or a Hub name (user/name), got {name!r}.") from error
        return name
    first, _, rest = name.partition("/")
    hidden = not name.startswith((".", "/", "~")) and "/" not in rest and Path(first).is_dir()
    taken = f" ({first!r} is a folder here, so this is no Hub name.)" if hidden else ""
    raise ValueError(missing_path(path, what) + taken)


def check_hub_name(name: str) -> None:
    """Refuse what cannot be a repository of somebody: `ValueError` unless it is user/name."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"Expected a repository as user/name, got {name!r}.") from error
    if "/" not in name:
        raise ValueError(f"Expected a repository as user/name, got {name!r}: whose is it?")


def looks_like_path(name: str) -> bool:
    """Whether a name means a place on this machine, be it there or not."""
    first, slash, rest = name.partition("/")
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or "/" in rest
        or (slash != "" and (not rest or Path(first).is_dir()))
        or name.lower().endswith(FILE_SUFFIXES)
    )


def missing_path(path: str | os.PathLike, what: str) -> str:
    """A sentence for a path that is not there, with the nearest name in the folder where it would be."""
    path = Path(path)
    below = path
    while not os.path.exists(below.parent):
        below = below.parent
    if below.parent.is_file():
        return f"Expected {what}, {str(path)!r} does not exist: {str(below.parent)!r} is a file."
    if not os.access(below.parent, os.R_OK | os.X_OK):
        return f"Expected {what} in {str(path)!r}, {str(below.parent)!r} may not be looked into."
    there = os.listdir(below.parent) if below.parent.is_dir() else []
    near = difflib.get_close_matches(below.name, there, n=1)
    place = f"{str(below.parent)!r} has no {below.name!r}" if below != path else ""
    remedy = f"is it {str(below.parent / near[0])!r}?" if near else place
    return f"Expected {what}, {str(path)!r} does not exist" + (f": {remedy}" if remedy else "") + "." * (not near)
