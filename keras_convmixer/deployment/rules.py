"""What becomes of each kind of layer. A rule returns the signal of a layer's output; what has none stays as it is."""

import keras
import numpy as np

from ..keras_internals import LayerScale, StochasticDepth, is_operation
from .blocks import BlockPlan
from .depthwise import DepthwisePlan, channel_groups, pads
from .signals import Affine, Linear, Signal

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
"""Layers that do something in training only. RandomCrop is none of them: at inference it crops the centre."""
FEW_CHANNELS = 8
ELEMENTWISE = {
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "hard_sigmoid"),
    *("hard_silu", "tanh", "softplus", "softsign"),
}
"""Activations of single numbers, by their functions' names."""
ELEMENTWISE_OPERATIONS = {
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "Mish", "Sigmoid", "Tanh", "Softplus"),
}
"""The same as operations of keras.ops.nn."""


def rule_of(operation):
    """Return the rule of a layer or operation as a function of (builder, operation, signals), None where it has none.

    By exact kind, as a subclass may do anything; float32 only, as other dtypes round where a rewrite does not.
    """
    kind = type(operation)
    if isinstance(operation, keras.layers.Layer) and (
        operation.dtype_policy.name != "float32"
        or getattr(operation, "lora_enabled", False)
        or isinstance(getattr(operation, "activation", None), keras.layers.Layer)  # it may have weights
    ):
        return None
    if kind in DROPPED or kind is StochasticDepth:
        return _drop
    if kind in (keras.layers.Conv2D, keras.layers.Dense):
        return _mix_channels
    if kind is keras.layers.DepthwiseConv2D:
        return _depthwise
    if kind in (
        *(keras.layers.BatchNormalization, keras.layers.Rescaling, keras.layers.Normalization),
        LayerScale,
    ):
        return _affine
    if kind is keras.layers.Add or is_operation(operation, "numpy", {"Add"}):
        return _add
    if kind in (keras.layers.GlobalAveragePooling2D, keras.layers.AveragePooling2D):
        return _average
    if _is_elementwise(operation):
        return _activate
    return None


def _drop(builder, layer, signals):
    return signals[0] if signals[0].channels is not None else None  # at inference it casts what is not float32


def _affine(builder, layer, signals):
    (signal,) = signals
    affine = signal.channels and affine_of(layer, signal.channels, signal.rank)
    return signal.then(affine, layer.name) if affine else None


def affine_of(layer, channels: int, rank: int) -> Affine | None:
    """Return what a layer does to each channel of its input; None where it is not one scale and shift for each."""

    one, zero = np.ones(channels), np.zeros(channels)
    if isinstance(layer, keras.layers.BatchNormalization):
        if layer.moving_mean.shape != (channels,) or layer.axis not in (-1, rank - 1):
            return None
        scale = (_array(layer.gamma) if layer.scale else one) / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
        shift = (_array(layer.beta) if layer.center else zero) - _array(layer.moving_mean) * scale
        return Affine(scale, shift)
    if isinstance(layer, LayerScale):
        return Affine(_array(layer.gamma) * one, zero)
    if isinstance(layer, keras.layers.Rescaling):
        if np.size(layer.scale) > 1 and keras.config.image_data_format() != "channels_last":
            return None
        scale, shift = np.asarray(layer.scale, "float64"), np.asarray(layer.offset, "float64")
    else:
        mean, deviation = _array(layer.mean), np.sqrt(_array(layer.variance))
        if deviation.min() <= keras.config.epsilon():
            return None  # a constant channel's scale is so large that its shift, moved elsewhere, cancels no more
        scale, shift = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    if scale.size not in (1, channels) or shift.size not in (1, channels):
        return None
    if any(value.size > 1 and value.shape[-1] != channels for value in (scale, shift)):
        return None
    return Affine(scale.reshape(-1) * one, shift.reshape(-1) + zero)


def _mix_channels(builder, layer, signals):
    """A convolution or dense layer takes in what remains of its input, but a shift where zeros are padded."""
    (signal,) = signals
    if signal.channels is None or getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    grouped = getattr(layer, "groups", 1) > 1
    if grouped and layer.groups == layer.filters == signal.channels and len(set(layer.strides)) == 1:
        return _depthwise(builder, _as_depthwise(layer), signals)
    if signal.affine.changes and (grouped or (signal.affine.shifts and pads(layer))):
        builder.apply(signal)
    affine = signal.affine
    source = builder.groups(signal, 1)[0]
    kernel = _array(layer.kernel)
    bias = _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
    bias = bias + affine.shift @ kernel.reshape(-1, *kernel.shape[-2:]).sum(0) if affine.shifts else bias
    kernel = kernel if grouped else kernel * affine.scale[:, None]

    patches = builder.for_litert and _is_patch_embedding(layer, source)

    def build(kernel, bias):
        if patches:
            return [_patches_by_row(builder, layer, source, kernel, bias)]
        return [builder.linear(layer, source, [kernel, bias], layer.name)]

    return _linear(layer, kernel, bias, build)


def _is_patch_embedding(layer, source):
    """Tell whether a convolution's windows tile the width of images of so few channels that XNNPACK is slow."""
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


