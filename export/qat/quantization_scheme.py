"""The 8-bit scheme of quantization-aware training: tensorflow-model-optimization's, with three defects mended.

Its own starts all ranges at -6..6 and follows them by 0.1 % a step, so that short training clips; and it quantizes a
depthwise convolution's weights with one scale for all channels, where LiteRT takes one for each.
"""

from __future__ import annotations

import tensorflow as tf

# isort: split
from .legacy_keras import tf_keras, tfmot

# isort: split
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry as _registry,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantizers as _default_quantizers,
)

_default = tfmot.quantization.keras.default_8bit
DECAY = 0.95
"""Of a range, what stays of it at a step."""


class FollowedRange(tfmot.quantization.keras.quantizers.MovingAverageQuantizer):
    """Quantizes activations, one scale each: the first batch's range, then its moving average."""

    def build(self, tensor_shape, name, layer):
        """Add the range and whether there is one yet."""
        del tensor_shape
        return {
            part: layer.add_weight(f"{name}_{part}", initializer="zeros", trainable=False)
            for part in ("min", "max", "begun")
        }

    def __call__(self, inputs, training, weights, **kwargs):
        """Return the inputs as 8 bits would give them back."""
        low, high = weights["min"], weights["max"]
        if training:
            keep = DECAY * weights["begun"]
            low.assign(keep * low + (1 - keep) * tf.minimum(tf.reduce_min(inputs), 0.0))
            high.assign(keep * high + (1 - keep) * tf.maximum(tf.reduce_max(inputs), 0.0))
            weights["begun"].assign(1.0)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high)


class DepthwiseWeights(_default_quantizers.Default8BitConvWeightsQuantizer):
    """Quantizes a depthwise convolution's weights, one scale for each channel."""

    def build(self, tensor_shape, name, layer):
        """Add a range for each channel."""
        return super().build((tensor_shape[-2] * tensor_shape[-1],), name, layer)

    def __call__(self, inputs, training, weights, **kwargs):
        """Return the weights as 8 bits would give them back."""
        height, width, channels, multiplier = inputs.shape
        # Of this shape, as the converter understands no other.
        flat = tf.reshape(inputs, (1, height, width, channels * multiplier))
        return tf.reshape(super().__call__(flat, training, weights, **kwargs), inputs.shape)


def _followed():
    return FollowedRange(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)


class ActivationConfig(_registry.Default8BitActivationQuantizeConfig):
    """Of layers that are an activation."""

    def get_output_quantizers(self, layer):
        """Return ours where the default has one."""
        return [_followed() for _ in super().get_output_quantizers(layer)]


class Registry(_registry.Default8BitQuantizeRegistry):
    """What each layer's weights and outputs are quantized with."""

    def get_quantize_config(self, layer):
        """Return the default's, with our quantizers."""
        if isinstance(layer, tf_keras.layers.Activation):
            return ActivationConfig()
        config = super().get_quantize_config(layer)
        config.activation_quantizer = _followed()
        if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
            config.weight_quantizer = DepthwiseWeights()
        return config


class Scheme(_default.Default8BitQuantizeScheme):
    """The default's layout with our quantizers."""

    def get_quantize_registry(self):
        """Return ours."""
        return Registry()


def quantize_model(model):
    """Return a tf_keras model that computes as int8 would, its weights still float32 and trainable."""
    annotate, apply = tfmot.quantization.keras.quantize_annotate_model, tfmot.quantization.keras.quantize_apply
    with tf_keras.utils.custom_object_scope({"ActivationConfig": ActivationConfig, "FollowedRange": FollowedRange}):
        return apply(annotate(model), Scheme())
