"""Choose the pieces into which a depthwise kernel is cut, so that LiteRT's CPU engine has a fast kernel for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .geometry import Side

MICROKERNELS = {3: 3.2, 4: 4.1, 9: 8.4, 25: 24.1}
"""Taps of XNNPACK's depthwise microkernels, on x86 and on Arm -> cost. The unit of costs is about that of a tap."""
MOST_TAPS = max(MICROKERNELS)
LOW = 4
ROW_COST = 0.04
"""Extra relative cost of each row of a piece beyond LOW rows, as it reads more rows of the image."""
ADD_COST = 2.5
CROP_COST = 1.5
"""Costs of adding two tensors and of a cropped copy."""


@dataclass(frozen=True)
class Piece:
    """A rectangle of a kernel's taps: rows `top` to `bottom`, columns `left` to `right`, the ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def taps(self) -> int:
        """Number of taps."""
        return (self.bottom - self.top) * (self.right - self.left)

    def transposed(self) -> Piece:
        """Return the piece with rows and columns exchanged."""
        return Piece(self.left, self.right, self.top, self.bottom)


def cover(rows: Side, columns: Side) -> tuple[Piece, ...]:
    """Return the cheapest pieces that make up a kernel, each tap in one of them; the largest first.

    A convolution is linear in its kernel, so the sum of the pieces' results is the kernel's result. Three taps on
    three pixels with a zero on each side, whole and as the first two taps and the last one:

    >>> import numpy as np
    >>> pixels = [1, 2, 3]
    >>> np.correlate([0, *pixels, 0], [4, 5, 6], "valid")
    array([17, 32, 23])
    >>> np.correlate([0, *pixels], [4, 5], "valid") + np.correlate([*pixels[1:], 0], [6], "valid")
    array([17, 32, 23])

    The last tap looks one pixel ahead: it needs no zero before the image, and the first pixel is cropped.

    XNNPACK, LiteRT's CPU engine, has depthwise microkernels of up to 25 taps. Larger kernels run as a matrix product
    for each channel: 7x7 and 9x9 take about 30 and 70 times as long as 5x5. 7x7 is cut into 24 + 21 + 4 taps:

        1 1 1 1 1 1 1
        1 1 1 1 1 1 1
        1 1 1 1 1 1 1
        2 0 0 0 0 0 0
        2 0 0 0 0 0 0
        2 0 0 0 0 0 0
        2 0 0 0 0 0 0

    >>> side = Side(taps=7, before=3, after=3)
    >>> for piece in cover(side, side):
    ...     print(piece, piece.taps)
    Piece(top=3, bottom=7, left=1, right=7) 24
    Piece(top=0, bottom=3, left=0, right=7) 21
    Piece(top=3, bottom=7, left=0, right=1) 4

    The cost of a piece is that of the microkernel it runs in. 10 taps cost as much as 25, so it is best to fill the
    microkernels: these three pieces cost 24.1 + 24.1 + 4.1, and four corners of 4x4, 4x3, 3x4 and 3x3 taps
    3 x 24.1 + 8.4. Further costs:

    - Rows: 3x8 is 15 % cheaper than 8x3, as fewer rows of the image have to stay in the cache.
    - Crops: a piece that does not contain the kernel's center needs a negative number of zeros on one side, a cropped
      copy. It is cheaper than extending the piece to the center with taps of zero, which cost as much as others.
    - Additions: each further piece adds two tensors.
    - Zeros are free: XNNPACK merges a PAD with the VALID convolution after it.

    These are times on x86. In instructions on a Cortex-A76, by `python benchmarks/on_arm/operators.py`, and in the same
    unit, a microkernel of 9 taps costs 10.1, of 4 taps 4.7, an addition 1.8, a crop 0.7, and rows cost nothing; in int8
    9.9, 9.9, 3.9 and 0.2. With these costs no other cover of a kernel of up to 15x15 is cheaper, so deploy() need not
    know the processor.

    A kernel of at most 25 taps stays whole: partial sums are rounded in int8, and there is little to gain.
    `python benchmarks/cover.py` measures these costs, and two ways that were never faster: pieces cropped from one
    shared padded tensor, and interleaved pieces of dilated taps, which are all centered and need no crops.

    The search covers all layouts of horizontal strips, each cut into pieces from left to right, and all layouts of
    vertical strips, each cut from top to bottom.
    """
    if microkernel(rows.taps * columns.taps):
        return (Piece(0, rows.taps, 0, columns.taps),)
    by_rows = _strips(rows.taps, columns.taps, lambda piece: _cost(rows, columns, piece))
    by_columns = _strips(columns.taps, rows.taps, lambda piece: _cost(rows, columns, piece.transposed()))
    layouts = by_rows, [piece.transposed() for piece in by_columns]
    best = min(layouts, key=lambda pieces: cost(rows, columns, pieces))
    return tuple(sorted(best, key=lambda piece: (-piece.taps, piece.top, piece.left)))


def cost(rows: Side, columns: Side, pieces: Sequence[Piece]) -> float:
    """Return the cost of a cover, for each position and channel."""
    return sum(_cost(rows, columns, piece) for piece in pieces) + ADD_COST * (len(pieces) - 1)


def microkernel(taps: int) -> int | None:
    """Return the size of the smallest microkernel for a number of taps; None if there is none."""
    return next((size for size in MICROKERNELS if taps <= size), None)


def _cost(rows, columns, piece):
    """Return the cost of a piece, without adding it to others."""
    size = microkernel(piece.taps)
    if size is None:
        return math.inf
    padding = (*rows.padding(piece.top, piece.bottom), *columns.padding(piece.left, piece.right))
    rows_above_low = max(0, piece.bottom - piece.top - LOW)
    return MICROKERNELS[size] * (1 + ROW_COST * rows_above_low) + (CROP_COST if min(padding) < 0 else 0.0)


class _Layout(NamedTuple):
    """Some pieces, and what they and the additions between them cost."""

    cost: float
    pieces: list[Piece]

    def plus(self, other: _Layout) -> _Layout:
        return _Layout(self.cost + ADD_COST + other.cost, [*self.pieces, *other.pieces])


_NOTHING = _Layout(-ADD_COST, [])  # `plus` counts an addition for each piece, and the first one has none
_CostOf = Callable[[Piece], float]


def _strips(height: int, width: int, cost_of: _CostOf) -> list[Piece]:
    """Return the cheapest cover by strips of the kernel's width, each cut into pieces of the strip's height.

    It is a dynamic program over rows. The last strip of the best cover of the rows above `bottom` begins at some row
    `top`, and above it is the best cover of the rows above `top`, which was computed before. All tops are tried.
    """
    best = [_NOTHING]  # best[row] covers the rows above `row`
    for bottom in range(1, height + 1):
        tops = range(max(0, bottom - MOST_TAPS), bottom)
        best.append(_cheapest([best[top].plus(_strip(top, bottom, width, cost_of)) for top in tops]))
    return best[height].pieces


def _strip(top: int, bottom: int, width: int, cost_of: _CostOf) -> _Layout:
    """Cut one strip into pieces, by the same dynamic program over its columns."""
    best = [_NOTHING]  # best[column] covers the strip to the left of `column`
    for right in range(1, width + 1):
        layouts = []
        for left in range(max(0, right - MOST_TAPS), right):
            piece = Piece(top, bottom, left, right)
            layouts.append(best[left].plus(_Layout(cost_of(piece), [piece])))
        best.append(_cheapest(layouts))
    return best[width]


def _cheapest(layouts: list[_Layout]) -> _Layout:
    """Return the layout of least cost; of equal ones, that of the fewest pieces."""
    return min(layouts, key=lambda layout: (layout.cost, len(layout.pieces)))
