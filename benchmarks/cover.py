"""Measure what the planner of depthwise pieces goes by: `python benchmarks/cover.py [--side 16] [--channels 128]`.

Prints, for float32 on one thread, in taps of a 25-tap microkernel's time: kernels by their shape, a sum, a crop; then
layers of the planner's cover beside what was left out.
"""

from collections.abc import Callable
from unittest import mock

import keras
import tyro
from on_litert import artifacts
from on_litert.operators_alone import time_alone

import keras_convmixer as kc
from keras_convmixer.deployment.depthwise import pieces as depthwise
from keras_convmixer.deployment.depthwise.cover import Piece
from keras_convmixer.environment.console import print_table, silence_native_logs
from keras_convmixer.export.tflite import conversion

L = keras.layers
LENGTH = 16
"""Layers in a row, so that an interpreter's own costs do not count."""
KERNELS = ((1, 3), (2, 2), (3, 3), (1, 9), (9, 1), (5, 5), (3, 8), (8, 3), (4, 6), (6, 4), (1, 24))


def time_model(model: keras.Model) -> float:
    """Return the milliseconds of a model as a float32 file, without the two ADDs that export puts behind the input."""
    with mock.patch.object(conversion, "take_batches"):  # they are not of the layers that are compared
        return time_alone(artifacts.convert(model))


def chain(side: int, channels: int, layer: Callable) -> float:
    """Return the milliseconds of one of 16 layers in a row; `layer(tensor)` adds one."""
    x = inputs = keras.Input((side, side, channels))
    for _ in range(LENGTH):
        x = layer(x)
    return time_model(keras.Model(inputs, x)) / LENGTH


def shared_padding(x, size: int, pieces: tuple[Piece, ...]):
    """Build pieces that are cropped from one padded tensor."""
    before, after = (size - 1) // 2, size // 2
    padded = L.ZeroPadding2D((before, after))(x)
    terms = []
    for piece in pieces:
        crops = ((piece.top, size - piece.bottom), (piece.left, size - piece.right))
        kernel = (piece.bottom - piece.top, piece.right - piece.left)
        terms.append(L.DepthwiseConv2D(kernel)(L.Cropping2D(crops)(padded)))
    return sum(terms[1:], terms[0])


def interleaved(x, size: int):
    """Build four pieces of every second tap, all centred."""
    counts = (len(range(0, size, 2)), len(range(1, size, 2)))
    kernels = [(rows, columns) for rows in counts for columns in counts]
    terms = [L.DepthwiseConv2D(kernel, padding="same", dilation_rate=2)(x) for kernel in kernels]
    return sum(terms[1:], terms[0])


def deployed(side: int, channels: int, size: int, pieces=None, groups: int = depthwise.GROUP_CHANNELS) -> float:
    """Return the milliseconds of a depthwise layer as deploy() builds it, or with another cover or size of groups."""
    inputs = keras.Input((side, side, channels))
    model = keras.Model(inputs, L.DepthwiseConv2D(size, padding="same")(inputs))
    cover = depthwise.cover if pieces is None else lambda rows, columns: pieces
    with mock.patch.object(depthwise, "cover", cover), mock.patch.object(depthwise, "GROUP_CHANNELS", groups):
        return time_model(kc.deploy(model, verified=False))


def main(side: int = 16, channels: int = 128) -> None:
    """Print the costs on maps of `side` x `side` positions and `channels` channels."""
    silence_native_logs()

    def convolution(kernel):
        return lambda x: L.DepthwiseConv2D(kernel, padding="same")(x)

    unit = chain(side, channels, convolution((5, 5))) / 25
    small = chain(side, channels, convolution((1, 3)))
    costs = [(f"{rows}x{columns}", chain(side, channels, convolution((rows, columns)))) for rows, columns in KERNELS]
    add = chain(side, channels, lambda x: L.Add()([x, convolution((1, 3))(x)])) - small

    def crop(x):
        return L.DepthwiseConv2D((1, 3))(L.ZeroPadding2D(((0, 0), (0, 4)))(L.Cropping2D(((0, 0), (2, 0)))(x)))

    costs += [("sum", add), ("crop", chain(side, channels, crop) - small)]
    title = f"Each of {LENGTH} layers on {side}x{side}x{channels}"
    print_table(title, ("layer", "ms", "taps"), [(name, f"{ms:.4f}", f"{ms / unit:.1f}") for name, ms in costs])

    rows = []

    def as_chain(build, *arguments):
        return chain(side, channels, lambda x: build(x, *arguments))

    for size in (7, 9):
        same = depthwise.Side(size, (size - 1) // 2, size // 2)
        pieces = depthwise.cover(same, same)
        half = size // 2 + 1
        corners = tuple(Piece(*y, *x) for y in ((0, half), (half, size)) for x in ((0, half), (half, size)))
        rows += [
            (f"{size}x{size} as planned", deployed(side, channels, size)),
            (f"{size}x{size} as four corners", deployed(side, channels, size, corners)),
            (
                f"{size}x{size} from one padded tensor",
                as_chain(shared_padding, size, pieces),
            ),
            (f"{size}x{size} interleaved", as_chain(interleaved, size)),
        ]
    print_table("Layers", ("layer", "ms"), [(name, f"{ms:.4f}") for name, ms in rows])
    wide = [(str(groups), deployed(side, 1024, 9, groups=groups)) for groups in (64, 128, 256, 1024)]
    title = f"9x9 on {side}x{side}x1024 in groups of at most so many channels"
    print_table(title, ("channels", "ms"), [(name, f"{ms:.3f}") for name, ms in wide])


if __name__ == "__main__":
    tyro.cli(main)
