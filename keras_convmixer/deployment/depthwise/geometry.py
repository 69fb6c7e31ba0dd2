"""Compute how a kernel lies on an image: how many zeros are padded, and which taps ever see a pixel.

A tap is one position of a kernel. Rows and columns of a kernel are independent, so all is computed for one direction, a
`Side`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np


def ceil_div(dividend: int, divisor: int) -> int:
    """Divide integers and round up.

    >>> ceil_div(7, 2), ceil_div(-7, 2)
    (4, -3)
    """
    return -(-dividend // divisor)


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `number`."""
    return ceil_div(number, multiple) * multiple


@dataclass(frozen=True)
class Side:
    """The rows or the columns of a kernel: number of taps, and zeros padded before and after the image.

    A negative number of zeros is a number of pixels to crop, which no output depends on.
    """

    taps: int
    before: int
    after: int
    dilation: int = 1

    def padding(self, start: int, stop: int) -> tuple[int, int]:
        """Return the zeros before and after the image for the taps from `start` to before `stop` alone.

        The first 3 of 7 centered taps see pixels from 3 before an output to 1 before it. They never see the last pixel,
        which is cropped:

        >>> Side(taps=7, before=3, after=3).padding(0, 3)
        (3, -1)
        """
        return self.before - start * self.dilation, self.after - (self.taps - stop) * self.dilation

    def outputs(self, size: int) -> int:
        """Return the number of outputs of an image of `size` pixels, at stride 1."""
        return size + self.before + self.after - (self.taps - 1) * self.dilation


class Window(NamedTuple):
    """The taps of a kernel that see a pixel for at least one output: `rows` x `columns`, from (`top`, `left`) on."""

    top: int
    left: int
    rows: Side
    columns: Side

    def crop(self, kernel: np.ndarray) -> np.ndarray:
        """Cut these taps out of a kernel `[height, width, ...]`."""
        return kernel[self.top :, self.left :][: self.rows.taps, : self.columns.taps]


def pads(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer pads its input with zeros. A shift of its input would not be added to these."""
    return isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D) and (
        layer.padding == "same" and max(layer.kernel_size) > 1
    )


def window_of(layer: keras.layers.Layer, image: tuple[int | None, int | None]) -> Window | None:
    """Return the window of a convolution on an image of (height, width) pixels; an unknown side is None.

    None if "same" padding depends on an unknown side, or no tap ever sees a pixel.
    """
    found = []
    for taps, size, stride, dilation in zip(layer.kernel_size, image, layer.strides, layer.dilation_rate, strict=True):
        if layer.padding == "valid":
            found.append((0, Side(taps, 0, 0, dilation)))
        else:
            found.append(_same_side(taps, size, stride, dilation))
    if None in found:
        return None
    (top, rows), (left, columns) = found
    return Window(top, left, rows, columns)


def _same_side(taps, size, stride, dilation):
    """Return the first tap that ever sees a pixel under "same" padding, and the side of all that do.

    For 7 taps on 3 pixels, 3 zeros are padded on each side. Below, o is a padded zero, x a pixel, and digits are the
    taps that see them. Taps 0 and 6 see zeros only, so 5 taps are left, with 2 zeros on each side:

        image       o o o x x x o o o
        output 0    0 1 2 3 4 5 6
        output 1      0 1 2 3 4 5 6
        output 2        0 1 2 3 4 5 6

    >>> _same_side(taps=7, size=3, stride=1, dilation=1)
    (1, Side(taps=5, before=2, after=2, dilation=1))
    """
    reach = (taps - 1) * dilation  # from the first tap to the last, in pixels
    if size is None:
        if stride > 1:
            return None
        # At stride 1 the zeros do not depend on the size. TensorFlow pads an odd number with one more at the end.
        return 0, Side(taps, reach // 2, reach - reach // 2, dilation)
    farthest = (ceil_div(size, stride) - 1) * stride  # from the first output's window to the last one's, in pixels
    zeros = max(farthest + reach + 1 - size, 0)  # what the last window lacks
    before, after = zeros // 2, zeros - zeros // 2
    first = first_useful_tap(before, farthest, dilation)
    useless_at_the_end = first_useful_tap(after, farthest, dilation)  # the same, seen from the other end
    useful = taps - first - useless_at_the_end
    if useful <= 0:
        return None  # all taps lie beside the image, as a large dilation places them
    return first, Side(useful, before - first * dilation, after - useless_at_the_end * dilation, dilation)


def first_useful_tap(zeros: int, farthest: int, dilation: int) -> int:
    """Return the first tap that ever sees a pixel, if `zeros` are padded before the image.

    For the first output, tap t lies on pixel t * dilation - zeros; for the last one, `farthest` pixels further on. If
    that is still before pixel 0, the tap sees zeros only. So the first one that sees a pixel is the smallest t with
    t * dilation >= zeros - farthest.

    >>> first_useful_tap(zeros=3, farthest=2, dilation=1)
    1
    """
    return max(0, ceil_div(zeros - farthest, dilation))
