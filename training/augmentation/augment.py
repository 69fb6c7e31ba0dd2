"""The augmentation of a training batch: crop, flip, RandAugment, color jitter, erasing, mixup and CutMix.

Every random number is a function of the recipe's seed, the step and the image's place in the global batch. The same
run again, resumed, or spread over other replicas, sees the same images.
"""

from __future__ import annotations

import tensorflow as tf

from ..recipe import AugmentationConfig
from . import crops, erasing
from .mixing import mix_pairs
from .rand_augment import SPACES, RandAugment, blend

PURPOSES = ("crop", "resize", "flip", "jitter", "rand_augment", "erase", "mix")
"""Kinds of random changes; each draws numbers from a seed of its own, which its place here decides."""


class Augmentation:
    """Augmentation of the images at fixed positions of every global batch, such as a replica's share."""

    def __init__(self, config: AugmentationConfig, classes: int, batch_size: int, seed: int, positions: tf.Tensor):
        """Prepare the augmentation.

        Args:
            config: what to do.
            classes: number of labels.
            batch_size: images in a global batch.
            seed: the recipe's.
            positions: places of these images in the global batch, int `[images]`, of a static length.
        """
        self._config, self._classes, self._positions = config, classes, positions
        self._batch_size, self._seed = batch_size, seed
        self._rand_augment = None
        if config.rand_augment != "none":
            # torchvision's magnitudes go to 30, the scale of RandAugment here to 10.
            magnitude = config.rand_augment_magnitude / (3 if config.rand_augment == "torchvision" else 1)
            self._rand_augment = RandAugment(
                SPACES[config.rand_augment], config.rand_augment_num_ops, magnitude, config.rand_augment_magnitude_std
            )

    def draws(self, step: tf.Tensor, purpose: str, count: int) -> tf.Tensor:
        """Return uniform numbers in 0..1 for these images, float32 `[images, count]`."""
        # Drawn for the whole batch, so that an image's numbers do not depend on how replicas share the batch.
        whole_batch = tf.random.stateless_uniform((self._batch_size, count), self._step_seed(step, purpose))
        return tf.gather(whole_batch, self._positions)

    def _step_seed(self, step, purpose):
        return tf.stack([tf.constant(self._seed * len(PURPOSES) + PURPOSES.index(purpose)), step])

    def boxes(self, step: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor) -> tf.Tensor:
        """Draw the crop of each image: top, left, height and width in pixels, float32 `[images, 4]`."""
        draws = self.draws(step, "crop", crops.NUM_DRAWS)
        return crops.draw_boxes(draws, heights, widths, self._config.crop_scale, self._config.crop_ratio)

    def bicubic(self, step: tf.Tensor) -> tf.Tensor:
        """Draw which images are resized bicubically, not bilinearly: half of them, bool `[images]`, as timm does."""
        return self.draws(step, "resize", 1)[:, 0] < 0.5

    def crop(self, step: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Crop and enlarge images in memory, uint8 `[images, height, width, channels]` in and out."""
        if not self._config.random_crop:
            return images
        count, height, width, _ = tf.unstack(tf.shape(images))
        return crops.resize_boxes(images, self.boxes(step, tf.fill([count], height), tf.fill([count], width)))

    def flip_and_recolor(self, step: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Apply flip, RandAugment and color jitter: uint8 `[images, height, width, 3]` in and out."""
        if self._config.flip:
            mirrored = tf.where(self.draws(step, "flip", 1)[:, 0] < 0.5)  # [mirrored, 1]
            # tf.where on the images would take ten times as long.
            reversed_ = tf.reverse(tf.gather(images, mirrored[:, 0]), [2])
            images = tf.tensor_scatter_nd_update(images, mirrored, reversed_)
        if self._rand_augment:
            draws = self.draws(step, "rand_augment", RandAugment.DRAWS * self._rand_augment.layers)
            images = self._rand_augment(images, draws)
        return self._jitter(step, images) if self._config.color_jitter else images

    def _jitter(self, step, images):
        """Change brightness, contrast and saturation, in this order (torchvision's is random), each by a factor."""
        factors = 1 + (self.draws(step, "jitter", 3) * 2 - 1) * self._config.color_jitter  # [images, 3]
        images = blend(0.0, images, factors[:, 0])  # brightness: towards black, or away from it
        grey = tf.reduce_mean(tf.image.rgb_to_grayscale(tf.cast(images, tf.float32)), (1, 2, 3), keepdims=True)
        images = blend(
            tf.floor(grey + 0.5), images, factors[:, 1]
        )  # contrast: the image's mean grey, [images, 1, 1, 1]
        return blend(tf.image.rgb_to_grayscale(images), images, factors[:, 2])  # saturation: each pixel's grey

    def erase(self, step: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Replace a rectangle of some images by noise: float32 in and out, pixels 0..255."""
        if not self._config.erasing_probability:
            return images
        draws = self.draws(step, "erase", erasing.NUM_DRAWS)
        return erasing.erase(images, draws, step, self._config.erasing_probability)

    def mix(self, step: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Apply mixup or CutMix to images float32 and labels float32 `[images, classes]`."""
        if not self._config.mixes_pairs:
            return images, labels
        seed = self._step_seed(step, "mix")
        return mix_pairs(images, labels, seed, self._config.mixup_alpha, self._config.cutmix_alpha)

    def labels(self, labels: tf.Tensor) -> tf.Tensor:
        """Return smoothed one-hot labels, float32 `[images, classes]`."""
        smoothing = self._config.label_smoothing
        return tf.one_hot(labels, self._classes, 1 - smoothing + smoothing / self._classes, smoothing / self._classes)

    def batch(self, step: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Apply everything after the crop.

        Args:
            step: int32 scalar.
            images: uint8 `[images, height, width, 3]`.
            labels: int `[images]`.

        Returns:
            Images float32 `[images, height, width, 3]`, pixels 0..255, and labels float32 `[images, classes]`.
        """
        images = self.erase(step, tf.cast(self.flip_and_recolor(step, images), tf.float32))
        return self.mix(step, images, self.labels(labels))
