"""Draws docs/rooms.png, the server in one picture: `python docs/draw_rooms.py`. Rooms and purposes are the code's own."""

import ast
import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.test_rooms import PACKAGES, ROOMS  # noqa: E402

INK, SOFT, PATH = "#1f2933", "#52606d", "#c2410c"
PLACES = {  # x, y, width, height; a box stands on those that touch it from below
    "telemetry": (0.0, 5.0, 7.0, 0.8),
    "access": (0.0, -0.8, 10.0, 0.8),
    "protocols": (0.0, 4.0, 7.0, 1.0),
    "engine": (0.0, 3.0, 7.0, 1.0),
    "batching": (0.0, 2.0, 7.0, 1.0),
    "sessions": (0.0, 1.0, 3.6, 1.0),
    "runtimes": (3.6, 1.0, 3.4, 1.0),
    "durability": (0.0, 0.0, 3.1, 1.0),
    "arena": (3.1, 0.0, 3.9, 1.0),
    "transport": (7.25, 0.0, 2.75, 5.0),
}
WITH = {"telemetry": "telemetry, page"}
"""Rooms that are drawn in another's box, by what stands in it."""
ASIDE = {"page", "workers"}
"""Those, and what is there with --workers alone."""
COLOURS = {"transport": "#fdebd8", "protocols": "#fdf3d8", "arena": "#e3f1e3", "durability": "#e3f1e3"}
STEP = {  # what one step meets, in order, and where the number stands: from the left edge, from the bottom
    1: ("transport", "frames become a message", (0.3, 4.2)),
    2: ("protocols", "a message becomes arrays", (4.5, 0.22)),
    3: ("engine", "which session; new or repeated", (4.5, 0.22)),
    4: ("batching", "what waits is one batch", (4.5, 0.22)),
    5: ("arena", "states are gathered", (2.3, 0.22)),
    6: ("runtimes", "one run of the model", (1.0, 0.22)),
    7: ("durability", "written, if durable", (0.25, 0.22)),
    8: ("sessions", "the session moves on", (1.0, 0.22)),
    9: ("transport", "the answer leaves", (0.3, 3.85)),
}
NEW = {  # what is added where
    "protocols": "a new protocol: a folder beside v1/ and oip/",
    "runtimes": "a new one: a subclass of Runtime",
    "durability": "a new one: a StateStore",
    "transport": "a new one: beside http2/",
}


def purpose(room: str) -> str:
    """The first sentence of the room's docstring."""
    text = ast.get_docstring(ast.parse((PACKAGES["server"] / room / "__init__.py").read_text()))
    assert text is not None, room
    return text.split(". ")[0].rstrip(".")


def main() -> None:
    assert PLACES.keys() | ASIDE == ROOMS.keys(), "every room has its place"
    figure, axes = plt.subplots(figsize=(11, 8.2))
    for room, (x, y, width, height) in PLACES.items():
        gap = 0.05
        box = FancyBboxPatch(
            (x + gap, y + gap),
            width - 2 * gap,
            height - 2 * gap,
            boxstyle="round,pad=0,rounding_size=0.06",
            fc=COLOURS.get(room, "#e4edf6"),
            ec="#9aa5b1",
        )
        axes.add_patch(box)
        axes.text(x + 0.16, y + height - 0.14, WITH.get(room, room), va="top", fontsize=13, weight="bold", color=INK)
        said = textwrap.fill(purpose(room), int(width * 14))
        axes.text(x + 0.16, y + height - 0.4, said, va="top", fontsize=9, color=SOFT)
        if room in NEW:
            axes.text(
                x + width - 0.16, y + height - 0.2, NEW[room], va="center", ha="right", fontsize=8, style="italic", color=SOFT
            )
    for number, (room, what, (right, up)) in STEP.items():
        x, y, _, _ = PLACES[room]
        at = (x + right, y + up)
        axes.text(
            *at,
            str(number),
            ha="center",
            va="center",
            fontsize=9,
            color="white",
            bbox={"boxstyle": "circle", "fc": PATH, "ec": PATH},
        )
        axes.text(at[0] + 0.17, at[1], what, va="center", fontsize=9, color=PATH)
    axes.text(
        0.05,
        5.93,
        "app.py builds it all and ends it; config.py, options.py, device.py and errors.py are known everywhere.\n"
        "With --workers, workers/ starts several such processes.",
        fontsize=9,
        color=SOFT,
    )
    axes.text(
        0.05,
        -1.0,
        "A box stands on those below it, and imports from nothing else; protocols lean on transport.   1 to 9: one step",
        fontsize=9,
        color=SOFT,
    )
    axes.set(xlim=(-0.05, 10.05), ylim=(-1.15, 6.3))
    axes.axis("off")
    figure.tight_layout()
    figure.savefig(ROOT / "docs/rooms.png", dpi=110)


if __name__ == "__main__":
    main()
