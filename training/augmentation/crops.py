"""Random resized crops. Source: timm's RandomResizedCropAndInterpolation."""

from __future__ import annotations

import math

import tensorflow as tf

ATTEMPTS = 10
NUM_DRAWS = ATTEMPTS * 4
"""Uniform numbers for each image: area, aspect ratio and two places for each attempt."""


def draw_boxes(draws: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor, scale: float, ratio: float) -> tf.Tensor:
    """Return a random box in each image: (top, left, height, width) in pixels, float32 `[images, 4]`.

    An area and an aspect ratio are drawn up to ten times; the first box that fits is taken, else the largest centered
    one of an allowed ratio.

    Args:
        draws: uniform numbers in 0..1, float32 `[images, NUM_DRAWS]`.
        heights: of the images, in pixels, `[images]`.
        widths: of the images, in pixels, `[images]`.
        scale: smallest area, as a fraction of the image's.
        ratio: largest width / height; the smallest is its inverse.
    """
    heights, widths = (tf.cast(side, tf.float32)[:, None] for side in (heights, widths))  # [images, 1]
    draws = tf.reshape(draws, (-1, ATTEMPTS, 4))
    areas = heights * widths * (scale + draws[..., 0] * (1 - scale))  # [images, attempts]
    log_ratio = math.log(ratio)  # uniform in the logarithm: 3:4 is as likely as 4:3
    ratios = tf.exp(-log_ratio + draws[..., 1] * 2 * log_ratio)
    wide, high = tf.round(tf.sqrt(areas * ratios)), tf.round(tf.sqrt(areas / ratios))
    fits = (wide <= widths) & (high <= heights)
    first = tf.argmax(fits, axis=1)  # the first attempt that fits, [images]
    wide, high, *places = (tf.gather(v, first, batch_dims=1) for v in (wide, high, draws[..., 2], draws[..., 3]))
    heights, widths = heights[:, 0], widths[:, 0]
    center_wide = tf.minimum(widths, tf.round(heights * ratio))
    center_high = tf.minimum(heights, tf.round(widths * ratio))
    any_fits = tf.reduce_any(fits, axis=1)
    wide, high = tf.where(any_fits, wide, center_wide), tf.where(any_fits, high, center_high)
    top, left = (
        tf.where(any_fits, tf.floor(place * (side - size + 1)), tf.floor((side - size) / 2))
        for place, side, size in zip(places, (heights, widths), (high, wide), strict=True)
    )
    return tf.stack([top, left, high, wide], axis=1)


def resize_boxes(images: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Return the content of a box of each image, enlarged bilinearly to the image's size; uint8 in and out.

    Args:
        images: `[images, height, width, channels]`.
        boxes: as `draw_boxes` returns them.
    """
    count, height, width, _ = tf.unstack(tf.shape(images))
    top, left, high, wide = tf.unstack(boxes, axis=1)
    # crop_and_resize takes corners in 0..1 between the centers of the first and last pixel, and samples the output's
    # outer pixels there. A pixel of the output is box / size pixels wide: its center lies half of that inside the box.
    size_y, size_x = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    inset_y, inset_x = high / size_y / 2 - 0.5, wide / size_x / 2 - 0.5
    corners = [
        *((top + inset_y) / (size_y - 1), (left + inset_x) / (size_x - 1)),
        *((top + high - 1 - inset_y) / (size_y - 1), (left + wide - 1 - inset_x) / (size_x - 1)),
    ]
    corners = tf.clip_by_value(tf.stack(corners, axis=1), 0, 1)
    resized = tf.image.crop_and_resize(images, corners, tf.range(count), (height, width))
    return tf.ensure_shape(tf.cast(resized + 0.5, tf.uint8), images.shape)
