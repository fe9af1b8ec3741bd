"""Maps of one recording's gates, layer by layer over time and over the tokens that were written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.atomic_files import replacing

# Frames of the encoder in a second.
FRAMES_PER_SECOND = 50
_DPI = 130
# Inches for each token, and for each second, within what fits a page.
_PER_TOKEN, _PER_SECOND, _NARROWEST, _WIDEST = 0.28, 0.7, 7.0, 24.0
_MOST_LABELS = 90


def draw_gate_map(
    path: str | Path,
    encoder: np.ndarray,
    decoder: np.ndarray,
    *,
    words: Sequence[tuple[str, float, float]],
    tokens: Sequence[str],
    title: str,
) -> None:
    """Draw both maps into one picture, whose format the suffix says.

    Args:
        path: .png, .pdf or .svg.
        encoder: `(layers, frames)`, 1 where a gate is open.
        decoder: `(layers, tokens)`, likewise; no rows for a side without gates.
        words: texts with their begin and end in s, written under the encoder's map.
        tokens: written under the decoder's.
        title: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import ListedColormap

    colours = ListedColormap(["#f2f2f2", "#0072B2"])
    seconds = encoder.shape[1] / FRAMES_PER_SECOND
    width = min(max(_PER_SECOND * seconds, _PER_TOKEN * len(tokens), _NARROWEST), _WIDEST)
    sides = [(name, gates) for name, gates in (("encoder", encoder), ("decoder", decoder)) if gates.size]
    figure, axes = pyplot.subplots(
        len(sides), 1, figsize=(width, 0.9 + sum(1.5 + 0.16 * len(gates) for _, gates in sides)), squeeze=False
    )
    for (side, gates), axis in zip(sides, axes[:, 0], strict=True):
        across = seconds if side == "encoder" else gates.shape[1]
        axis.imshow(
            gates, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest", origin="lower",
            extent=(0, across, -0.5, len(gates) - 0.5),
        )  # fmt: skip
        axis.set_yticks(range(len(gates)))
        axis.set_ylabel(f"{side} layer")
        axis.set_title(f"{side}: {gates.mean():.0%} of the gates open", loc="left", fontsize=10)
        if side == "encoder":
            axis.set_xlabel("s")
            _write_words(axis, words)
        else:
            _write_tokens(axis, tokens)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    with replacing(Path(path)) as beside:
        # Without a date in it: the same numbers make the same file.
        kind = Path(path).suffix.lstrip(".").lower()
        metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
        figure.savefig(beside, format=kind, dpi=_DPI, bbox_inches="tight", metadata=metadata)
    pyplot.close(figure)


def _write_words(axis: Any, words: Sequence[tuple[str, float, float]]) -> None:
    if not words:
        return
    above = axis.secondary_xaxis("top")
    shown = words[:: -(-len(words) // _MOST_LABELS)]
    above.set_xticks([(begin + end) / 2 for _, begin, end in shown], [word.strip() for word, _, _ in shown])
    above.tick_params(axis="x", labelrotation=60, labelsize=8, length=2)
    for label in above.get_xticklabels():
        label.set_horizontalalignment("left")
    for _, begin, _ in words:
        axis.axvline(begin, color="#D55E00", linewidth=0.5, alpha=0.6)


def _write_tokens(axis: Any, tokens: Sequence[str]) -> None:
    step = -(-len(tokens) // _MOST_LABELS) if tokens else 1
    places = range(0, len(tokens), step)
    axis.set_xticks([place + 0.5 for place in places], [tokens[place] for place in places])
    axis.tick_params(axis="x", labelrotation=60, labelsize=8, length=2)
    for label in axis.get_xticklabels():
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")
