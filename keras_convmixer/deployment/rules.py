"""Rewrite rules by layer type. Layers without a rule are copied unchanged.

A rule is a function of (builder, layer, inputs). It returns the layer's output as a PendingTensor, or None if the
rewrite would not be exact. pending.py has the mathematics of folding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ..environment.keras_internals import LayerScale, StochasticDepth, is_operation
from .builder import Builder
from .convolution import ConvolutionPlan, PatchEmbeddingPlan
from .depthwise.blocks import BlockPlan
from .depthwise.geometry import pads
from .depthwise.pieces import DepthwisePlan, channel_groups
from .pending import Affine, FoldableLayer, PendingTensor, Plan

Rule = Callable[[Builder, Any, list[PendingTensor]], PendingTensor | None]

DROPPED = tuple(
    getattr(keras.layers, name)
    for name in (
        *("Identity", "ActivityRegularization", "Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout"),
        *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AugMix", "CutMix", "MixUp", "RandAugment"),
        *("RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast"),
        *("RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale"),
        *("RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation"),
        *("RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom"),
    )
)
"""Layers that return their input at inference. RandomCrop is not one of them: at inference it crops the center."""
ELEMENTWISE = {
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "hard_sigmoid"),
    *("hard_silu", "tanh", "softplus", "softsign"),
}
"""Names of the activation functions that change each number by itself."""
ELEMENTWISE_OPERATIONS = {
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "Mish", "Sigmoid", "Tanh", "Softplus"),
}
"""The same as operations of keras.ops.nn."""


def rule_of(operation: object) -> Rule | None:
    """Return the rule for a layer or operation; None if there is none.

    Rules are for exact types, as a subclass may do anything, and for float32, as other dtypes round between the
    operations that a rule merges.
    """
    if isinstance(operation, keras.layers.Layer) and (
        operation.dtype_policy.name != "float32"
        or getattr(operation, "lora_enabled", False)
        or isinstance(getattr(operation, "activation", None), keras.layers.Layer)  # it may have weights
    ):
        return None
    if type(operation) in _RULES:
        return _RULES[type(operation)]
    if is_operation(operation, "numpy", {"Add"}):
        return _add
    return _activation if _is_elementwise(operation) else None


def _drop(builder, layer, inputs):
    """Drop a layer that returns its input at inference. It casts what is not float32: then it stays."""
    return inputs[0] if inputs[0].channels is not None else None


def _affine(builder, layer, inputs):
    """Fold a normalization or scaling into the layer before it, or leave it pending for the layer after it."""
    (pending,) = inputs
    affine = pending.channels and affine_of(layer, pending.channels, pending.rank)
    return pending.then(affine, layer.name) if affine else None


def affine_of(layer: keras.layers.Layer, channels: int, rank: int | None) -> Affine | None:
    """Return a normalization or scaling layer as a scale and a shift for each channel of its input.

    None if it is not one, for example as it normalizes along another axis. `rank` is that of the input.
    """
    one, zero = np.ones(channels), np.zeros(channels)
    if isinstance(layer, keras.layers.BatchNormalization):
        if layer.moving_mean.shape != (channels,) or layer.axis not in (-1, rank - 1):  # pyright: ignore[reportOptionalOperand]
            return None
        # gamma * (x - mean) / sqrt(variance + epsilon) + beta
        scale = (_array(layer.gamma) if layer.scale else one) / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
        shift = (_array(layer.beta) if layer.center else zero) - _array(layer.moving_mean) * scale
        return Affine(scale, shift)
    if isinstance(layer, LayerScale):
        return Affine(_array(layer.gamma) * one, zero)
    if isinstance(layer, keras.layers.Rescaling):
        if np.size(layer.scale) > 1 and keras.config.image_data_format() != "channels_last":
            return None
        scale, shift = np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
    else:  # Normalization: (x - mean) / deviation or, with `invert`, deviation * x + mean
        mean, deviation = _array(layer.mean), np.sqrt(_array(layer.variance))
        if deviation.min() <= keras.config.epsilon():
            return None  # a constant channel: x - mean is exactly 0, which 1e7 * x - 1e7 * mean would not be
        scale, shift = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    if scale.size not in (1, channels) or shift.size not in (1, channels):
        return None
    if any(value.size > 1 and value.shape[-1] != channels for value in (scale, shift)):
        return None  # they vary along another axis
    return Affine(scale.reshape(-1) * one, shift.reshape(-1) + zero)


def _convolution(builder, layer, inputs):
    """Fold the pending scale of the input into a Conv2D or Dense, and the shift if it pads no zeros.

    In a Conv2D in groups only what follows is folded; one with a group for each channel is a depthwise convolution,
    but for unequal strides, which DepthwiseConv2D does not have.
    """
    (pending,) = inputs
    if pending.channels is None or getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    grouped = getattr(layer, "groups", 1) > 1
    if grouped and layer.groups == layer.filters == pending.channels and len(set(layer.strides)) == 1:
        return _depthwise(builder, _as_depthwise(layer), inputs)
    if pending.affine.changes and (grouped or (pending.affine.shifts and pads(layer))):
        builder.apply(pending)
    affine = pending.affine
    source = builder.groups(pending, 1)[0]
    kernel = _array(layer.kernel)  # [..., input channels, output channels]
    bias = _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
    # w (scale x + shift) + b = (w scale) x + (b + w shift), summed over all positions of the kernel and input channels
    bias = bias + affine.shift @ kernel.reshape(-1, *kernel.shape[-2:]).sum(0) if affine.shifts else bias
    kernel = kernel if grouped else kernel * affine.scale[:, None]
    patches = builder.for_xnnpack and PatchEmbeddingPlan.fits(layer, source)
    plan = (PatchEmbeddingPlan if patches else ConvolutionPlan)(builder, layer, source)
    return _pending(layer, kernel, bias, plan)


def _depthwise(builder, layer, inputs):
    """Fold the pending scale of the input into a DepthwiseConv2D, and the shift if it pads no zeros; choose a plan."""
    (pending,) = inputs
    if pending.channels is None or layer.data_format != "channels_last" or layer.depth_multiplier != 1:
        return None
    by_channel = layer.activation is keras.activations.linear or _is_elementwise_function(layer.activation)
    groups = channel_groups(layer, pending.channels) if builder.for_xnnpack else 1
    groups = max(groups, len(pending.materialize())) if by_channel else 1  # a softmax needs all channels
    if pending.affine.shifts and pads(layer):
        builder.apply(pending)
    affine = pending.affine
    kernel = _array(layer.kernel).reshape(*layer.kernel_size, pending.channels)  # [height, width, channels]
    bias = _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
    bias = bias + kernel.sum((0, 1)) * affine.shift  # a shift that is left is 0, or no zeros are padded
    plan = None
    if builder.target == "litert_int8" and by_channel:
        plan = BlockPlan.fitting(builder, layer, pending)
    if plan is None:
        plan = DepthwisePlan(builder, layer, builder.groups(pending, groups))
    return _pending(layer, kernel * affine.scale, bias, plan)


def _as_depthwise(layer):
    """Return a DepthwiseConv2D for a Conv2D that has a group for each channel, as in ConvNeXt."""
    same = ("strides", "padding", "dilation_rate", "activation", "use_bias", "name", "data_format")
    depthwise = keras.layers.DepthwiseConv2D(
        layer.kernel_size, dtype="float32", **{key: getattr(layer, key) for key in same}
    )
    depthwise.kernel, depthwise.bias = layer.kernel, layer.bias
    return depthwise


def _array(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable), "float64")


def _pending(layer, kernel: np.ndarray, bias: np.ndarray, plan: Plan) -> PendingTensor:
    """Return a layer's output. The layer is built later if what follows it can go into its weights, now if not."""
    homogeneous = layer.activation is keras.activations.relu and not plan.adds_pieces
    foldable = FoldableLayer(kernel, bias, plan, homogeneous)
    if homogeneous or layer.activation in (None, keras.activations.linear):
        return PendingTensor(layer=foldable)
    return PendingTensor(foldable.build())