def _patches_by_row(builder, layer, source, kernel, bias):
    """Embed patches with each row of a patch as channels: a reshape, which moves nothing, and a kernel of one column.

    XNNPACK fills a vector with a position's channels. Measured, one thread, 14x14 patches of 224x224x3 to 1024
    channels: in int8 1.9 ms before, 0.8 after; in float32 3.4 and 3.0.
    """
    rows, columns, channels, _ = kernel.shape
    _, height, width, _ = source.shape
    shape = (height, width // columns, columns * channels)
    by_row = builder.add(keras.layers.Reshape, f"{layer.name}_rows", target_shape=shape)(source)
    kernel = kernel.reshape(rows, 1, columns * channels, -1)
    changes = {"kernel_size": (rows, 1), "strides": (layer.strides[0], 1)}
    return builder.linear(layer, by_row, [kernel, bias], layer.name, **changes)


def _depthwise(builder, layer, signals):
    """A depthwise convolution takes in a scale, and a shift where no zeros are padded."""
    (signal,) = signals
    if signal.channels is None or layer.data_format != "channels_last" or layer.depth_multiplier != 1:
        return None
    by_channel = layer.activation is keras.activations.linear or _is_elementwise_function(layer.activation)
    groups = channel_groups(layer, signal.channels) if builder.for_litert else 1
    groups = max(groups, len(signal.tensors)) if by_channel else 1  # a softmax needs all channels
    if signal.affine.shifts and pads(layer):
        builder.apply(signal)
    affine = signal.affine
    kernel = _array(layer.kernel).reshape(*layer.kernel_size, signal.channels)
    bias = _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
    bias = bias + kernel.sum((0, 1)) * affine.shift
    convolution = None
    if builder.target == "litert_int8" and by_channel:
        convolution = BlockPlan.fitting(builder, layer, signal)
    if convolution is None:
        convolution = DepthwisePlan(builder, layer, builder.groups(signal, groups))
    return _linear(layer, kernel * affine.scale, bias, convolution.build, pieces=convolution.pieces)


def _as_depthwise(layer):
    """Return the DepthwiseConv2D that a Conv2D with a group for each channel is, as ConvNeXt has it."""
    same = ("strides", "padding", "dilation_rate", "activation", "use_bias", "name", "data_format")
    depthwise = keras.layers.DepthwiseConv2D(
        layer.kernel_size, dtype="float32", **{key: getattr(layer, key) for key in same}
    )
    depthwise.kernel, depthwise.bias = layer.kernel, layer.bias
    return depthwise


def _array(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable), "float64")


def _linear(layer, kernel, bias, build, pieces=False):
    homogeneous = layer.activation is keras.activations.relu and not pieces
    linear = Linear(kernel, bias, build, homogeneous, pieces)
    if homogeneous or layer.activation in (None, keras.activations.linear):
        return Signal(linear=linear)
    return Signal(linear.tensors())


def _activate(builder, layer, signals):
    """An activation of single numbers goes through groups of channels, and lets positive scales through if it can."""
    (signal,) = signals
    if signal.channels is None:
        return None

    def activate(tensors):
        return [builder.call(layer, tensor) for tensor in tensors]

    linear = signal.linear
    if linear is not None and not (linear.pieces or signal.affine.changes) and _is_homogeneous(layer):
        return Signal(linear=linear.activated(activate))
    return Signal(activate(builder.apply(signal)))


def _add(builder, layer, signals):
    """A sum passes on its terms' shifts; scales are applied, each with its shift, which then costs nothing."""
    channels = {signal.channels for signal in signals}
    if len(channels) != 1 or None in channels:
        return None
    shift = np.zeros(channels.pop())
    groups = max(len(signal.tensors) for signal in signals)
    terms = []
    for signal in signals:
        if signal.affine.scales:
            builder.apply(signal)
        shift = shift + signal.affine.shift
        terms.append(builder.groups(signal, groups))
    if isinstance(layer, keras.layers.Layer):
        tensors = [builder.add(keras.layers.Add, layer.name)(list(parts)) for parts in zip(*terms, strict=True)]
    else:  # which broadcasts otherwise
        tensors = [builder.call(layer, *parts) for parts in zip(*terms, strict=True)]
    return Signal(tensors, Affine(np.ones_like(shift), shift))


def _average(builder, layer, signals):
    """An average passes on scale and shift."""
    (signal,) = signals
    if signal.channels is None or layer.data_format != "channels_last" or getattr(layer, "padding", "valid") != "valid":
        return None
    tensors = [builder.call(layer, tensor) for tensor in signal.tensors]
    return Signal(tensors, signal.affine, name=signal.name)


def _is_elementwise(operation):
    if type(operation) is keras.layers.Activation:
        return _is_elementwise_function(operation.activation)
    if type(operation) in (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU):
        return True
    return is_operation(operation, "nn", ELEMENTWISE_OPERATIONS)


def _is_elementwise_function(activation):
    name = getattr(activation, "__name__", None)
    return name in ELEMENTWISE and getattr(keras.activations, name, None) is activation


def _is_homogeneous(operation):
    if type(operation) is keras.layers.Activation:
        return operation.activation is keras.activations.relu
    if type(operation) is keras.layers.ReLU:
        return operation.max_value is None and not operation.threshold
    return type(operation) is keras.layers.LeakyReLU or is_operation(operation, "nn", {"Relu", "LeakyRelu"})
