"""Draws docs/floors.png from the floors that the tests hold: `python docs/draw_floors.py`."""

import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.test_floors import CORE, FLOORS, server_modules  # noqa: E402

CORE_COLOUR, FRONT_COLOUR, SHARED_COLOUR = "#dbe9f6", "#fbe3cf", "#e7e7e7"


def purpose(name: str, letters: int) -> str:
    """What the module's docstring says of it, cut to two lines."""
    first = server_modules()[name].read_text().split('"""')[1].split("\n")[0]
    said = first.split(": ", 1)[-1].rstrip(".")
    return "\n".join(textwrap.wrap(said, letters, max_lines=2, placeholder=" …"))


def main() -> None:
    rows = [sorted(floor) for floor in FLOORS]
    figure, axes = plt.subplots(figsize=(13, 0.78 * (len(rows) + 2)))
    for y, names in enumerate([["statecell (protos): wire, tensor, spec"], *rows]):
        width = 10 / len(names)
        for i, name in enumerate(names):
            colour = SHARED_COLOUR if not y else CORE_COLOUR if name in CORE else FRONT_COLOUR
            place, height = (i * width + 0.06, y + 0.1), 0.74
            axes.add_patch(FancyBboxPatch(place, width - 0.12, height, boxstyle="round,pad=0.02", fc=colour, ec="#555"))
            axes.text((i + 0.5) * width, y + 0.66, name, ha="center", va="center", fontsize=9, weight="bold")
            if y:
                said = purpose(name, int(18 * width))
                axes.text((i + 0.5) * width, y + 0.33, said, ha="center", va="center", fontsize=7, color="#333")
    axes.set(xlim=(-0.1, 10.1), ylim=(-0.6, len(rows) + 1.2))
    axes.text(0, -0.35, "Every module imports only from floors below its own.  ", fontsize=9, color="#333")
    axes.text(10, -0.35, "blue: knows neither protobuf nor gRPC · orange: the front", fontsize=9, color="#333", ha="right")
    axes.axis("off")
    figure.tight_layout()
    figure.savefig(ROOT / "docs/floors.png", dpi=110)


if __name__ == "__main__":
    main()
