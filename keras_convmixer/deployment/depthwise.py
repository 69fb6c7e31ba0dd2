"""A depthwise convolution as LiteRT's CPU engine runs it fast: in groups of channels, in pieces of its kernel."""

import keras
import numpy as np

from .builder import Builder
from .cover import Piece, Side, cover

GROUP_CHANNELS = 128
"""Channels of a group at most: 25 taps of weights and of pixels, float32, then stay in a 32 kB first-level cache."""
LEAST_CHANNELS = 32
"""Channels of a group at least; where no equal groups are as large, there are none."""
CACHE = 32 * 1024
"""Bytes of a first-level cache; where a kernel's weights fit, groups gain less than splitting and joining cost."""


def pads(layer) -> bool:
    """Tell whether a convolution pads its input with zeros, which a shift of the input would have to spare."""
    return isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)) and (
        layer.padding == "same" and max(layer.kernel_size) > 1
    )


def channel_groups(layer, channels: int) -> int:
    """Return into how many groups of equal size a depthwise convolution's channels are split, 1 where not at all.

    XNNPACK runs through all channels of a position before it goes to the next: 25 taps of 1024 channels are 200 kB
    of weights and pixels for each position, from the second-level cache. Measured, one thread, 5x5 on
    16x16x1024: 0.78 ms whole, 0.31 in groups of 128; 32x32x768: 1.93 and 1.26. Splitting and joining are two copies.
    """
    if 4 * np.prod(layer.kernel_size) * channels <= CACHE:
        return 1
    counts = (count for count in range(1, channels // LEAST_CHANNELS + 1) if channels % count == 0)
    return next((count for count in counts if channels // count <= GROUP_CHANNELS), 1)


class DepthwisePlan:
    """How a depthwise convolution is built on groups of channels, before its weights are known.

    For LiteRT in pieces that XNNPACK has a microkernel for, unless the padding depends on an unknown image size.
    """

    def __init__(self, builder: Builder, layer: keras.layers.DepthwiseConv2D, sources: list):
        self._builder, self._layer, self._sources = builder, layer, sources
        self._cover: tuple[Piece, ...] = ()
        found = sides(layer, sources[0].shape[1:3]) if builder.for_litert else None
        if found is not None:
            (self._first_row, self._rows), (self._first_column, self._columns) = found
            self._cover = cover(self._rows, self._columns)
            if len(self._cover) == 1 and (self._rows.taps, self._columns.taps) == tuple(layer.kernel_size):
                self._cover = ()

    @property
    def pieces(self) -> bool:
        """Whether partial sums are added up."""
        return len(self._cover) > 1

    def build(self, kernel: np.ndarray, bias: np.ndarray) -> list:
        """Build it with a kernel `[height, width, channels]` and a bias; return a tensor for each group."""
        built, start = [], 0
        for source in self._sources:
            channels = slice(start, start + source.shape[-1])
            start = channels.stop
            if self._cover:
                built.append(self._sum(source, kernel[..., channels], bias[channels]))
            else:
                weights = [kernel[..., channels, None], bias[channels]]
                built.append(self._builder.linear(self._layer, source, weights, self._layer.name))
        return built

    def _sum(self, source, kernel, bias):
        name, activation = self._layer.name, self._layer.activation
        source, rows, columns = self._unknown_size_padded(source)
        total = None
        for piece in self._cover:
            taps = kernel[
                self._first_row + piece.top : self._first_row + piece.bottom,
                self._first_column + piece.left : self._first_column + piece.right,
            ]
            term = self._builder.linear(
                self._layer,
                self._padded(source, rows.padding(piece.top, piece.bottom), columns.padding(piece.left, piece.right)),
                [taps[..., None], bias] if total is None else [taps[..., None]],
                f"{name}_piece",
                kernel_size=taps.shape[:2],
                padding="valid",
                activation=None,
            )
            total = term if total is None else self._builder.add(keras.layers.Add, f"{name}_sum")([total, term])
        if activation is not keras.activations.linear:
            total = self._builder.add(keras.layers.Activation, f"{name}_activation", activation=activation)(total)
        return total

    def _unknown_size_padded(self, source):
        """Pad an image of unknown size with all zeros at once, as a piece's crop could be larger than the image."""
        rows, columns = self._rows, self._columns
        if not self.pieces or None not in source.shape[1:3]:
            return source, rows, columns
        source = self._padded(source, (rows.before, rows.after), (columns.before, columns.after))
        return source, *(Side(side.taps, 0, 0, side.dilation) for side in (rows, columns))

    def _padded(self, tensor, *padding):
        crops = tuple(tuple(max(-amount, 0) for amount in side) for side in padding)
        zeros = tuple(tuple(max(amount, 0) for amount in side) for side in padding)
        name = self._layer.name
        if any(map(any, crops)):
            tensor = self._builder.add(
                keras.layers.Cropping2D, f"{name}_crop", cropping=crops, data_format="channels_last"
            )(tensor)
        if any(map(any, zeros)):
            tensor = self._builder.add(
                keras.layers.ZeroPadding2D, f"{name}_pad", padding=zeros, data_format="channels_last"
            )(tensor)
        return tensor


def sides(layer, image):
    """Return for rows and columns the first tap that ever sees a pixel, and the side of those that do.

    None where the zeros that "same" pads depend on an image size that is not known, or where no tap sees a pixel.
    """
    found = []
    for taps, size, stride, dilation in zip(layer.kernel_size, image, layer.strides, layer.dilation_rate, strict=True):
        reach = (taps - 1) * dilation
        if layer.padding == "valid":
            found.append((0, Side(taps, 0, 0, dilation)))
        elif size is None:
            if stride > 1:
                return None
            found.append((0, Side(taps, reach // 2, reach - reach // 2, dilation)))
        else:
            farthest = (-(-size // stride) - 1) * stride
            total = max(farthest + reach + 1 - size, 0)
            before, after = total // 2, total - total // 2
            # Of a large kernel on a small image, the outermost taps see zeros only.
            first = max(0, -(-(before - farthest) // dilation))
            last = max(0, -(-(reach - before - size + 1) // dilation))
            if first + last >= taps:
                return None  # dilated past the whole image
            side = Side(taps - first - last, before - first * dilation, after - last * dilation, dilation)
            found.append((first, side))
    return found
