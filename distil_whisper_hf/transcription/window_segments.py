"""The segments of a decoded window, by the times among its tokens; and where the next window begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Of one step between two times that Whisper can say, in s.
TIME_STEP = 0.02


@dataclass(frozen=True)
class Piece:
    """A segment inside its window: `start` and `end` in s from the window's beginning, its tokens, and which of the
    window's they are."""

    start: float
    end: float
    tokens: tuple[int, ...]
    first: int


def cut_window(tokens: Sequence[int], *, timestamp_begin: int, seconds: float) -> tuple[list[Piece], float]:
    """Cut a window as openai-whisper does.

    Two times beside each other end a segment. What stands behind the last such pair was not finished, and is decoded
    again in the next window, unless the window ends in a single time: then nothing was said behind it.

    Args:
        tokens: of the window, without prompt and end.
        timestamp_begin: id of `<|0.00|>`.
        seconds: of audio in the window.

    Returns:
        The segments, and from which second of this window on the next one reads.
    """
    is_time = [token >= timestamp_begin for token in tokens]
    pairs = [place for place in range(1, len(tokens)) if is_time[place - 1] and is_time[place]]
    single_ending = is_time[-2:] == [False, True]

    def time(place: int) -> float:
        return (tokens[place] - timestamp_begin) * TIME_STEP

    if not pairs:
        times = [place for place, found in enumerate(is_time) if found]
        end = time(times[-1]) if times and time(times[-1]) > 0 else seconds
        piece = Piece(0.0, min(end, seconds), tuple(tokens), 0)
        return ([piece] if piece.tokens else []), seconds
    ends = [*pairs, len(tokens)] if single_ending else pairs
    starts = [0, *ends[:-1]]
    pieces = [
        Piece(min(time(first), seconds), min(time(end - 1), seconds), tuple(tokens[first:end]), first)
        for first, end in zip(starts, ends, strict=True)
    ]
    following = seconds if single_ending else time(pairs[-1] - 1)
    # Times only grow, so a window without progress cannot be; a model that breaks that must not go on for ever.
    return pieces, following if 0 < following < seconds else seconds
