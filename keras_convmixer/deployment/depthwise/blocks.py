"""Build a depthwise convolution as matrix products of blocks of an image, which are faster in 8 bits.

A convolution on one row of one channel is a product with a banded matrix, whose columns repeat the taps. With taps
2, 3, 4, a row of 4 pixels and a zero at each end (`before` is 1), output i is
2 * pixel[i - 1] + 3 * pixel[i] + 4 * pixel[i + 1]:

>>> kernel = np.array([2, 3, 4]).reshape(1, 3, 1)  # [height, width, channels]
>>> matrix = banded(kernel, outputs=(1, 4), pixels=(1, 4), before=1)[0, :, 0, :, 0]
>>> matrix.astype(int)  # a row for each pixel, a column for each output
array([[3, 2, 0, 0],
       [4, 3, 2, 0],
       [0, 4, 3, 2],
       [0, 0, 4, 3]])
>>> np.array([1, 2, 3, 4]) @ matrix
array([11., 20., 29., 18.])
>>> np.correlate([0, 1, 2, 3, 4, 0], [2, 3, 4], "valid")
array([11, 20, 29, 18])

These are 16 multiplications instead of 12. But XNNPACK computes an 8-bit depthwise convolution tap by tap, and a matrix
product 64 multiplications at a time, so it is several times faster all the same.

As a Keras layer, all these products are one convolution in groups. If the numbers that one product needs are the
channels of a group, side by side in memory, then a group for each original channel has its own matrix. With 9x9 taps on
16x16x1024, where a block is a row of 16 outputs and needs 9 rows of 16 pixels:

    image                                   [16, 16, 1024]
    padded with 4 zeros above and below     [24, 16, 1024]
    a row of pixels as channels             [24,  1, 1024 * 16]
    convolution, 9x1, in 1024 groups        [16,  1, 1024 * 16]
    a row of outputs as positions           [16, 16, 1024]

Where that takes fewer multiplications, and on images wider than 32, blocks are smaller. With 9x9 taps on 56x56, 4x4
outputs need 12x12 pixels, which are 3x3 whole blocks of 4x4:

    image                                   [56, 56, channels]
    padded with 4 zeros on each side        [64, 64, channels]
    4x4 pixels as channels                  [16, 16, channels * 16]
    convolution, 3x3, in groups             [14, 14, channels * 16]
    4x4 outputs as positions                [56, 56, channels]
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from ..builder import CHANNELS_LAST, Builder, call_with_weights
from ..pending import Activate, PendingTensor
from .cover import microkernel
from .geometry import Window, ceil_div, round_up, window_of

LANES = 16
"""Outputs that XNNPACK's 8-bit matrix products compute at once, on x86 and, mostly, on Arm."""
WIDEST_ROW = 32
"""Widest image for which a whole row may be a block: a row's multiplications grow with the square of its width."""
MATRIX_SPEEDUP = 6
"""How many multiplications of an 8-bit matrix product are assumed to take as long as one of a depthwise convolution.
Measured on an x86 with VNNI: 11, as 216 and 20 are done in a nanosecond."""


@dataclass(frozen=True)
class Block:
    """`rows` x `columns` outputs, which one matrix product computes from `input_rows` x `input_columns` pixels.

    With `whole_row` it is one row of outputs, and the matrix leaves out taps beyond the ends of the row. Other blocks
    tile the image. Their pixels are a whole number of blocks, for which the image is padded with zeros.
    """

    rows: int
    columns: int
    input_rows: int
    input_columns: int
    count: int
    """Number of blocks in an image."""
    whole_row: bool = False

    @property
    def cost(self) -> int:
        """Number of multiplications for one channel of an image."""
        return self.input_rows * self.input_columns * round_up(self.rows * self.columns, LANES) * self.count


def best_block(taps: tuple[int, int], size: tuple[int, int], outputs: tuple[int, int]) -> Block | None:
    """Return the cheapest block for a kernel and an image; None if pieces of the kernel are faster.

    `taps`, `size` (in pixels) and `outputs` are (rows, columns). For 9x9 taps on 16x16 pixels it is a whole row: 16
    products of 9 x 16 pixels by 16 outputs, together 36,864 multiplications. Tap by tap there are 81 * 256 = 20,736,
    each MATRIX_SPEEDUP times as slow. On 56x56 pixels it is 4x4 outputs from 12x12 pixels:

    >>> best_block(taps=(9, 9), size=(16, 16), outputs=(16, 16))
    Block(rows=1, columns=16, input_rows=9, input_columns=16, count=16, whole_row=True)
    >>> best_block(taps=(9, 9), size=(56, 56), outputs=(56, 56))
    Block(rows=4, columns=4, input_rows=12, input_columns=12, count=196, whole_row=False)
    """
    candidates = []
    if outputs[1] <= WIDEST_ROW:
        candidates.append(Block(1, outputs[1], taps[0], size[1], outputs[0], whole_row=True))
    for rows in (1, 2, 4):
        block = rows, LANES // rows
        # n outputs in a row see n + taps - 1 pixels, here rounded up to whole blocks: the input is cut into these.
        pixels = [round_up(side + reach - 1, side) for side, reach in zip(block, taps, strict=True)]
        count = np.prod([ceil_div(length, side) for length, side in zip(outputs, block, strict=True)])
        candidates.append(Block(*block, *pixels, int(count)))
    best = min(candidates, key=lambda block: block.cost)
    return best if best.cost < MATRIX_SPEEDUP * np.prod(taps) * np.prod(outputs) else None


