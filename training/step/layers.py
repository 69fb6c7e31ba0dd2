"""Layers that compute the same as Keras's own and train faster."""

from __future__ import annotations

import keras
import tensorflow as tf

IMAGES_AT_ONCE = 8
"""Images that `_filter_gradient` joins; the fastest of 2 to 64, measured on two cores."""


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization of images by TensorFlow's fused kernel."""

    def call(self, inputs, training=None, mask=None):
        """Normalize images `[batch, height, width, channels]`, as BatchNormalization does."""
        if not training:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(inputs) / inputs.shape[-1], tf.float32)  # values per channel
        variance *= tf.maximum(count - 1, 1) / count  # the kernel returns the unbiased variance, Keras keeps the biased
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))  # pyright: ignore[reportOptionalOperand]
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))  # pyright: ignore[reportOptionalOperand]
        return outputs


class CPUDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Depthwise convolution of stride 1 with padding "same" whose kernel gradient is fast on CPUs."""

    def call(self, inputs):
        """Convolve images `[batch, height, width, channels]`, as DepthwiseConv2D does."""
        outputs = _depthwise(inputs, tf.cast(tf.convert_to_tensor(self.kernel), inputs.dtype))
        return self.activation(outputs + tf.cast(tf.convert_to_tensor(self.bias), inputs.dtype))


@tf.custom_gradient
def _depthwise(images, kernel):
    strides = (1, 1, 1, 1)

    def gradient(upstream):
        images_gradient = tf.nn.depthwise_conv2d_backprop_input(tf.shape(images), kernel, upstream, strides, "SAME")
        return images_gradient, _filter_gradient(images, upstream, kernel.shape)

    return tf.nn.depthwise_conv2d(images, kernel, strides, "SAME"), gradient


def _filter_gradient(images, upstream, shape):
    """Return the gradient of a depthwise kernel: padded images convolved with the upstream gradient as the kernel.

    dLoss/dKernel[i, j] is the sum over all places (y, x) of padded[y + i, x + j] * upstream[y, x]: a "valid"
    convolution with a kernel as large as the image. Several images, one below the other with rows of zeros between,
    are computed as one tall image with a kernel as tall, as few large convolutions are faster than many small ones.

    Args:
        images: `[batch, height, width, channels]`.
        upstream: gradient of the loss by the convolution's outputs, of the same shape.
        shape: (rows, columns, channels, 1) of the kernel.
    """
    batch, height, width, channels = images.shape
    rows, columns = shape[:2]
    top, left = (rows - 1) // 2, (columns - 1) // 2  # zeros that padding "same" adds before an image
    # The largest divisor of the batch up to IMAGES_AT_ONCE.
    joined = next(number for number in range(min(IMAGES_AT_ONCE, batch), 0, -1) if batch % number == 0)
    tall = joined * (height + rows - 1)
    padded = tf.pad(images, ((0, 0), (top, rows - 1 - top), (left, columns - 1 - left), (0, 0)))
    padded = tf.reshape(padded, (-1, tall, width + columns - 1, channels))  # [batch / joined, tall, ...]
    kernels = tf.pad(upstream, ((0, 0), (0, rows - 1), (0, 0), (0, 0)))
    kernels = tf.reshape(kernels, (-1, tall, width, channels))  # rows - 1 rows of zeros after each image
    # One kernel of shape [tall - rows + 1, width, channels, 1] for each tall image: "valid" then leaves `rows` rows.
    kernels = kernels[:, : tall - rows + 1, :, :, None]
    pairs = zip(tf.split(padded, batch // joined), tf.unstack(kernels), strict=True)
    sums = [tf.nn.depthwise_conv2d(part, kernel, (1, 1, 1, 1), "VALID")[0] for part, kernel in pairs]
    return tf.add_n(sums)[..., None]  # [rows, columns, channels, 1]