def _activation(builder, layer, inputs):
    """Apply an activation of each number by itself to the groups of channels that there are.

    With ReLU the layer before it stays unbuilt, so that a scale after ReLU can go into its weights. The exception is a
    layer that adds up pieces of its kernel: a normalization after ReLU scales up the channels that are mostly negative
    before it, and in int8 their large partial sums would take the range from the other channels. Measured on a
    ConvMixer-128/6 with 7x7 kernels, 78 % on CIFAR-10: mean error of the logits 3.4 % of their range with that scale in
    the pieces, 0.6 % without. `python benchmarks/partial_sums.py` measures it.
    """
    (pending,) = inputs
    if pending.channels is None:
        return None

    def activate(tensors):
        return [builder.call(layer, tensor) for tensor in tensors]

    before = pending.layer
    if before is not None and not (before.plan.adds_pieces or pending.affine.changes) and _is_homogeneous(layer):
        return PendingTensor(layer=before.activated(activate))
    return PendingTensor(activate(builder.apply(pending)))


def _add(builder, layer, inputs):
    """Add tensors before their shifts, which stay pending: (x + a) + (y + b) = (x + y) + (a + b).

    A term with a scale is an exception: its scale must be applied, and its shift is applied with it at no cost.
    """
    channels = {pending.channels for pending in inputs}
    if len(channels) != 1 or None in channels:
        return None
    shift = np.zeros(channels.pop())
    groups = max(len(pending.materialize()) for pending in inputs)
    terms = []
    for pending in inputs:
        if pending.affine.scales:
            builder.apply(pending)
        shift = shift + pending.affine.shift
        terms.append(builder.groups(pending, groups))
    if isinstance(layer, keras.layers.Layer):
        tensors = [builder.add(keras.layers.Add, layer.name)(list(parts)) for parts in zip(*terms, strict=True)]
    else:  # keras.ops.add broadcasts otherwise than keras.layers.Add
        tensors = [builder.call(layer, *parts) for parts in zip(*terms, strict=True)]
    return PendingTensor(tensors, Affine(np.ones_like(shift), shift))


