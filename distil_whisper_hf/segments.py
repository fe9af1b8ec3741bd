"""A stretch of a recording, as tables and inputs say it: a start in s, and an end or a length, or neither."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# What a start, an end and a length are called. Without a start a length only says how long the file is.
START_NAMES = ("offset", "start", "start_time")
END_NAMES = ("end", "end_time")
DURATION_NAMES = ("duration",)


def segment(start: object, *, end: object = None, duration: object = None) -> tuple[float, float | None] | None:
    """Start and length in s; None for the whole recording, which has no start, a length of None up to its end.

    Args:
        start, end, duration: numbers, also as strings, in s; None or an empty string where there is none. An end counts
            more than a length.

    Raises:
        ValueError: an end without a start, what is no number of seconds, or a stretch that has no length.
    """
    start_seconds, end_seconds = _seconds(start, "start"), _seconds(end, "end")
    if start_seconds is None:
        if end_seconds is not None:
            raise ValueError(f"the segment has an end, {end_seconds:g} s, and no start")
        return None
    if end_seconds is None:
        length = _seconds(duration, "duration")
    elif end_seconds <= start_seconds:
        raise ValueError(f"the segment ends at {end_seconds:g} s, not after its start at {start_seconds:g} s")
    else:
        length = end_seconds - start_seconds
    if length == 0:
        raise ValueError(f"the segment from {start_seconds:g} s on lasts 0 s")
    return start_seconds, length


def row_segment(row: Mapping[str, Any]) -> tuple[float, float | None] | None:
    """The segment that a row describes by the usual names, as `segment` gives it.

    Raises:
        ValueError: a segment that cannot be.
    """
    start, end, duration = (
        next((row[name] for name in names if row.get(name) is not None), None)
        for names in (START_NAMES, END_NAMES, DURATION_NAMES)
    )
    # Without a start the others only describe the file.
    return None if start is None else segment(start, end=end, duration=duration)


def _seconds(value: object, what: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"the segment's {what} is {value!r}, expected seconds from 0 up, such as 12.5")
    return seconds
