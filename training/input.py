"""Training images as batches: shuffled, augmented, a share for each replica."""

from __future__ import annotations

import tensorflow as tf

from .augment import Augmentation
from .data import Split
from .recipe import Recipe
from .strategy import Replicas


def distributed_batches(split: Split, classes: int, recipe: Recipe, replicas: Replicas, start: int, stop: int):
    """Return an iterator over the steps `start` to `stop`, of what each replica is given.

    An element is (images float32 `[share, height, width, channels]`, pixels 0..255, labels float32 `[share,
    classes]`). What is in a step is a function of the recipe and the step alone: a run that resumes at a step, or
    on other replicas, sees what it would have seen. Each epoch is another order; what does not fill a batch at its
    end is left out.
    """
    steps_per_epoch = len(split) // recipe.batch_size
    with tf.device("CPU:0"):  # also where there are GPUs, whose memory is for training
        images, labels = tf.constant(split.images), tf.constant(split.labels)
    share = recipe.batch_size // replicas.count

    def batch(number):
        step, replica = number // replicas.here, replicas.worker * replicas.here + number % replicas.here
        epoch, place = step // steps_per_epoch, step % steps_per_epoch
        # With accumulation, all replicas' first parts together are the first part that one device would have: its
        # normalization sees the same images.
        parts = tf.range(recipe.accumulation, dtype=tf.int64)[:, None] * (recipe.batch_size // recipe.accumulation)
        part = share // recipe.accumulation
        positions = tf.reshape(parts + replica * part + tf.range(part, dtype=tf.int64), [share])
        seed = tf.stack([tf.constant(recipe.seed, tf.int64), epoch])
        chosen = place * recipe.batch_size + positions
        chosen = tf.random.experimental.index_shuffle(chosen, tf.cast(seed, tf.int32), len(split) - 1)
        augmentation, step = Augmentation(recipe, classes, positions), tf.cast(step, tf.int32)
        cropped = augmentation.crop(step, tf.gather(images, chosen))
        return augmentation.batch(step, cropped, tf.gather(labels, chosen))

    def of_worker(_):
        numbers = tf.data.Dataset.range(start * replicas.here, stop * replicas.here)
        return numbers.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)

    return iter(replicas.strategy.distribute_datasets_from_function(of_worker))