def banded(kernel: np.ndarray, outputs: tuple[int, int], pixels: tuple[int, int], before: int) -> np.ndarray:
    """Return the matrix that computes a block: for each output, each tap of the kernel at the pixel that it multiplies.

    Args:
        kernel: `[height, width, channels]`.
        outputs, pixels: (rows, columns) of a block's outputs, and of the pixels from which it is computed.
        before: number of taps of the first output that lie to the left of the first pixel, on zeros that are not in
            the image. Only columns have such taps: rows are padded before, see `BlockPlan._padded`.

    Returns:
        `[rows of pixels, columns of pixels, rows of outputs, columns of outputs, channels]`.
    """
    height, width, channels = kernel.shape
    matrix = np.zeros((*pixels, *outputs, channels))
    for row, column in np.ndindex(*outputs):
        # Tap t of this output lies on pixel column + t - before; those from `first` to before `last` are in the image.
        first, last = max(before - column, 0), min(width, pixels[1] + before - column)
        left = column + first - before
        matrix[row : row + height, left : left + last - first, row, column] = kernel[:, first:last]
    return matrix


class BlockPlan:
    """Plan to build a depthwise convolution of stride and dilation 1 as a grouped convolution on blocks.

    The input channels of a group are one original channel's pixels of a block; its output channels are that channel's
    outputs of a block. This takes a transposition before and one after. Measured with both, static int8, one thread:
    9x9 on 16x16x1024 0.45 ms, and 1.23 in pieces; 7x7 on 32x32x768 1.2 ms, and 2.6. Sums stay in 32 bits, where those
    of pieces are rounded to 8. The price is the size of the file: 9x9 taps on rows of 16 become 144 x 16 weights for
    each channel. In float32, blocks are slower than pieces.
    """

    adds_pieces = False

    def __init__(self, builder: Builder, layer: keras.layers.DepthwiseConv2D, source, block: Block, window: Window):
        self._builder, self._layer, self._source, self._block, self._window = builder, layer, source, block, window
        self._outputs = _outputs(window, source.shape[1:3])
        # (rows, columns) of the pixels of each channel that are at one position of the convolution's input.
        self._pixels = (1, source.shape[2]) if block.whole_row else (block.rows, block.columns)

    @classmethod
    def fitting(cls, builder: Builder, layer: keras.layers.DepthwiseConv2D, pending: PendingTensor) -> BlockPlan | None:
        """Return the plan for a layer on a tensor; None if blocks are slower, or the layer has no such form.

        It builds the layer that returns the tensor, as the shape must be known.
        """
        size = pending.materialize()[0].shape[1:3]
        if None in size or {*layer.strides, *layer.dilation_rate} != {1}:
            return None
        window = window_of(layer, size)
        if window is None:
            return None
        rows, columns = window.rows, window.columns
        if min(rows.before, rows.after, columns.before, columns.after) < 0:
            return None  # some pixels would have to be cropped
        taps = rows.taps, columns.taps
        block = None if microkernel(np.prod(taps)) else best_block(taps, size, _outputs(window, size))
        if block is None:
            return None
        return cls(builder, layer, builder.groups(pending, 1)[0], block, window)

    def build(self, kernel: np.ndarray, bias: np.ndarray, activate: Activate) -> list:
        """Build it with a kernel `[height, width, channels]` and a bias `[channels]`; return its tensor in a list.

        The activation follows the convolution at once, so that the two become one operator. Behind the joined rows of
        blocks a ReLU stays an operator of its own, which LiteRT's CPU engine does not take in int8: it was a third of
        the instructions of four layers of 768/32 on Arm.
        """
        block, channels = self._block, kernel.shape[-1]
        outputs = block.rows * block.columns
        convolution = self._builder.add(
            keras.layers.Conv2D,
            self._layer.name,
            filters=channels * outputs,
            kernel_size=(block.input_rows // self._pixels[0], block.input_columns // self._pixels[1]),
            groups=channels,
            activation=self._layer.activation,
            **CHANNELS_LAST,
        )
        blocks = self._into_blocks(self._padded())
        blocks = call_with_weights(convolution, blocks, [self._weights(kernel), np.repeat(bias, outputs)])
        (blocks,) = activate([blocks])
        return [self._cropped(self._from_blocks(blocks, channels))]

    def _weights(self, kernel):
        """Return the convolution's kernel `[rows of blocks, columns of blocks, pixels, channels * outputs]`."""
        block, (rows, columns) = self._block, self._pixels
        # A product sees high x wide positions of the convolution's input, each with rows x columns pixels.
        inputs, outputs = (block.input_rows, block.input_columns), (block.rows, block.columns)
        before = self._window.columns.before if block.whole_row else 0  # for other blocks, `_padded` adds the zeros
        matrix = banded(self._window.crop(kernel), outputs, inputs, before)
        high, wide, channels = inputs[0] // rows, inputs[1] // columns, kernel.shape[-1]
        matrix = matrix.reshape(high, rows, wide, columns, *outputs, channels)
        matrix = matrix.transpose(0, 2, 1, 3, 6, 4, 5)  # [high, wide, rows, columns, channels, *outputs]
        return matrix.reshape(high, wide, rows * columns, channels * np.prod(outputs))

    def _padded(self):
        """Pad with the zeros of the layer, and with further ones that complete the last blocks."""
        block, (height, width) = self._block, self._source.shape[1:3]

        def zeros(size, side, outputs, step, pixels):
            """Return the zeros before and after a side of `size` pixels."""
            needed = (ceil_div(outputs, step) - 1) * step + pixels  # from the first block's start to the last one's end
            return side.before, needed - size - side.before

        rows = zeros(height, self._window.rows, self._outputs[0], block.rows, block.input_rows)
        columns = zeros(width, self._window.columns, self._outputs[1], block.columns, block.input_columns)
        padding = (rows, (0, 0) if block.whole_row else columns)
        if not any(map(any, padding)):
            return self._source
        name = f"{self._layer.name}_pad"
        return self._builder.add(keras.layers.ZeroPadding2D, name, padding=padding, **CHANNELS_LAST)(self._source)

    def _cropped(self, tensor):
        """Crop the outputs of the last blocks that are beyond the image."""
        excess = tuple((0, have - wanted) for have, wanted in zip(tensor.shape[1:3], self._outputs, strict=True))
        if not any(map(any, excess)):
            return tensor
        name = f"{self._layer.name}_crop"
        return self._builder.add(keras.layers.Cropping2D, name, cropping=excess, **CHANNELS_LAST)(tensor)

    def _into_blocks(self, tensor):
        """Turn `[height, width, channels]` into `[high, wide, channels * pixels]`, a block at each position."""
        _, height, width, channels = tensor.shape
        rows, columns = self._pixels
        high, wide = height // rows, width // columns
        if rows == 1:
            tensor = self._reshaped(tensor, (high * wide, columns, channels))
        else:
            tensor = self._reshaped(tensor, (high, rows * width, channels))
            # A row: [high, width, channels] -> [high * wide, columns, channels]
            tensor = self._joined_rows(tensor, rows, (high * wide, columns, channels))
        tensor = self._swapped(tensor)  # [high * wide, rows * columns, channels] -> [high * wide, channels, ...]
        return self._reshaped(tensor, (high, wide, channels * rows * columns))

    def _from_blocks(self, tensor, channels):
        """Turn `[high, wide, channels * outputs]`, a block at each position, into `[height, width, channels]`."""
        _, high, wide, _ = tensor.shape
        rows, columns = self._block.rows, self._block.columns
        tensor = self._reshaped(tensor, (high * wide, channels, rows * columns))
        tensor = self._swapped(tensor)  # [high * wide, rows * columns, channels]
        if rows > 1:  # a row: [high * wide, columns, channels] -> [high, wide * columns, channels]
            tensor = self._joined_rows(tensor, rows, (high, wide * columns, channels))
        return self._reshaped(tensor, (high * rows, wide * columns, channels))

    def _joined_rows(self, tensor, count, shape):
        """Split the axis before the channels into `count` rows, reshape each to `shape`, and join them along that axis.

        `[n, count * length, channels]` becomes `[shape[0], count * shape[1], channels]`. One permutation would do, but
        of five axes with the batch, and LiteRT's GPU engine takes tensors of at most four.
        """
        rows = [self._reshaped(row, shape) for row in self._builder.split(tensor, count, axis=2)]
        return self._builder.add(keras.layers.Concatenate, f"{self._layer.name}_rows", axis=2)(rows)

    def _swapped(self, tensor):
        return self._builder.add(keras.layers.Permute, f"{self._layer.name}_swapped", dims=(1, 3, 2))(tensor)

    def _reshaped(self, tensor, shape):
        return self._builder.add(keras.layers.Reshape, f"{self._layer.name}_reshaped", target_shape=shape)(tensor)


def _outputs(window, size):
    """Return (rows, columns) of a convolution's outputs."""
    return window.rows.outputs(size[0]), window.columns.outputs(size[1])
