"""Convolutions and dense layers as they are built: unchanged, or a patch embedding by rows of its patches."""

import keras
import numpy as np

from .builder import Builder
from .pending import Activate

FEW_CHANNELS = 8
"""Most channels of an image for which a patch embedding works by rows."""


class ConvolutionPlan:
    """Plan to build a convolution or dense layer unchanged, with new weights."""

    adds_pieces = False

    def __init__(self, builder: Builder, layer: keras.layers.Layer, source):
        self._builder, self._layer, self._source = builder, layer, source

    def build(self, kernel: np.ndarray, bias: np.ndarray, activate: Activate) -> list:
        """Build it with a kernel and a bias of the original's shapes; return its tensor in a list."""
        return activate([self._builder.linear(self._layer, self._source, [kernel, bias], self._layer.name)])


class PatchEmbeddingPlan(ConvolutionPlan):
    """Plan to build a patch embedding with each row of a patch as channels.

    A convolution of 14x14 patches with 3 channels becomes one of 14x1 windows with 14 * 3 channels, on the image
    reshaped from [224, 224, 3] to [224, 16, 42]. The reshape moves no numbers in memory. XNNPACK fills a vector with
    the channels of one position, and 3 leave most of it empty. Measured with one thread, to 1024 channels: in int8
    1.9 ms before and 0.8 after, in float32 3.4 and 3.0.
    """

    @staticmethod
    def fits(layer: keras.layers.Layer, source) -> bool:
        """Tell whether a convolution's windows lie side by side and fill the width of an image of few channels."""
        return (
            type(layer) is keras.layers.Conv2D
            and layer.kernel_size[1] == layer.strides[1] > 1
            and layer.padding == "valid"
            and layer.groups == 1
            and layer.dilation_rate == (1, 1)
            and source.shape[-1] <= FEW_CHANNELS
            and None not in source.shape[1:3]
            and source.shape[2] % layer.kernel_size[1] == 0
        )

    def build(self, kernel: np.ndarray, bias: np.ndarray, activate: Activate) -> list:
        """Build it with a kernel and a bias of the original's shapes; return its tensor in a list."""
        layer, (rows, columns, channels, _) = self._layer, kernel.shape
        _, height, width, _ = self._source.shape
        shape = (height, width // columns, columns * channels)
        reshape = self._builder.add(keras.layers.Reshape, f"{layer.name}_rows", target_shape=shape)
        kernel = kernel.reshape(rows, 1, columns * channels, -1)
        changes = {"kernel_size": (rows, 1), "strides": (layer.strides[0], 1)}
        return activate([self._builder.linear(layer, reshape(self._source), [kernel, bias], layer.name, **changes)])