def _average(builder, layer, inputs):
    """Average before scale and shift, which stay pending: mean(scale * x + shift) = scale * mean(x) + shift.

    Not where padded zeros are among the numbers, as the shift would not have been added to them.
    """
    (pending,) = inputs
    if pending.channels is None or layer.data_format != "channels_last":
        return None
    if getattr(layer, "padding", "valid") != "valid":
        return None
    tensors = [builder.call(layer, tensor) for tensor in pending.materialize()]
    return PendingTensor(tensors, pending.affine, name=pending.name)


_RULES: dict[type, Rule] = {
    **dict.fromkeys((*DROPPED, StochasticDepth), _drop),
    keras.layers.Conv2D: _convolution,
    keras.layers.Dense: _convolution,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.BatchNormalization: _affine,
    keras.layers.Rescaling: _affine,
    keras.layers.Normalization: _affine,
    LayerScale: _affine,
    keras.layers.Add: _add,
    keras.layers.GlobalAveragePooling2D: _average,
    keras.layers.AveragePooling2D: _average,
}


def _is_elementwise(operation):
    """Tell whether a layer or operation is an activation that changes each number by itself."""
    if type(operation) is keras.layers.Activation:
        return _is_elementwise_function(operation.activation)
    if type(operation) in (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU):
        return True
    return is_operation(operation, "nn", ELEMENTWISE_OPERATIONS)


def _is_elementwise_function(activation):
    name = getattr(activation, "__name__", None)
    return name in ELEMENTWISE and getattr(keras.activations, name, None) is activation


def _is_homogeneous(operation):
    """Tell whether an activation f has f(scale * x) = scale * f(x) for positive scales."""
    if type(operation) is keras.layers.Activation:
        return operation.activation is keras.activations.relu
    if type(operation) is keras.layers.ReLU:
        return operation.max_value is None and not operation.threshold
    return type(operation) is keras.layers.LeakyReLU or is_operation(operation, "nn", {"Relu", "LeakyRelu"})
