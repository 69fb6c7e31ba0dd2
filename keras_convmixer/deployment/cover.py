"""Which rectangles a depthwise kernel is cut into so that LiteRT's CPU engine has a fast kernel for each."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

MICROKERNELS = {3: 3.2, 4: 4.1, 9: 8.4, 25: 24.1}
"""Taps of XNNPACK's depthwise microkernels, on x86 and on Arm: what each costs, in taps."""
LOW = 4
ROW_COST = 0.04
"""By which share of its cost a piece is dearer for each row over `LOW`: it works on more rows of the image."""
ADD_COST = 2.5
CROP_COST = 1.5
"""What a sum of two tensors and a cropped copy cost, in taps."""


@dataclass(frozen=True)
class Piece:
    """A rectangle of a kernel's taps: rows `top` to `bottom`, columns `left` to `right`, the ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def taps(self) -> int:
        """How many taps it has."""
        return (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True)
class Side:
    """One direction of a convolution: how many taps, and how far zeros are padded before and after the image.

    A negative number of zeros is a number of pixels that no output depends on.
    """

    taps: int
    before: int
    after: int
    dilation: int = 1

    def padding(self, start: int, stop: int) -> tuple[int, int]:
        """Zeros before and after the image that the taps `start` to `stop` alone need; negative: pixels to crop."""
        return self.before - start * self.dilation, self.after - (self.taps - stop) * self.dilation


def cover(rows: Side, columns: Side) -> tuple[Piece, ...]:
    """Return the cheapest pieces that together are the kernel, each tap in one of them, the largest first.

    A convolution is linear in its kernel, so the sum of the pieces' results is the kernel's result. XNNPACK, LiteRT's
    CPU engine, runs over 25 taps as a matrix product for each channel, 30 to 70 times slower a layer.

    The cost of a piece goes by the microkernel it runs in: 25 taps cost what 10 do, so a cover fills its
    microkernels, 7x7 = 4x6 + 3x7 + 4x1 (25 + 25 + 4 taps) rather than four corners of 4x4 (4 x 25). Wide pieces are
    cheaper than tall ones, 3x8 by 15 % than 8x3, as fewer rows of the image stay in the cache. Zeros padded around
    the image are free, as XNNPACK takes a PAD before a VALID convolution into it. A piece beside the kernel's centre
    needs fewer zeros than none on one side, a crop, which is a copy; that is cheaper than reaching the centre with
    taps of zero, which cost as taps do and grow the file. Each further piece costs an addition of whole tensors. A
    kernel of at most 25 taps stays whole: partial sums round in int8, and there is little to gain.

    `python benchmarks/cover.py` measures these costs, and what was left out as it was never faster: pieces cropped
    from one shared padded tensor; interleaved pieces of dilated taps, all centred, which need no crops.

    The search is over rows of rectangles, and over columns of them: strips across the kernel, each cut across.
    """
    if microkernel(rows.taps * columns.taps):
        return (Piece(0, rows.taps, 0, columns.taps),)
    layouts = (
        _strips(rows.taps, columns.taps, lambda *edges: _cost(rows, columns, Piece(*edges))),
        [
            Piece(piece.left, piece.right, piece.top, piece.bottom)
            for piece in _strips(
                columns.taps, rows.taps, lambda *edges: _cost(rows, columns, Piece(*edges[2:], *edges[:2]))
            )
        ],
    )
    best = min(layouts, key=lambda pieces: cost(rows, columns, pieces))
    return tuple(sorted(best, key=lambda piece: (-piece.taps, piece.top, piece.left)))


def cost(rows: Side, columns: Side, pieces: tuple[Piece, ...] | list[Piece]) -> float:
    """Return what a cover costs for each position and channel, in taps."""
    return sum(_cost(rows, columns, piece) for piece in pieces) + ADD_COST * (len(pieces) - 1)


def microkernel(taps: int) -> int | None:
    """Return the number of taps of the microkernel that `taps` run in, None where there is none."""
    return next((size for size in MICROKERNELS if taps <= size), None)


def _cost(rows, columns, piece):
    size = microkernel(piece.taps)
    if size is None:
        return math.inf
    padding = (*rows.padding(piece.top, piece.bottom), *columns.padding(piece.left, piece.right))
    rows_over = max(0, piece.bottom - piece.top - LOW)
    return MICROKERNELS[size] * (1 + ROW_COST * rows_over) + (CROP_COST if min(padding) < 0 else 0.0)


def _strips(height: int, width: int, cost_of) -> list[Piece]:
    """Return the cheapest cover by strips of whole width, each cut into pieces of its height."""

    @functools.cache
    def strip(top, bottom):
        return _cut(width, lambda left, right: (cost_of(top, bottom, left, right), [Piece(top, bottom, left, right)]))

    return _cut(height, strip)[1]


def _cut(length: int, part) -> tuple[float, list[Piece]]:
    """Return the cheapest way to cut 0..`length` into parts; `part(start, stop)` is a part's cost and pieces."""
    best = [(-ADD_COST, [])]
    for stop in range(1, length + 1):
        best.append(min(_ends(best, stop, part), key=lambda found: (found[0], len(found[1]))))
    return best[length]


def _ends(best: list, stop: int, part) -> Iterator[tuple[float, list[Piece]]]:
    for start in range(max(0, stop - max(MICROKERNELS)), stop):
        cost_before, pieces_before = best[start]
        cost_here, pieces_here = part(start, stop)
        yield cost_before + ADD_COST + cost_here, [*pieces_before, *pieces_here]
