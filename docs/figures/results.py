"""Draw the figure of the README: word error rates of Greek in and out of domain, by method, with the spread over seeds.

    python docs/figures/results.py

Every number is read out of benchmarks/RESULTS.md, where its command stands; the figure that is written says which ones
it was drawn from. A second; needs matplotlib (the extra `eval`).
"""

import json
import re
from pathlib import Path
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TARGET = Path(__file__).with_suffix(".svg")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "RESULTS.md"
SECTION = "### Seeds and learning rates"
# Systems of that section's first table, by name and weight of the interpolation, under the names of the figure.
SYSTEMS = {
    ("full fine-tuning, 2e-5", "1"): "full fine-tuning",
    ("LoRA r 64, 5e-4", "1"): "LoRA",
    ("LoRA r 64, 5e-4", "0.7"): "LoRA, interpolated 0.7",
    ("expert, CLSR", "1"): "expert",
    ("expert, CLSR", "0.85"): "expert, interpolated 0.85",
    ("expert, CLSR", "0.7"): "expert, interpolated 0.7",
}
# Plain Whisper's two rates stand in a sentence above the tables.
WHISPER = re.compile(r"Whisper itself: Greek ([\d.]+) and\s+([\d.]+)")
DOMAINS = ("in domain: her other texts", "out of domain: a man, other texts")
EXPERT, OTHER, INK, FAINT = "#b45309", "#1f4fb4", "#1f2328", "#59636e"


def read_rates(results: str) -> dict[str, list[tuple[float, float]]]:
    """WER in % in and out of domain for each seed, by system; "Whisper" has one pair.

    Args:
        results: text of benchmarks/RESULTS.md.

    Raises:
        ValueError: a system that its table does not have with three seeds.
    """
    section = results[results.index(SECTION) :]
    table = section[section.index("| system |") :].split("\n\n")[0].splitlines()[2:]
    rates: dict[str, list[tuple[float, float]]] = {}
    name = ""
    for line in table:
        first, weight, *seeds, _ = [cell.strip(" *") for cell in line.strip("|").split("|")]
        name = first or name
        if (name, weight) in SYSTEMS:
            pairs = [tuple(map(float, cell.replace("*", "").split("/"))) for cell in seeds if cell]
            rates[SYSTEMS[name, weight]] = pairs
    missing = [system for system in SYSTEMS.values() if len(rates.get(system, ())) != 3]
    whisper = WHISPER.search(results)
    if missing or whisper is None:
        raise ValueError(f"Expected three seeds of {', '.join(missing) or 'each system'} and Whisper's own rates.")
    return {"Whisper": [(float(whisper[1]), float(whisper[2]))], **{s: rates[s] for s in SYSTEMS.values()}}


def draw_domain(axes: Axes, rates: dict[str, list[tuple[float, float]]], side: int) -> None:
    """One panel: a system a line, its seeds as dots, their mean as a bar and a number, plain Whisper as a line."""
    (whisper,) = rates["Whisper"]
    axes.axvline(whisper[side], color=FAINT, linestyle="--", linewidth=1)
    axes.annotate(
        f"Whisper {whisper[side]:.1f}", (whisper[side], 1), (0, 3), ("data", "axes fraction"), "offset points",
        fontsize=9, color=FAINT, ha="center",
    )  # fmt: skip
    systems = [name for name in rates if name != "Whisper"]
    for line, name in enumerate(systems):
        seeds = [pair[side] for pair in rates[name]]
        colour = EXPERT if name.startswith("expert") else OTHER
        axes.plot([min(seeds), max(seeds)], [line, line], color=colour, linewidth=2, alpha=0.45)
        axes.plot(seeds, [line] * len(seeds), "o", color=colour, markersize=4.5, alpha=0.75, markeredgewidth=0)
        axes.plot([mean(seeds)] * 2, [line - 0.26, line + 0.26], color=colour, linewidth=3, solid_capstyle="butt")
        axes.annotate(
            f"{mean(seeds):.1f}", (max(seeds), line), (8, 0), textcoords="offset points", va="center", fontsize=9,
            color=INK, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    axes.set_yticks(range(len(systems)), systems)
    axes.set_ylim(len(systems) - 0.4, -0.6)
    axes.set_title(DOMAINS[side], fontsize=10.5, loc="left", color=INK, pad=18)
    axes.set_xlabel("WER in %, lower is better", fontsize=9, color=FAINT)
    axes.tick_params(length=0, labelsize=9.5, colors=INK)
    axes.grid(axis="x", color="#d0d7de", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.1 * (high - low))


def draw(rates: dict[str, list[tuple[float, float]]]) -> Figure:
    """Both panels, on a ground of their own."""
    figure = Figure(figsize=(10, 3.5), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    panels = figure.subplots(1, 2, sharey=True)
    for side, axes in enumerate(panels):
        draw_domain(axes, rates, side)
    return figure


def main() -> None:
    """Draw the figure beside this file."""
    rates = read_rates(RESULTS.read_text(encoding="utf-8"))
    # Letters as outlines, so that no font is needed; no date and no random names, so that the same numbers are the
    # same file.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "results", "font.family": "DejaVu Sans"}):
        draw(rates).savefig(TARGET, metadata={"Date": None, "Creator": None, "Description": json.dumps(rates)})


if __name__ == "__main__":
    main()
