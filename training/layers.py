"""Layers that compute what Keras's do, faster in training; the model that is saved has Keras's own."""

from __future__ import annotations

import keras
import tensorflow as tf

IMAGES_AT_ONCE = 8
"""In `_filter_gradient`; measured 2 to 64, this was fastest."""


def build_training_model(model: keras.Model, replicas: int) -> keras.Model:
    """Return the model with faster layers where one device trains, and the same weights in the same order.

    Measured on two cores, ConvMixer-256/8 at 32 pixels, a batch of 64, ms a layer forward and backward: normalization
    18.2 with Keras's, 4.9 in TensorFlow's fused kernel; the gradient of a 5x5 depthwise kernel 27.5 in TensorFlow's own
    kernel, 9.8 as a depthwise convolution. Several replicas keep Keras's normalization, which is synchronized.
    """
    kinds = {}
    if replicas == 1:
        kinds[keras.layers.BatchNormalization] = FusedBatchNormalization
    if not tf.config.list_logical_devices("GPU"):
        kinds[keras.layers.DepthwiseConv2D] = CPUDepthwiseConv2D

    def clone(layer):
        return kinds.get(type(layer), type(layer)).from_config(layer.get_config())

    faster = keras.models.clone_model(model, clone_function=clone)
    faster.set_weights(model.get_weights())
    return faster


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Normalization of images by TensorFlow's fused kernel."""

    def call(self, inputs, training=None, mask=None):
        """As BatchNormalization's."""
        if not training:
            return super().call(inputs, training=training, mask=mask)
        result, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(inputs) / inputs.shape[-1], tf.float32)
        variance *= tf.maximum(count - 1, 1) / count  # the kernel's is unbiased, Keras's not
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return result


class CPUDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise convolution of stride 1, zeros padded, whose kernel's gradient is fast on CPUs."""

    def call(self, inputs):
        """As DepthwiseConv2D's."""
        outputs = _depthwise(inputs, tf.cast(tf.convert_to_tensor(self.kernel), inputs.dtype))
        return self.activation(outputs + tf.cast(tf.convert_to_tensor(self.bias), inputs.dtype))


@tf.custom_gradient
def _depthwise(images, kernel):
    strides = (1, 1, 1, 1)

    def gradient(upstream):
        of_images = tf.nn.depthwise_conv2d_backprop_input(tf.shape(images), kernel, upstream, strides, "SAME")
        return of_images, _filter_gradient(images, upstream, kernel.shape)

    return tf.nn.depthwise_conv2d(images, kernel, strides, "SAME"), gradient


def _filter_gradient(images, upstream, shape):
    """Return the gradient of a depthwise kernel: padded images convolved with the upstream gradient as kernel.

    Several images, one below the other with rows of zeros between, are one tall image, with a kernel as tall.
    """
    count, height, width, channels = images.shape
    rows, columns = shape[:2]
    top, left = (rows - 1) // 2, (columns - 1) // 2
    together = next(number for number in range(min(IMAGES_AT_ONCE, count), 0, -1) if count % number == 0)
    tall = together * (height + rows - 1)
    padded = tf.pad(images, ((0, 0), (top, rows - 1 - top), (left, columns - 1 - left), (0, 0)))
    padded = tf.reshape(padded, (-1, tall, width + columns - 1, channels))
    kernels = tf.pad(upstream, ((0, 0), (0, rows - 1), (0, 0), (0, 0)))
    kernels = tf.reshape(kernels, (-1, tall, width, channels))[:, : tall - rows + 1, :, :, None]
    parts = zip(tf.split(padded, count // together), tf.unstack(kernels), strict=True)
    sums = [tf.nn.depthwise_conv2d(part, kernel, (1, 1, 1, 1), "VALID")[0] for part, kernel in parts]
    return tf.add_n(sums)[..., None]
