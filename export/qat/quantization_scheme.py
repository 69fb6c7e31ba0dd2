"""The 8-bit scheme of quantization-aware training: tfmot's default with two changes.

- An activation's range is that of the first batch and then a moving average. The default starts all ranges at -6..6 and
  moves them by 0.1 % a step, so that a short training clips.
- A depthwise convolution's weights have one scale for each channel, as in LiteRT; the default has one for all.

"Quantized" tensors of the training are float32: rounded to the values that 8 bits can hold (fake quantization).
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
"""Weight of the range so far in its moving average, at each step."""


class FollowedRange(tfmot.quantization.keras.quantizers.MovingAverageQuantizer):
    """Quantizes activations with one scale each: the first batch's range, then its moving average."""

    def build(self, tensor_shape, name, layer):
        """Add the range, and a 1 once there is one."""
        del tensor_shape
        return {
            part: layer.add_weight(f"{name}_{part}", initializer="zeros", trainable=False)
            for part in ("min", "max", "begun")
        }

    def __call__(self, inputs, training, weights, **kwargs):
        """Return the inputs, of any shape, rounded to what 8 bits hold."""
        low, high = weights["min"], weights["max"]
        if training:
            keep = DECAY * weights["begun"]  # 0 at the first batch, whose range counts alone
            # A range always holds 0, which padding needs to be exact.
            low.assign(keep * low + (1 - keep) * tf.minimum(tf.reduce_min(inputs), 0.0))
            high.assign(keep * high + (1 - keep) * tf.maximum(tf.reduce_max(inputs), 0.0))
            weights["begun"].assign(1.0)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high)


class DepthwiseWeights(_default_quantizers.Default8BitConvWeightsQuantizer):
    """Quantizes a depthwise convolution's weights `[height, width, channels, multiplier]`, one scale a channel."""

    def build(self, tensor_shape, name, layer):
        """Add a range for each channel."""
        return super().build((tensor_shape[-2] * tensor_shape[-1],), name, layer)

    def __call__(self, inputs, training, weights, **kwargs):
        """Return the weights rounded to what 8 bits hold."""
        height, width, channels, multiplier = inputs.shape
        # LiteRT's shape of depthwise weights, the only one in which the converter recognizes scales by channel.
        flat = tf.reshape(inputs, (1, height, width, channels * multiplier))
        return tf.reshape(super().__call__(flat, training, weights, **kwargs), inputs.shape)


def _followed():
    return FollowedRange(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)


class ActivationConfig(_registry.Default8BitActivationQuantizeConfig):
    """Quantizes the outputs of Activation layers."""

    def get_output_quantizers(self, layer):
        """Return a `FollowedRange` for each quantizer of the default."""
        return [_followed() for _ in super().get_output_quantizers(layer)]


class Registry(_registry.Default8BitQuantizeRegistry):
    """Quantizers of each layer's weights and outputs."""

    def get_quantize_config(self, layer):
        """Return the default's configuration of a layer, with this scheme's quantizers."""
        if isinstance(layer, tf_keras.layers.Activation):
            return ActivationConfig()
        config = super().get_quantize_config(layer)
        config.activation_quantizer = _followed()  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
            config.weight_quantizer = DepthwiseWeights()  # pyright: ignore[reportAttributeAccessIssue]
        return config


class Scheme(_default.Default8BitQuantizeScheme):
    """The default's rules on which layers are quantized together, with this scheme's quantizers."""

    def get_quantize_registry(self):
        """Return a `Registry`."""
        return Registry()


def quantize_model(model):
    """Return a tf_keras model that computes as int8 does, with weights that stay float32 and trainable."""
    annotate, apply = tfmot.quantization.keras.quantize_annotate_model, tfmot.quantization.keras.quantize_apply
    with tf_keras.utils.custom_object_scope({"ActivationConfig": ActivationConfig, "FollowedRange": FollowedRange}):
        return apply(annotate(model), Scheme())
