"""Training images as batches: shuffled, augmented, a share for each replica."""

from __future__ import annotations

import contextlib
import traceback

import tensorflow as tf

from ..augmentation.augment import Augmentation
from ..recipe import Recipe
from ..strategy import Replicas
from .dataset import Split
from .lazy_images import LazyImages


class Unreadable(OSError):
    """A picture vanished, or was damaged, while a model was trained on it."""


def distributed_batches(split: Split, classes: int, recipe: Recipe, replicas: Replicas, start: int, stop: int):
    """Return an iterator over the steps `start` to `stop`, of what each replica is given.

    An element is (images float32 `[share, height, width, channels]`, pixels 0..255, labels float32 `[share,
    classes]`). What is in a step is a function of the recipe and the step alone: a run that resumes at a step, or
    on other replicas, sees what it would have seen. Each epoch is another order; what does not fill a batch at its
    end is left out.
    """
    steps_per_epoch = len(split) // recipe.batch_size
    share = recipe.batch_size // replicas.num_replicas
    with tf.device("CPU:0"):  # also where there are GPUs, whose memory is for training
        labels = tf.constant(split.labels)

    def place(number):
        """Return the step, the places in the global batch and the images, of a replica's share."""
        step, replica = (
            number // replicas.local_replicas,
            replicas.worker * replicas.local_replicas + number % replicas.local_replicas,
        )
        epoch, first = step // steps_per_epoch, step % steps_per_epoch * recipe.batch_size
        # With accumulation, all replicas' first parts together are the first part that one device would have: its
        # normalization sees the same images.
        parts = tf.range(recipe.gradient_accumulation_steps, dtype=tf.int64)[:, None] * (
            recipe.batch_size // recipe.gradient_accumulation_steps
        )
        part = share // recipe.gradient_accumulation_steps
        positions = tf.reshape(parts + replica * part + tf.range(part, dtype=tf.int64), [share])
        seed = tf.stack([tf.constant(recipe.seed, tf.int64), epoch])
        chosen = tf.random.experimental.index_shuffle(first + positions, tf.cast(seed, tf.int32), len(split) - 1)
        return tf.cast(step, tf.int32), Augmentation(recipe, classes, positions), chosen

    def batch(number, cropped):
        step, augmentation, chosen = place(number)
        return augmentation.batch(step, cropped, tf.gather(labels, chosen))

    def of_worker(_):
        numbers = tf.data.Dataset.range(start * replicas.local_replicas, stop * replicas.local_replicas)
        if isinstance(split.images, LazyImages):
            cropped = _cropped_from_files(split.images, numbers, place, recipe.random_crop).batch(share)
        else:
            cropped = _cropped_in_memory(split.images, numbers, place)
        batches = tf.data.Dataset.zip(numbers, cropped)
        return batches.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)

    return iter(replicas.strategy.distribute_datasets_from_function(of_worker))


@contextlib.contextmanager
def closing_reader_on_error(split: Split):
    """Let errors end, in functions called from here, what reads a split: soon, and in a sentence.

    An error's frames hold the iterator, and an interpreter that exits with it waits for ever for the functions in
    Python that TensorFlow would still call. So the frames are emptied; the traceback keeps its lines.

    Raises Unreadable: a picture could not be read.
    """
    try:
        yield
    except BaseException as error:
        inner = error
        while inner is not None:
            traceback.clear_frames(inner.__traceback__)
            inner = inner.__context__
        unread = getattr(split.images, "unread", None)
        if unread is None or not isinstance(error, tf.errors.OpError):
            raise
        raise Unreadable(
            f"{unread}; it could be read when training began: put it back, and the same command goes on"
        ) from None


def _cropped_in_memory(images, numbers, place):
    with tf.device("CPU:0"):
        images = tf.constant(images)

    def cropped(number):
        step, augmentation, chosen = place(number)
        return augmentation.crop(step, tf.gather(images, chosen))

    return numbers.map(cropped, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _cropped_from_files(pictures, numbers, place, crops):
    sizes = tf.constant(pictures.sizes)

    def of_share(number):
        step, augmentation, chosen = place(number)
        heights, widths = tf.unstack(tf.gather(sizes, chosen), axis=1)
        return chosen, augmentation.boxes(step, heights, widths), augmentation.bicubic(step)

    def read(index, box, bicubic):
        # Without crops, as evaluation sees it.
        arguments, function = ([index, box, bicubic], pictures.cut) if crops else ([index], pictures.__getitem__)
        image = tf.numpy_function(function, arguments, tf.uint8, stateful=False)
        return tf.ensure_shape(image, pictures.shape[1:])

    each = numbers.map(of_share).unbatch()
    return each.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
