"""What a training batch goes through: crop, flip, colour jitter, RandAugment, erasing, mixup and cutmix.

Every random number is a function of the recipe's seed, the step and the image's place in the global batch, so
that the same run again, resumed, or spread over other replicas sees the same images.
"""

from __future__ import annotations

import math

import tensorflow as tf

from keras_convmixer.imagenet import DEVIATION, MEAN

from ..recipe import Recipe
from .rand_augment import SPACES, RandAugment, blend

CROP_ATTEMPTS = 10
ERASE_ATTEMPTS = 10
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
PURPOSES = ("crop", "resize", "flip", "jitter", "rand_augment", "erase", "mix")


class Augmentation:
    """The augmentation of a recipe, for a share of each global batch."""

    def __init__(self, recipe: Recipe, classes: int, positions: tf.Tensor):
        """`positions`: which images of the global batch these are, int `[images]`, of a length that is known."""
        self._recipe, self._classes, self._positions = recipe, classes, positions
        self._rand_augment = None
        if recipe.rand_augment != "none":
            strength = recipe.rand_augment_magnitude / (3 if recipe.rand_augment == "torchvision" else 1)
            deviation = recipe.rand_augment_magnitude_std
            space = SPACES[recipe.rand_augment]
            self._rand_augment = RandAugment(space, recipe.rand_augment_num_ops, strength, deviation)

    def draws(self, step: tf.Tensor, purpose: str, count: int) -> tf.Tensor:
        """Return uniform numbers in 0..1 for these images, float32 `[images, count]`."""
        seed = tf.stack([tf.constant(self._recipe.seed * len(PURPOSES) + PURPOSES.index(purpose)), step])
        everyone = tf.random.stateless_uniform((self._recipe.batch_size, count), seed)
        return tf.gather(everyone, self._positions)

    def boxes(self, step: tf.Tensor, heights, widths) -> tf.Tensor:
        """Draw what part of each picture is seen: top, left, height and width, float32 `[images, 4]`, in pixels.

        Source: timm's RandomResizedCropAndInterpolation: a share of the area and a ratio, drawn up to ten times
        until it fits, else the centre.
        """
        heights, widths = (tf.cast(side, tf.float32)[:, None] for side in (heights, widths))
        draws = tf.reshape(self.draws(step, "crop", CROP_ATTEMPTS * 4), (-1, CROP_ATTEMPTS, 4))
        area = heights * widths * (self._recipe.crop_scale + draws[..., 0] * (1 - self._recipe.crop_scale))
        spread = math.log(self._recipe.crop_ratio)
        ratio = tf.exp(-spread + draws[..., 1] * 2 * spread)
        wide, high = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
        fits = (wide <= widths) & (high <= heights)
        first = tf.argmax(fits, axis=1)
        wide, high, *places = (tf.gather(v, first, batch_dims=1) for v in (wide, high, draws[..., 2], draws[..., 3]))
        heights, widths = heights[:, 0], widths[:, 0]
        centre_wide = tf.minimum(widths, tf.round(heights * self._recipe.crop_ratio))
        centre_high = tf.minimum(heights, tf.round(widths * self._recipe.crop_ratio))
        any_fits = tf.reduce_any(fits, axis=1)
        wide, high = tf.where(any_fits, wide, centre_wide), tf.where(any_fits, high, centre_high)
        top, left = (
            tf.where(any_fits, tf.floor(place * (side - size + 1)), tf.floor((side - size) / 2))
            for place, side, size in zip(places, (heights, widths), (high, wide), strict=True)
        )
        return tf.stack([top, left, high, wide], axis=1)

    def bicubic(self, step: tf.Tensor) -> tf.Tensor:
        """Draw which pictures are resized bicubic and not bilinear: half of them, bool `[images]`, as timm does."""
        return self.draws(step, "resize", 1)[:, 0] < 0.5

    def crop(self, step: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Cut a part out of each image in memory and enlarge it, bilinear; uint8 in and out."""
        if not self._recipe.random_crop:
            return images
        count, height, width, _ = tf.unstack(tf.shape(images))
        boxes = self.boxes(step, tf.fill([count], height), tf.fill([count], width))
        top, left, high, wide = tf.unstack(boxes, axis=1)
        # crop_and_resize samples corners at corners; pixels are seen at their centres.
        size_y, size_x = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        inset_y, inset_x = high / size_y / 2 - 0.5, wide / size_x / 2 - 0.5
        corners = [
            *((top + inset_y) / (size_y - 1), (left + inset_x) / (size_x - 1)),
            *((top + high - 1 - inset_y) / (size_y - 1), (left + wide - 1 - inset_x) / (size_x - 1)),
        ]
        corners = tf.clip_by_value(tf.stack(corners, axis=1), 0, 1)
        cut = tf.image.crop_and_resize(images, corners, tf.range(count), (height, width))
        return tf.ensure_shape(tf.cast(cut + 0.5, tf.uint8), images.shape)

    def colours(self, step: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Flip, RandAugment and jitter: uint8 `[images, height, width, 3]` in and out."""
        if self._recipe.flip:
            mirrored = tf.where(self.draws(step, "flip", 1)[:, 0] < 0.5)
            # Not tf.where on the images, which takes ten times as long.
            reversed_ = tf.reverse(tf.gather(images, mirrored[:, 0]), [2])
            images = tf.tensor_scatter_nd_update(images, mirrored, reversed_)
        if self._rand_augment:
            images = self._rand_augment(images, self.draws(step, "rand_augment", 5 * self._rand_augment.layers))
        return self._jittered(step, images) if self._recipe.color_jitter else images

    def _jittered(self, step, images):
        """Brightness, contrast and saturation, each by a factor; torchvision draws their order too."""
        factors = 1 + (self.draws(step, "jitter", 3) * 2 - 1) * self._recipe.color_jitter
        images = blend(0.0, images, factors[:, 0])
        grey = tf.reduce_mean(tf.image.rgb_to_grayscale(tf.cast(images, tf.float32)), (1, 2, 3), keepdims=True)
        images = blend(tf.floor(grey + 0.5), images, factors[:, 1])
        return blend(tf.image.rgb_to_grayscale(images), images, factors[:, 2])

    def erase(self, step: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Replace a rectangle of some images by noise, each pixel's own: float32 in and out, pixels 0..255.

        The noise has ImageNet's mean and deviation, and is not clipped. Source: timm's RandomErasing, mode "pixel".
        """
        if not self._recipe.erasing_probability:
            return images
        height, width = images.shape[1:3]
        draws = self.draws(step, "erase", 2 + 4 * ERASE_ATTEMPTS)
        tries = tf.reshape(draws[:, 2:], (-1, ERASE_ATTEMPTS, 4))
        area = height * width * (ERASED_AREA[0] + tries[..., 0] * (ERASED_AREA[1] - ERASED_AREA[0]))
        low, high = map(math.log, ERASED_RATIO)
        ratio = tf.exp(low + tries[..., 1] * (high - low))
        tall, wide = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
        fits = (tall < height) & (wide < width)
        first = tf.argmax(fits, axis=1)
        tall, wide, *places = (tf.gather(v, first, batch_dims=1) for v in (tall, wide, tries[..., 2], tries[..., 3]))
        top, left = tf.floor(places[0] * (height - tall + 1)), tf.floor(places[1] * (width - wide + 1))
        chosen = tf.where((draws[:, 0] < self._recipe.erasing_probability) & tf.reduce_any(fits, axis=1))[:, 0]

        def erased(number):
            # Noise for the rectangle alone: a sixth of the image in the mean.
            first, sides = (
                [tf.cast(values[number], tf.int32) for values in pair] for pair in ((top, left), (tall, wide))
            )
            seed = tf.stack([tf.bitcast(draws[number, 1], tf.int32), step])
            noise = tf.random.stateless_normal((*sides, 3), seed) * DEVIATION + MEAN
            rows, columns = (tf.range(start, start + length) for start, length in zip(first, sides, strict=True))
            places = tf.stack(tf.meshgrid(rows, columns, indexing="ij"), axis=-1)
            return tf.tensor_scatter_nd_update(images[number], places, noise * 255)

        noisy = tf.map_fn(erased, chosen, fn_output_signature=tf.float32)
        return tf.tensor_scatter_nd_update(images, chosen[:, None], noisy)

    def mix(self, step: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mix each image with its neighbour in the batch, and their labels by the share of each.

        Images float32, labels float32 `[images, classes]`. One share and one way, mixup or cutmix, for a whole
        batch, as timm's "batch" mode; timm's partner is the batch reversed, this one's the other of a pair, which
        is on the same replica. Cutmix's share is that of the pixels that were cut, exactly.
        """
        recipe = self._recipe
        if not (recipe.mixup_alpha or recipe.cutmix_alpha):
            return images, labels
        seed = tf.stack([tf.constant(recipe.seed * len(PURPOSES) + PURPOSES.index("mix")), step])
        which, centre_y, centre_x = tf.unstack(tf.random.stateless_uniform([3], seed))
        cut = tf.constant(bool(recipe.cutmix_alpha)) & ((which < 0.5) | tf.constant(not recipe.mixup_alpha))
        alpha = tf.where(cut, recipe.cutmix_alpha, recipe.mixup_alpha)
        gammas = tf.random.stateless_gamma([2], seed + tf.constant([0, 1 << 30]), alpha=alpha)
        share = gammas[0] / tf.maximum(tf.reduce_sum(gammas), 1e-30)
        partner = tf.bitwise.bitwise_xor(tf.range(len(self._positions)), 1)
        others, other_labels = tf.gather(images, partner), tf.gather(labels, partner)

        def box(side, centre):
            length = tf.floor(side * tf.sqrt(1 - share))
            middle = tf.floor(centre * side)
            half = tf.floor(length / 2)
            places = tf.range(side, dtype=tf.float32)
            return (places >= middle - half) & (places < middle + half)

        height, width = images.shape[1:3]
        inside = box(height, centre_y)[:, None] & box(width, centre_x)[None]
        share = tf.where(cut, 1 - tf.reduce_mean(tf.cast(inside, tf.float32)), share)
        mixed = tf.cond(
            cut,
            lambda: tf.where(inside[None, :, :, None], others, images),
            lambda: images * share + others * (1 - share),
        )
        return mixed, labels * share + other_labels * (1 - share)

    def labels(self, labels: tf.Tensor) -> tf.Tensor:
        """Return one-hot labels, smoothed: float32 `[images, classes]`."""
        smoothing = self._recipe.label_smoothing
        return tf.one_hot(labels, self._classes, 1 - smoothing + smoothing / self._classes, smoothing / self._classes)

    def batch(self, step: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Augment cropped images uint8 and labels int `[images]`: float32 pixels and label distributions."""
        images = self.erase(step, tf.cast(self.colours(step, images), tf.float32))
        return self.mix(step, images, self.labels(labels))
