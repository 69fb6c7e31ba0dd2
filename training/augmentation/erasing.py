"""Random erasing with noise. Source: timm's RandomErasing, mode "pixel"."""

from __future__ import annotations

import math

import tensorflow as tf

from keras_convmixer.model.imagenet import DEVIATION, MEAN

ATTEMPTS = 10
NUM_DRAWS = 2 + 4 * ATTEMPTS
"""Uniform numbers for each image: whether it is erased, the noise's seed, and four for each attempt."""
AREA, RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
"""Ranges of a rectangle's area, as a fraction of the image's, and of its height / width."""


def erase(images: tf.Tensor, draws: tf.Tensor, step: tf.Tensor, probability: float) -> tf.Tensor:
    """Replace a rectangle of some images by noise, each pixel's own, with ImageNet's mean and standard deviation.

    Args:
        images: float32 `[images, height, width, 3]`, pixels 0..255; the noise is not clipped to that range.
        draws: uniform numbers in 0..1, float32 `[images, NUM_DRAWS]`.
        step: int32 scalar, the other part of the noise's seed.
        probability: of an image being erased.
    """
    height, width = images.shape[1:3]
    attempts = tf.reshape(draws[:, 2:], (-1, ATTEMPTS, 4))
    area = height * width * (AREA[0] + attempts[..., 0] * (AREA[1] - AREA[0]))
    low, high = map(math.log, RATIO)
    ratio = tf.exp(low + attempts[..., 1] * (high - low))
    tall, wide = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
    fits = (tall < height) & (wide < width)
    first = tf.argmax(fits, axis=1)  # the first attempt whose rectangle fits, [images]
    tall, wide, *places = (tf.gather(v, first, batch_dims=1) for v in (tall, wide, attempts[..., 2], attempts[..., 3]))
    top, left = tf.floor(places[0] * (height - tall + 1)), tf.floor(places[1] * (width - wide + 1))
    # Indices of the images to erase; an image without a fitting rectangle stays as it is.
    erased = tf.where((draws[:, 0] < probability) & tf.reduce_any(fits, axis=1))[:, 0]

    def erase_one(index):
        # Noise for the rectangle alone, on average a sixth of the image.
        first, sides = ([tf.cast(values[index], tf.int32) for values in pair] for pair in ((top, left), (tall, wide)))
        seed = tf.stack([tf.bitcast(draws[index, 1], tf.int32), step])
        noise = tf.random.stateless_normal((*sides, 3), seed) * DEVIATION + MEAN
        rows, columns = (tf.range(start, start + length) for start, length in zip(first, sides, strict=True))
        places = tf.stack(tf.meshgrid(rows, columns, indexing="ij"), axis=-1)
        return tf.tensor_scatter_nd_update(images[index], places, noise * 255)

    noisy = tf.map_fn(erase_one, erased, fn_output_signature=tf.float32)
    return tf.tensor_scatter_nd_update(images, erased[:, None], noisy)
