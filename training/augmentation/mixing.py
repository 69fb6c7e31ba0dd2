"""Mixup and CutMix. Source: timm's Mixup, mode "batch"."""

from __future__ import annotations

import tensorflow as tf


def mix_pairs(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, mixup_alpha: float, cutmix_alpha: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image with its neighbor in the batch, and their labels by the fraction of each.

    One fraction and one method, mixup or CutMix, for a whole batch, as in timm. The partner there is the image at the
    same place of the reversed batch; here it is the other of a pair (0 and 1, 2 and 3, ...), which is on the same
    replica. With CutMix the labels' fraction is exactly that of the pixels.

    Args:
        images: float32 `[images, height, width, 3]`, an even number of them.
        labels: float32 `[images, classes]`.
        seed: int32 `[2]`, the same for all shares of a batch.
        mixup_alpha: of the beta distribution of the fraction; 0: no mixup.
        cutmix_alpha: likewise; 0: no CutMix. With both, each is taken for half of the batches.
    """
    method, center_y, center_x = tf.unstack(tf.random.stateless_uniform([3], seed))
    use_cutmix = tf.constant(bool(cutmix_alpha)) & ((method < 0.5) | tf.constant(not mixup_alpha))
    alpha = tf.where(use_cutmix, cutmix_alpha, mixup_alpha)
    # Of two numbers of a gamma distribution, the first's share of their sum has the beta distribution.
    gammas = tf.random.stateless_gamma([2], seed + tf.constant([0, 1 << 30]), alpha=alpha)
    fraction = gammas[0] / tf.maximum(tf.reduce_sum(gammas), 1e-30)
    partner = tf.bitwise.bitwise_xor(tf.range(tf.shape(images)[0]), 1)  # 1, 0, 3, 2, ...
    others, other_labels = tf.gather(images, partner), tf.gather(labels, partner)

    def inside_box(side, center):
        """Tell of each row, or column, whether it crosses a box of sqrt(1 - fraction) of the side; bool `[side]`."""
        length = tf.floor(side * tf.sqrt(1 - fraction))
        middle = tf.floor(center * side)
        half = tf.floor(length / 2)
        places = tf.range(side, dtype=tf.float32)
        return (places >= middle - half) & (places < middle + half)

    height, width = images.shape[1:3]
    inside = inside_box(height, center_y)[:, None] & inside_box(width, center_x)[None]  # [height, width]
    fraction = tf.where(use_cutmix, 1 - tf.reduce_mean(tf.cast(inside, tf.float32)), fraction)
    mixed = tf.cond(
        use_cutmix,
        lambda: tf.where(inside[None, :, :, None], others, images),
        lambda: images * fraction + others * (1 - fraction),
    )
    return mixed, labels * fraction + other_labels * (1 - fraction)
