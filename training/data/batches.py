"""Batches of training images: shuffled, augmented, divided among the replicas."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from ..augmentation.augment import Augmentation
from ..devices.replicas import Replicas
from ..recipe import AugmentationConfig
from .dataset import Split
from .lazy_images import LazyImages

_without_autograph = tf.autograph.experimental.do_not_convert
"""Traces a function as it is: what is mapped here has no `if` or `for` of tensors, and rewriting it takes a second."""


class Unreadable(OSError):
    """An image file vanished, or was damaged, while a model was trained on it."""


class ReplicaShare(NamedTuple):
    """Images that one replica trains on in one step."""

    step: tf.Tensor
    """int32 scalar."""
    positions: tf.Tensor
    """Places in the global batch, int64 `[share]`."""
    indices: tf.Tensor
    """Indices of the images in the training split, int64 `[share]`."""


@dataclass(frozen=True)
class InputPipeline:
    """Batches of a training split, for all replicas.

    The content of a step's batch is a function of these fields and the step alone: a run that resumes at a step, or
    that continues on other replicas, sees what it would have seen. Each epoch has another order; images that do not
    fill a batch at its end are left out.
    """

    split: Split
    classes: int
    augmentation: AugmentationConfig
    batch_size: int
    """Images in a global batch, over all replicas."""
    seed: int
    gradient_accumulation_steps: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches."""
        return len(self.split) // self.batch_size

    def batches(self, replicas: Replicas, start: int, stop: int) -> Iterator:
        """Return an iterator over the steps `start` to `stop`.

        An element holds, for each replica, (images float32 `[share, height, width, channels]`, pixels 0..255; labels
        float32 `[share, classes]`), where share is batch_size / replicas.
        """
        share_size = self.batch_size // replicas.num_replicas
        with tf.device("CPU:0"):  # also where there are GPUs, whose memory is for training
            labels = tf.constant(self.split.labels)

        def share_of(element):
            return self._share_of(element, replicas)

        @_without_autograph
        def augment(element, cropped):
            share = share_of(element)
            augmentation = self._augmentation(share.positions)
            return augmentation.batch(share.step, cropped, tf.gather(labels, share.indices))

        # TensorFlow calls this once on each worker, for all of its replicas.
        def of_worker(_):
            elements = tf.data.Dataset.range(start * replicas.local_replicas, stop * replicas.local_replicas)
            if isinstance(self.split.images, LazyImages):
                cropped = self._crop_from_files(elements, share_of).batch(share_size)
            else:
                cropped = self._crop_in_memory(elements, share_of)
            batches = tf.data.Dataset.zip(elements, cropped)
            batches = batches.map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            return batches.prefetch(tf.data.AUTOTUNE)

        return iter(replicas.strategy.distribute_datasets_from_function(of_worker))

    def _augmentation(self, positions):
        return Augmentation(self.augmentation, self.classes, self.batch_size, self.seed, positions)

    def _share_of(self, element: tf.Tensor, replicas: Replicas) -> ReplicaShare:
        """Return the images of one element of this worker's data set, int64 scalar.

        Elements count the worker's replicas within each step: element = step * local_replicas + local replica. For
        example, a batch of 8 on 2 replicas with 2 accumulation steps: each step computes 4 images, 2 on each replica.
        Replica 0 has the positions 0, 1 and 4, 5 of the batch, replica 1 has 2, 3 and 6, 7.
        """
        step = element // replicas.local_replicas
        replica = replicas.worker * replicas.local_replicas + element % replicas.local_replicas
        # All replicas' first parts together are the first part that one device would have, so that BatchNormalization
        # sees the same images on any number of replicas.
        parts = self.gradient_accumulation_steps
        part_starts = tf.range(parts, dtype=tf.int64)[:, None] * (self.batch_size // parts)  # [parts, 1]
        share_size = self.batch_size // replicas.num_replicas
        part_size = share_size // parts
        positions = part_starts + replica * part_size + tf.range(part_size, dtype=tf.int64)  # [parts, part_size]
        positions = tf.reshape(positions, [share_size])

        # index_shuffle returns one element of a permutation of 0..max_index without storing the permutation.
        epoch, first = step // self.steps_per_epoch, step % self.steps_per_epoch * self.batch_size
        seed = tf.cast(tf.stack([tf.constant(self.seed, tf.int64), epoch]), tf.int32)
        indices = tf.random.experimental.index_shuffle(first + positions, seed, len(self.split) - 1)  # pyright: ignore[reportAttributeAccessIssue]
        return ReplicaShare(tf.cast(step, tf.int32), positions, indices)

    def _crop_in_memory(self, elements, share_of):
        """Return a data set of a share's cropped images, uint8 `[share, height, width, channels]`."""
        with tf.device("CPU:0"):
            images = tf.constant(self.split.images)

        @_without_autograph
        def crop(element):
            share = share_of(element)
            return self._augmentation(share.positions).crop(share.step, tf.gather(images, share.indices))

        return elements.map(crop, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _crop_from_files(self, elements, share_of):
        """Return a data set of single cropped images, uint8 `[height, width, channels]`, decoded by Pillow."""
        images = self.split.images
        sizes = tf.constant(images.sizes)  # [images, (height, width)]  # pyright: ignore[reportAttributeAccessIssue]

        @_without_autograph
        def locate(element):
            share = share_of(element)
            heights, widths = tf.unstack(tf.gather(sizes, share.indices), axis=1)
            augmentation = self._augmentation(share.positions)
            return share.indices, augmentation.boxes(share.step, heights, widths), augmentation.bicubic(share.step)

        @_without_autograph
        def read(index, box, bicubic):
            if self.augmentation.random_crop:
                arguments, function = [index, box, bicubic], images.cut  # pyright: ignore[reportAttributeAccessIssue]
            else:  # the center crop, as in evaluation
                arguments, function = [index], images.__getitem__
            image = tf.numpy_function(function, arguments, tf.uint8, stateful=False)
            return tf.ensure_shape(image, images.shape[1:])

        # Single images, not shares, so that the threads decode images of several shares at once.
        each = elements.map(locate).unbatch()
        return each.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


@contextlib.contextmanager
def closing_reader_on_error(split: Split) -> Iterator[None]:
    """On an error, release the iterator that reads `split`, so that the process can exit; name an unreadable image.

    An error's traceback holds the frames, which hold the iterator, and an interpreter that exits with it waits
    forever for the Python functions that TensorFlow would still call. So the frames are cleared; the traceback keeps
    its lines.

    Raises:
        Unreadable: instead of TensorFlow's error, when an image could not be read.
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
            f"{unread}; it could be read when training began: put it back, and run the same command to resume"
        ) from None
