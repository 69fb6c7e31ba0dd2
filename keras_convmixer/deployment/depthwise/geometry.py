"""How a convolution's window lies on an image: which zeros are padded, and which taps of the kernel see pixels."""

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
    """One direction of a convolution: how many taps, and how far zeros are padded before and after the image.

    A negative number of zeros is a number of pixels to crop, as no output depends on them.
    """

    taps: int
    before: int
    after: int
    dilation: int = 1

    def padding(self, start: int, stop: int) -> tuple[int, int]:
        """Return the zeros before and after the image that the taps `start` to `stop` need by themselves.

        The first 3 of 7 centered taps reach from 3 pixels before an output to 1 before it, so the last pixel is
        cropped:

        >>> Side(taps=7, before=3, after=3).padding(0, 3)
        (3, -1)
        """
        return self.before - start * self.dilation, self.after - (self.taps - stop) * self.dilation

    def outputs(self, size: int) -> int:
        """Return how many outputs a side of `size` pixels has, at stride 1."""
        return size + self.before + self.after - (self.taps - 1) * self.dilation


class Window(NamedTuple):
    """The taps of a kernel that see a pixel at least once: `rows` x `columns` of them, from (`top`, `left`) on."""

    top: int
    left: int
    rows: Side
    columns: Side

    def crop(self, kernel: np.ndarray) -> np.ndarray:
        """Return these taps of a kernel `[height, width, ...]`."""
        return kernel[self.top :, self.left :][: self.rows.taps, : self.columns.taps]


def pads(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer pads its input with zeros, to which a shift of the input would not be added."""
    return isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D) and (
        layer.padding == "same" and max(layer.kernel_size) > 1
    )


def window_of(layer: keras.layers.Layer, image: tuple[int | None, int | None]) -> Window | None:
    """Return the window of a convolution on an image of (height, width) pixels, where a side may be unknown.

    None where the zeros that "same" pads depend on an unknown side, or where no tap sees a pixel.
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
    """Return the first tap that sees a pixel, and the side of those that do; of "same" padding.

    7 taps on 3 pixels: 3 zeros are padded on each side. The first tap sees the zeros only, and so does the last one.

    >>> _same_side(taps=7, size=3, stride=1, dilation=1)
    (1, Side(taps=5, before=2, after=2, dilation=1))
    """
    reach = (taps - 1) * dilation  # from the first tap to the last, in pixels
    if size is None:
        if stride > 1:
            return None
        return 0, Side(taps, reach // 2, reach - reach // 2, dilation)
    farthest = (ceil_div(size, stride) - 1) * stride  # from the first output's window to the last one's, in pixels
    zeros = max(farthest + reach + 1 - size, 0)
    before, after = zeros // 2, zeros - zeros // 2
    first = first_useful_tap(before, farthest, dilation)
    useless_at_the_end = first_useful_tap(after, farthest, dilation)  # the same, seen from the other end
    useful = taps - first - useless_at_the_end
    if useful <= 0:
        return None  # dilated past the whole image
    return first, Side(useful, before - first * dilation, after - useless_at_the_end * dilation, dilation)


def first_useful_tap(zeros: int, farthest: int, dilation: int) -> int:
    """Return the first tap that sees a pixel, where so many zeros are padded at its end.

    Tap t lies at pixel t * dilation - zeros for the first output, and `farthest` pixels on for the last one. It sees
    zeros only if that is still before pixel 0: the first one that is not has t * dilation >= zeros - farthest.

    >>> first_useful_tap(zeros=3, farthest=2, dilation=1)
    1
    """
    return max(0, ceil_div(zeros - farthest, dilation))
