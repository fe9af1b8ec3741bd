"""What a JSON recipe may say for a flag: the value that the command line would give, checked as there."""

from __future__ import annotations

import json
from argparse import Action, ArgumentTypeError
from collections.abc import Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def annotations(kinds: Sequence[type]) -> dict[str, tuple[type, ...]]:
    """Field -> the types that it may have: `dict | str | None` -> (dict, str, NoneType)."""
    found: dict[str, tuple[type, ...]] = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        for item in fields(kind):
            hint = hints[item.name]
            parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            found[item.name] = tuple(get_origin(part) or part for part in parts)
    return found


def checked_value(action: Action, value: Any, kinds: tuple[type, ...]) -> Any:
    """A recipe's value as the flag would give it.

    Args:
        action: the flag.
        value: from JSON. A single value stands for a list of one.
        kinds: types that are taken as they are.

    Raises:
        ValueError: the flag takes no such thing.
    """
    if value is None:
        if action.default is not None:
            raise ValueError("expected a value, got null; leave it out for the default")
        return None
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return action.const if value else not action.const
    if action.nargs == "+":
        return [_one(action, item) for item in (value if isinstance(value, list) else [value])]
    # Tables, and what else only a recipe can say.
    if type(value) in kinds and action.choices is None:
        return value
    return _one(action, value)


def _one(action: Action, value: Any) -> Any:
    if isinstance(value, dict | list):
        raise ValueError("expected a single value")
    text = value if isinstance(value, str) else json.dumps(value)
    kind = action.type
    try:
        found = text if kind is None else kind(text)
    except (TypeError, ValueError, ArgumentTypeError) as error:
        raise ValueError(f"expected another value, {error}") from error
    if action.choices is not None and found not in action.choices:
        raise ValueError(f"expected one of {', '.join(map(str, action.choices))}")
    return found
