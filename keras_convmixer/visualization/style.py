"""How every figure of this package looks, and how it becomes a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..files.atomic import atomic_file

if TYPE_CHECKING:  # the style itself costs no import of Matplotlib
    from matplotlib.figure import Figure

STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # a class may be called a $x_$ b
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "savefig.dpi": 150,
}


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure drawn under `rc_context(STYLE)`, whole or not at all; `path` ends in .png.

    Raises:
        OSError: the disk is full, or the folder is not there.
    """
    with atomic_file(path) as partial:
        figure.savefig(partial, facecolor="white", format="png")
