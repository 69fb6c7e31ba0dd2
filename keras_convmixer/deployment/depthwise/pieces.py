"""A depthwise convolution as LiteRT's CPU engine runs it fast: in groups of channels, in pieces of its kernel."""

import keras
import numpy as np

from ..builder import CHANNELS_LAST, Builder
from .cover import Piece, cover
from .geometry import Side, window_of

GROUP_CHANNELS = 128
"""Most channels of a group: 25 taps of weights and of pixels, float32, then stay in a 32 kB first-level cache."""
LEAST_CHANNELS = 32
"""Fewest channels of a group; where no equal groups are as large, the channels stay together."""
CACHE = 32 * 1024
"""Bytes of a first-level cache; where a kernel's weights fit, groups gain less than splitting and joining cost."""


def channel_groups(layer: keras.layers.DepthwiseConv2D, channels: int) -> int:
    """Return into how many groups of equal size a depthwise convolution's channels are split, 1 for no split.

    XNNPACK runs through all channels of a position before it goes to the next: 25 taps of 1024 channels are 200 kB
    of weights and pixels for each position, from the second-level cache. Measured, one thread, 5x5 on
    16x16x1024: 0.78 ms whole, 0.31 in groups of 128; 32x32x768: 1.93 and 1.26. Splitting and joining are two copies.
    `python benchmarks/cover.py` measures it.
    """
    if 4 * np.prod(layer.kernel_size) * channels <= CACHE:  # 4 bytes a weight
        return 1
    counts = (count for count in range(1, channels // LEAST_CHANNELS + 1) if channels % count == 0)
    return next((count for count in counts if channels // count <= GROUP_CHANNELS), 1)


class DepthwisePlan:
    """A depthwise convolution on groups of channels, one layer for each group or, for LiteRT, one for each piece.

    The pieces are those of `cover.cover`. The kernel stays whole if its padding depends on an unknown image size.
    """

    def __init__(self, builder: Builder, layer: keras.layers.DepthwiseConv2D, sources: list):
        self._builder, self._layer, self._sources = builder, layer, sources
        self._pieces: tuple[Piece, ...] = ()
        self._window = window_of(layer, sources[0].shape[1:3]) if builder.for_litert else None
        if self._window is not None:
            rows, columns = self._window.rows, self._window.columns
            self._pieces = cover(rows, columns)
            if len(self._pieces) == 1 and (rows.taps, columns.taps) == tuple(layer.kernel_size):
                self._pieces = ()  # the layer as it is

    @property
    def adds_pieces(self) -> bool:
        """Whether partial sums are added up."""
        return len(self._pieces) > 1

    def build(self, kernel: np.ndarray, bias: np.ndarray) -> list:
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
        return built

    def _sum(self, source, kernel, bias):
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
        """Pad an image of unknown size with all zeros at once, as a piece's crop could be larger than the image."""
        rows, columns = self._window.rows, self._window.columns
        if not self.adds_pieces or None not in source.shape[1:3]:
            return source, rows, columns
        source = self._padded(source, (rows.before, rows.after), (columns.before, columns.after))
        return source, *(Side(side.taps, 0, 0, side.dilation) for side in (rows, columns))

    def _padded(self, tensor, *padding):
        """Pad with zeros (before, after) by rows and by columns; where a number is negative, crop."""
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
