"""A depthwise convolution as 8-bit matrix products: of blocks of an image with blocks of repeated taps."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from .builder import CHANNELS_LAST, Builder, call_with_weights
from .cover import microkernel
from .depthwise import sides
from .signals import Signal

LANES = 16
"""Outputs of a matrix product that XNNPACK's 8-bit microkernels compute at once, on x86 and, mostly, on Arm."""
WIDEST_ROW = 32
SPEED = 6
"""How many multiplications of an 8-bit matrix product take as long as one of a depthwise microkernel, at least:
11 on an x86 with VNNI (216 against 20 a nanosecond)."""


@dataclass(frozen=True)
class Block:
    """Outputs `rows` x `columns` that one matrix product computes from `input_rows` x `input_columns` pixels.

    `whole_row`: of one row of the image, whose taps beyond its ends are left out; else blocks tile the image, and
    pixels are whole blocks too, zeros among them.
    """

    rows: int
    columns: int
    input_rows: int
    input_columns: int
    count: int
    """How many there are in an image."""
    whole_row: bool = False

    @property
    def cost(self) -> int:
        """Multiplications for one channel of an image."""
        lanes = -(-self.rows * self.columns // LANES) * LANES
        return self.input_rows * self.input_columns * lanes * self.count


def best_block(taps: tuple[int, int], size: tuple[int, int], outputs: tuple[int, int]) -> Block | None:
    """Return the block of least cost for a kernel and an image; None where pieces of the kernel are faster."""
    candidates = []
    if outputs[1] <= WIDEST_ROW:
        candidates.append(Block(1, outputs[1], taps[0], size[1], outputs[0], whole_row=True))
    for rows in (1, 2, 4, 8, 16):
        block = rows, LANES // rows
        pixels = [-(-(side + reach - 1) // side) * side for side, reach in zip(block, taps, strict=True)]
        count = np.prod([-(-length // side) for length, side in zip(outputs, block, strict=True)])
        candidates.append(Block(*block, *pixels, int(count)))
    best = min(candidates, key=lambda block: block.cost)
    return best if best.cost < SPEED * np.prod(taps) * np.prod(outputs) else None


class BlockPlan:
    """How a depthwise convolution is built on blocks, before its weights are known.

    XNNPACK computes an 8-bit depthwise convolution tap by tap, its matrix products 64 multiplications at a time. A
    convolution on the rows of a channel is the product with a banded matrix, each tap in it as often as a row has
    outputs: more multiplications, and several times faster still. As a layer it is a convolution with a group for each
    channel, on images whose channels are a channel's pixels of a block, which takes a transposition before and
    after. Measured with that, static int8, one thread, ms: 9x9 on 16x16x1024 0.45 against 1.23 in pieces, 7x7 on
    32x32x768 1.2 against 2.6. Sums stay in 32 bits, where those of pieces are rounded. The price is the file:
    144 x 16 weights for 9x9 on rows of 16. In float32 it is slower than pieces.
    """

    pieces = False

    def __init__(self, builder: Builder, layer: keras.layers.DepthwiseConv2D, source, block: Block, found: list):
        self._builder, self._layer, self._source, self._block = builder, layer, source, block
        (self._first_row, self._rows), (self._first_column, self._columns) = found

    @classmethod
    def fitting(cls, builder: Builder, layer: keras.layers.DepthwiseConv2D, signal: Signal) -> BlockPlan | None:
        """Return the plan for a layer on a signal; None where blocks are slower, or do not fit."""
        size = signal.tensors[0].shape[1:3]
        if None in size or {*layer.strides, *layer.dilation_rate} != {1}:
            return None
        found = sides(layer, size)
        if found is None or min(amount for _, side in found for amount in (side.before, side.after)) < 0:
            return None  # no pixels, or some that no output depends on
        taps = tuple(side.taps for _, side in found)
        block = None if microkernel(np.prod(taps)) else best_block(taps, size, _outputs(size, found))
        return block and cls(builder, layer, builder.groups(signal, 1)[0], block, found)

    def build(self, kernel: np.ndarray, bias: np.ndarray) -> list:
        """Build it with a kernel `[height, width, channels]` and a bias; return its tensor in a list."""
        block, name, channels = self._block, self._layer.name, kernel.shape[-1]
        kernel = kernel[self._first_row :, self._first_column :][: self._rows.taps, : self._columns.taps]
        size = block.rows, self._source.shape[2] if block.whole_row else block.columns
        convolution = self._builder.add(
            keras.layers.Conv2D,
            name,
            filters=channels * block.rows * block.columns,
            kernel_size=(
                block.input_rows // block.rows,
                1 if block.whole_row else block.input_columns // block.columns,
            ),
            groups=channels,
            activation=self._layer.activation,
            **CHANNELS_LAST,
        )
        blocks = self._into_blocks(self._padded(), size)
        repeats = block.rows * block.columns
        blocks = call_with_weights(convolution, blocks, [self._repeated(kernel, size), np.repeat(bias, repeats)])
        result = self._from_blocks(blocks, channels)
        outputs = self._outputs()
        excess = tuple((0, have - wanted) for have, wanted in zip(result.shape[1:3], outputs, strict=True))
        if any(map(any, excess)):
            crop = self._builder.add(keras.layers.Cropping2D, f"{name}_crop", cropping=excess, **CHANNELS_LAST)
            result = crop(result)
        return [result]

    def _outputs(self):
        return _outputs(self._source.shape[1:3], [(None, self._rows), (None, self._columns)])

    def _padded(self):
        """Pad with the layer's zeros, and with more up to whole blocks."""
        block, padding = self._block, []
        for length, side, outputs, step, pixels in zip(
            self._source.shape[1:3],
            (self._rows, self._columns),
            self._outputs(),
            (block.rows, block.columns),
            (block.input_rows, block.input_columns),
            strict=True,
        ):
            needed = (-(-outputs // step) - 1) * step + pixels
            padding.append((side.before, needed - length - side.before))
        if block.whole_row:
            padding[1] = (0, 0)
        if not any(map(any, padding)):
            return self._source
        name, padding = f"{self._layer.name}_pad", tuple(padding)
        pad = self._builder.add(keras.layers.ZeroPadding2D, name, padding=padding, **CHANNELS_LAST)
        return pad(self._source)

    def _into_blocks(self, tensor, size):
        """Turn `[height, width, channels]` into `[blocks, blocks, channels x block]`."""
        _, height, width, channels = tensor.shape
        (rows, columns), name = size, f"{self._layer.name}_blocks"
        if rows == 1:
            split, order = (height, width // columns, columns, channels), (1, 2, 4, 3)
        else:
            split, order = (height // rows, rows, width // columns, columns, channels), (1, 3, 5, 2, 4)
        joined = (height // rows, width // columns, channels * rows * columns)
        return self._moved(tensor, split, order, joined, name)

    def _from_blocks(self, tensor, channels):
        """Turn `[blocks, blocks, channels x block]` into `[height, width, channels]`."""
        _, height, width, _ = tensor.shape
        rows, columns, name = self._block.rows, self._block.columns, f"{self._layer.name}_image"
        if rows == 1:
            split, order = (height, width, channels, columns), (1, 2, 4, 3)
        else:
            split, order = (height, width, channels, rows, columns), (1, 4, 2, 5, 3)
        return self._moved(tensor, split, order, (height * rows, width * columns, channels), name)

    def _moved(self, tensor, split, order, joined, name):
        for kind, value in (("Reshape", split), ("Permute", order), ("Reshape", joined)):
            argument = {"dims" if kind == "Permute" else "target_shape": value}
            tensor = self._builder.add(getattr(keras.layers, kind), name, **argument)(tensor)
        return tensor

    def _repeated(self, kernel, size):
        """Return the convolution's kernel: each tap at the pixel that it multiplies, for each output of a block."""
        block = self._block
        taps_high, taps_wide, channels = kernel.shape
        pixels = np.zeros((block.input_rows, block.input_columns, block.rows, block.columns, channels))
        before = self._columns.before if block.whole_row else 0
        for row in range(block.rows):
            for column in range(block.columns):
                first = max(before - column, 0)
                last = min(taps_wide, block.input_columns + before - column)
                start = column + first - before
                pixels[row : row + taps_high, start : start + last - first, row, column] = kernel[:, first:last]
        high, wide = block.input_rows // size[0], block.input_columns // size[1]
        pixels = pixels.reshape(high, size[0], wide, size[1], block.rows, block.columns, channels)
        pixels = pixels.transpose(0, 2, 1, 3, 6, 4, 5)
        return pixels.reshape(high, wide, size[0] * size[1], channels * block.rows * block.columns)


def _outputs(size, found):
    """Return how many rows and columns a convolution returns, of stride and dilation 1."""
    return tuple(
        length + side.before + side.after - side.taps + 1 for length, (_, side) in zip(size, found, strict=True)
    )
