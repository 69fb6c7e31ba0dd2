"""Build a depthwise convolution as LiteRT's CPU engine runs it fast: in groups of channels and pieces of its kernel.

cover.py chooses the pieces and explains them.
"""

import keras
import numpy as np

from ..builder import CHANNELS_LAST, Builder
from ..pending import Activate
from .cover import Piece, cover
from .geometry import Side, window_of

GROUP_CHANNELS = 128
"""Most channels of a group: 25 taps of weights and of pixels in float32, 25.6 kB, fit a first-level cache of 32 kB."""
LEAST_CHANNELS = 32
"""Fewest channels of a group. If no division into equal groups has as many, there is one group."""
CACHE = 32 * 1024
"""Bytes of a first-level cache. For a kernel whose weights fit, groups gain less than splitting and joining costs."""


def channel_groups(layer: keras.layers.DepthwiseConv2D, channels: int) -> int:
    """Return the number of equal groups into which a depthwise convolution's channels are split, 1 for no split.

    XNNPACK computes all channels of a position before it goes to the next. With 1024 channels, a position needs 25 taps
    of weights and as many pixels: 2 * 25 * 1024 * 4 bytes = 200 kB, which only the second-level cache holds. Measured
    with one thread, 5x5 taps on 16x16x1024: 0.78 ms whole, 0.31 in groups of 128; on 32x32x768: 1.93 and 1.26.
    Splitting and joining cost two copies. `python benchmarks/cover.py` measures all this.
    """
    if 4 * np.prod(layer.kernel_size) * channels <= CACHE:  # 4 bytes a weight
        return 1
    counts = (count for count in range(1, channels // LEAST_CHANNELS + 1) if channels % count == 0)
    return next((count for count in counts if channels // count <= GROUP_CHANNELS), 1)


class DepthwisePlan:
    """Plan to build a depthwise convolution as one layer for each group of channels or, for XNNPACK, each piece too.

    The kernel stays whole if its padding depends on an unknown image size.
    """

    def __init__(self, builder: Builder, layer: keras.layers.DepthwiseConv2D, sources: list):
        self._builder, self._layer, self._sources = builder, layer, sources
        self._pieces: tuple[Piece, ...] = ()
        # The taps that see a pixel; the pieces cover only these.
        self._window = window_of(layer, sources[0].shape[1:3]) if builder.for_xnnpack else None
        if self._window is not None:
            rows, columns = self._window.rows, self._window.columns
            self._pieces = cover(rows, columns)
            if len(self._pieces) == 1 and (rows.taps, columns.taps) == tuple(layer.kernel_size):
                self._pieces = ()  # the layer as it is

    @property
    def adds_pieces(self) -> bool:
        """Whether partial sums are added up."""
        return len(self._pieces) > 1

    def build(self, kernel: np.ndarray, bias: np.ndarray, activate: Activate) -> list:
        """Build it with a kernel `[height, width, channels]` and a bias; return a tensor for each group."""
        built, start = [], 0
        for source in self._sources:  # [batch, height, width, channels of the group]
            channels = slice(start, start + source.shape[-1])
            start = channels.stop
            if self._pieces:
                built.append(self._sum(source, kernel[..., channels], bias[channels]))
            else:
                weights = [kernel[..., channels, None], bias[channels]]
                built.append(self._builder.linear(self._layer, source, weights, self._layer.name))
        return activate(built)

    def _sum(self, source, kernel, bias):
        """Return the sum of a group's convolutions with the pieces, with the layer's activation."""
        name, activation = self._layer.name, self._layer.activation
        source, rows, columns = self._padded_if_size_is_unknown(source)
        kernel = self._window.crop(kernel)
        total = None
        for piece in self._pieces:
            taps = kernel[piece.top : piece.bottom, piece.left : piece.right]
            term = self._builder.linear(
                self._layer,
                self._padded(source, rows.padding(piece.top, piece.bottom), columns.padding(piece.left, piece.right)),
                [taps[..., None], bias] if total is None else [taps[..., None]],  # the bias is added once
                f"{name}_piece",
                kernel_size=taps.shape[:2],
                padding="valid",
                activation=None,
            )
            total = term if total is None else self._builder.add(keras.layers.Add, f"{name}_sum")([total, term])
        if activation is not keras.activations.linear:
            total = self._builder.add(keras.layers.Activation, f"{name}_activation", activation=activation)(total)
        return total

    def _padded_if_size_is_unknown(self, source):
        """Pad an image of unknown size with all zeros at once, as a piece could crop more pixels than the image has.

        Return the image, and the rows and columns with the padding that is left to do.
        """
        rows, columns = self._window.rows, self._window.columns
        if not self.adds_pieces or None not in source.shape[1:3]:
            return source, rows, columns
        source = self._padded(source, (rows.before, rows.after), (columns.before, columns.after))
        return source, *(Side(side.taps, 0, 0, side.dilation) for side in (rows, columns))

    def _padded(self, tensor, *padding):
        """Pad with (before, after) zeros along rows and columns; a negative number crops."""
        crops = tuple(tuple(max(-amount, 0) for amount in side) for side in padding)
        zeros = tuple(tuple(max(amount, 0) for amount in side) for side in padding)
        name = self._layer.name
        if any(map(any, crops)):
            crop = self._builder.add(keras.layers.Cropping2D, f"{name}_crop", cropping=crops, **CHANNELS_LAST)
            tensor = crop(tensor)
        if any(map(any, zeros)):
            pad = self._builder.add(keras.layers.ZeroPadding2D, f"{name}_pad", padding=zeros, **CHANNELS_LAST)
            tensor = pad(tensor)
        return tensor
