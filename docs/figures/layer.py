"""Draw a layer with its expert and gate: docs/figures/layer.svg.

    python docs/figures/layer.py

Plain SVG from the standard library. It brings its own light ground, so that it reads on a white and on a dark page, and
names only kinds of fonts that every system has.
"""

from pathlib import Path
from xml.sax.saxutils import escape

TARGET = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT = 1000, 430
INK, FAINT, LINE = "#1f2328", "#59636e", "#6e7781"
# Ground and edge of what is the expert's and what is Whisper's; the expert's tokens carry a dot as well, for those who
# do not tell the two colours apart.
EXPERT, SHARED, PLAIN = ("#fdebd3", "#b45309"), ("#dbe6fb", "#1f4fb4"), ("#f0f2f5", "#8c959f")
SANS, MONO = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif", "DejaVu Sans Mono, Menlo, Consolas, monospace"
# Which tokens of the Catalan row find the gate open.
OPEN = (True, True, False, True, False, True)
TOKEN, PITCH = 20, 25


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 15,
    fill: str = INK,
    weight: str = "normal",
    anchor: str = "middle",
    family: str = SANS,
) -> str:
    """Words with their base line at `y`."""
    style = f'font-family="{family}" font-size="{size}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, colours: tuple[str, str], *, dash: str = "") -> str:
    """A box with round corners."""
    ground, edge = colours
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    shape = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"'
    return f'<rect {shape} fill="{ground}" stroke="{edge}" stroke-width="1.5"{dashed}/>'


def arrow(path: str, colour: str) -> str:
    """A line with a head at its end, along an SVG path."""
    head = {EXPERT[1]: "expert", SHARED[1]: "shared"}.get(colour, "plain")
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" marker-end="url(#{head})"/>'


def heads() -> str:
    """Arrow heads, one for each colour."""
    shape = '<path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
    size = 'markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto" markerUnits="userSpaceOnUse"'
    marks = {"expert": EXPERT[1], "shared": SHARED[1], "plain": LINE}
    found = [f'<marker id="{name}" {size}>' + shape.format(colour=colour) for name, colour in marks.items()]
    return f"<defs>{''.join(found)}</defs>"


def tokens(x: float, middle: float, taken: tuple[bool | None, ...]) -> list[str]:
    """A row of tokens: None has not been through the layer, True took the expert, False the shared path."""
    drawn = []
    for index, by_expert in enumerate(taken):
        left, top = x + PITCH * index, middle - TOKEN / 2
        ground, edge = PLAIN if by_expert is None else EXPERT if by_expert else SHARED
        shape = f'x="{left:g}" y="{top:g}" width="{TOKEN}" height="{TOKEN}" rx="3"'
        drawn.append(f'<rect {shape} fill="{ground}" stroke="{edge}" stroke-width="1.5"/>')
        if by_expert:
            drawn.append(f'<circle cx="{left + TOKEN / 2:g}" cy="{middle:g}" r="4" fill="{edge}"/>')
    return drawn


def draw() -> str:
    """The whole drawing."""
    catalan, english = 120, 286
    parts = [
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="12" fill="#ffffff" stroke="#d0d7de"/>',
        text(30, 40, "z: a batch of two clips", weight="bold", anchor="start"),
        text(30, 60, "the language token chooses", size=13, fill=FAINT, anchor="start"),
    ]
    for middle, code, colours in ((catalan, "<|ca|>", EXPERT), (english, "<|en|>", SHARED)):
        parts.append(box(30, middle - 15, 66, 30, colours))
        parts.append(text(63, middle + 5, code, size=14, fill=colours[1], family=MONO))
        parts += tokens(108, middle, (None,) * len(OPEN))
    parts += [
        # The gate.
        arrow(f"M262 {catalan}H318", LINE),
        box(322, 84, 130, 72, ("#ffffff", EXPERT[1])),
        text(387, 114, "gate of ca", weight="bold", fill=EXPERT[1]),
        text(387, 136, "for each token", size=13, fill=FAINT),
        arrow(f"M452 {catalan}H534", EXPERT[1]),
        text(492, 110, "open", size=13, fill=EXPERT[1]),
        arrow("M387 156V250Q387 264 401 264H534", SHARED[1]),
        text(397, 206, "closed", size=13, fill=SHARED[1], anchor="start"),
        # The two paths, and what else may lie there.
        box(538, 78, 224, 84, EXPERT),
        text(650, 112, "expert of ca", weight="bold", fill=EXPERT[1]),
        text(650, 136, "a feed-forward network, trained", size=12, fill=INK),
        box(538, 178, 224, 38, ("#ffffff", PLAIN[1]), dash="5 4"),
        text(650, 202, "experts of other languages", size=12, fill=FAINT),
        box(538, 240, 224, 84, SHARED),
        text(650, 274, "shared path", weight="bold", fill=SHARED[1]),
        text(650, 298, "Whisper's own network, frozen", size=12, fill=INK),
        arrow(f"M262 {english}Q280 {english} 280 304Q280 308 294 308H534", SHARED[1]),
        text(410, 328, "no expert: plain Whisper", size=13, fill=SHARED[1]),
        # What comes out.
        text(970, 40, "output, row by row", weight="bold", anchor="end"),
        text(970, 60, "plus the residual", size=13, fill=FAINT, anchor="end"),
        arrow(f"M762 {catalan}H814", EXPERT[1]),
        arrow("M762 264H776Q788 264 788 252V144Q788 132 800 132H814", SHARED[1]),
        arrow(f"M762 {english}H814", SHARED[1]),
        *tokens(822, catalan, OPEN),
        *tokens(822, english, (False,) * len(OPEN)),
        # The formula.
        '<path d="M30 352H970" stroke="#d0d7de"/>',
        text(500, 384, "output = g(z) · expert(z) + (1 − g(z)) · shared(z)", size=16, family=MONO),
        text(
            500,
            410,
            "in use g is 0 or 1, one path for each token; the paper trains it between the two",
            size=13,
            fill=FAINT,
        ),
    ]
    title = "A layer with its expert and gate"
    told = (
        "Rows in Catalan pass a gate, which sends each token to the Catalan expert or to Whisper's own feed-forward "
        "network; rows in English take Whisper's own."
    )
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    about = f"<title>{title}</title><desc>{escape(told)}</desc>"
    return "\n".join([begin, about, heads(), *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
