"""A depthwise convolution as LiteRT's CPU engine runs it fast: in groups of channels, in pieces of its kernel."""

import keras
import numpy as np

from .builder import Builder
from .cover import Side, cover, microkernel

GROUP_CHANNELS = 128
"""Channels of a group at most: 25 taps of weights and of pixels, float32, then stay in a 32 kB first-level cache."""
SMALL_KERNEL = 9
"""Kernels of so many taps stay in the cache without groups."""


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
    if np.prod(layer.kernel_size) <= SMALL_KERNEL:
        return 1
    return next(count for count in range(1, channels + 1) if channels % count == 0 and channels // count <= GROUP_CHANNELS)


def build_depthwise(builder: Builder, layer, sources: list, kernel: np.ndarray, bias: np.ndarray) -> list:
    """Build a depthwise convolution of kernel `[height, width, channels]` and bias on groups of channels.

    For "litert" in pieces that XNNPACK has a microkernel for, unless the padding depends on an unknown image size.
    """
    sides = _sides(layer, sources[0].shape[1:3]) if builder.target == "litert" else None
    built, start = [], 0
    for source in sources:
        channels = slice(start, start + source.shape[-1])
        start = channels.stop
        built.append(_build_group(builder, layer, source, kernel[..., channels], bias[channels], sides))
    return built


def _build_group(builder, layer, source, kernel, bias, sides):
    if sides is None or (microkernel(kernel.shape[0] * kernel.shape[1]) and not any(first for first, _ in sides)):
        return builder.linear(layer, source, [kernel[..., None], bias], layer.name)
    (first_row, rows), (first_column, columns) = sides
    pieces = cover(rows, columns)
    if len(pieces) > 1 and None in source.shape[1:3]:
        # A crop could be larger than an image of unknown size; of one that all zeros were added to it is not.
        amounts = [(side.before, side.after) for side in (rows, columns)]
        if any(map(any, amounts)):
            source = builder.add(keras.layers.ZeroPadding2D, f"{layer.name}_pad", padding=amounts)(source)
        rows, columns = (Side(side.taps, 0, 0, side.dilation) for side in (rows, columns))
    terms = []
    for piece in pieces:
        taps = kernel[
            first_row + piece.top : first_row + piece.bottom, first_column + piece.left : first_column + piece.right
        ]
        padding = (rows.padding(piece.top, piece.bottom), columns.padding(piece.left, piece.right))
        terms.append(
            builder.linear(
                layer,
                _padded(builder, source, padding, layer.name),
                [taps[..., None], bias] if not terms else [taps[..., None]],
                f"{layer.name}_piece",
                kernel_size=taps.shape[:2],
                padding="valid",
                activation=None,
            )
        )
    total = terms[0]
    for term in terms[1:]:
        total = builder.add(keras.layers.Add, f"{layer.name}_sum")([total, term])
    if layer.activation is not keras.activations.linear:
        total = builder.add(keras.layers.Activation, f"{layer.name}_activation", activation=layer.activation)(total)
    return total


def _padded(builder, tensor, padding, name):
    crops = tuple(tuple(max(-amount, 0) for amount in side) for side in padding)
    zeros = tuple(tuple(max(amount, 0) for amount in side) for side in padding)
    if any(map(any, crops)):
        tensor = builder.add(keras.layers.Cropping2D, f"{name}_crop", cropping=crops)(tensor)
    if any(map(any, zeros)):
        tensor = builder.add(keras.layers.ZeroPadding2D, f"{name}_pad", padding=zeros)(tensor)
    return tensor


def _sides(layer, image):
    """Return for rows and columns the first tap that ever sees a pixel, and the side of those that do.

    None where the zeros that "same" pads depend on an image size that is not known.
    """
    sides = []
    for taps, size, stride, dilation in zip(
        layer.kernel_size, image, layer.strides, layer.dilation_rate, strict=True
    ):
        reach = (taps - 1) * dilation
        if layer.padding == "valid":
            sides.append((0, Side(taps, 0, 0, dilation)))
        elif size is None:
            if stride > 1:
                return None
            sides.append((0, Side(taps, reach // 2, reach - reach // 2, dilation)))
        else:
            total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
            before, after = total // 2, total - total // 2
            # Of a large kernel on a small image, the outermost taps see zeros only.
            first = max(0, -(-(before - size + 1) // dilation))
            last = max(0, -(-(after - size + 1) // dilation))
            side = Side(taps - first - last, before - first * dilation, after - last * dilation, dilation)
            sides.append((first, side))
    return sides
