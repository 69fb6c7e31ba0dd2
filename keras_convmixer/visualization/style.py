"""Style of all figures, and writing them as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..files.atomic import atomic_file

if TYPE_CHECKING:  # importing the style does not import Matplotlib
    from matplotlib.figure import Figure

STYLE = {  # for matplotlib.rc_context
    "font.size": 9,
    "text.parse_math": False,  # a label such as "a $x_$ b" is text, not a formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "savefig.dpi": 150,
}


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure that was drawn under `rc_context(STYLE)`; where that fails, a former file stays as it was.

    Raises:
        OSError: the disk is full, or the folder does not exist.
    """
    with atomic_file(path) as partial:
        figure.savefig(partial, facecolor="white", format="png")
