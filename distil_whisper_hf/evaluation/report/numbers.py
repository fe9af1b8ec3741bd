"""Figures as text: numbers with their intervals, p-values."""

from __future__ import annotations

import math

from ..statistics.intervals import Interval


def number(value: float | None, digits: int = 1) -> str:
    """A figure with so many decimals; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def with_interval(value: float, interval: Interval | None, digits: int = 1) -> str:
    """ "23.1 [20.0, 26.4]"; without the brackets where there is no interval."""
    if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return number(value, digits)
    return f"{number(value, digits)} [{number(interval.low, digits)}, {number(interval.high, digits)}]"


def p_text(value: float) -> str:
    """A p-value with three decimals, the smallest as "<0.001"."""
    return "–" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"
