"""Image files that are decoded when they are needed: for random crops, and for data sets larger than memory.

Pillow decodes and resizes, as in timm and in evaluation. Measured here it is five times as fast as TensorFlow's own
decoder, which is built without the processor's vector instructions.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from rich.progress import Progress

from keras_convmixer.images.decoding import read_image
from keras_convmixer.images.folders import require_few_damaged, sentence_of_failure
from keras_convmixer.images.preprocessing import Preprocessing

OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""System errors that say nothing about the opened file: too many files are open, or no memory is left."""
QUEUED = 4096
"""Files that wait for a thread at the same time; each takes 2 kB."""


class Source(Protocol):
    """Encoded images with labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Path | bytes, int]: ...

    def name(self, index: int) -> str:
        """Return the name by which the user finds an image."""
        ...


@dataclass(frozen=True)
class Files:
    """Image files with their labels."""

    paths: list[Path]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        """Return an image's file and label."""
        return self.paths[index], int(self.labels[index])

    def name(self, index: int) -> str:
        """Return the file's path."""
        return str(self.paths[index])


class LazyImages:
    """Images of a source, decoded when they are indexed.

    Like an array in memory, they are indexed by an integer, a slice or an array, and have the shape uint8 `[count,
    height, width, channels]`: resized and center-cropped as evaluation sees them.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, source: Source, indices: np.ndarray, sizes: np.ndarray, preprocessing: Preprocessing):
        """Select the images of `source` at `indices`, int `[count]`; `sizes` are their (height, width) when upright."""
        self._source, self._indices, self.sizes, self._preprocessing = source, indices, sizes, preprocessing
        self.unread: str | None = None
        """A sentence about the first image that could not be read; TensorFlow's own message is a page long."""

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of all images as an array."""
        return len(self), self._preprocessing.height, self._preprocessing.width, self._preprocessing.channels

    def take(self, indices: np.ndarray) -> LazyImages:
        """Return the images at `indices`, int or bool `[count]`, without decoding them."""
        return LazyImages(self._source, self._indices[indices], self.sizes[indices], self._preprocessing)

    def __getitem__(self, indices: int | slice | np.ndarray) -> np.ndarray:
        if np.ndim(indices) == 0 and not isinstance(indices, slice):
            return self._preprocessing.apply(self._read(indices))
        images = [self[int(index)] for index in np.arange(len(self))[indices]]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), np.uint8)

    def cut(self, index: int, box: np.ndarray, bicubic: bool) -> np.ndarray:
        """Return the box (top, left, height, width) of an image, in pixels, resized to the model's size with antialias.

        Source: torchvision's `resized_crop` on Pillow images, as timm's RandomResizedCropAndInterpolation calls it.
        """
        top, left, high, wide = (int(value) for value in box)
        # Converted before it is resized: a palette's indices cannot be interpolated.
        image = self._read(index).convert("RGB" if self._preprocessing.channels == 3 else "L")
        image = image.crop((left, top, left + wide, top + high))
        filter = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
        size = (self._preprocessing.width, self._preprocessing.height)
        return np.asarray(image.resize(size, filter)).reshape(self.shape[1:])

    def _read(self, index):
        source_index = int(self._indices[index])
        file, _ = self._source[source_index]
        try:
            return read_image(file, self._preprocessing.max_pixels)
        except (OSError, ValueError) as error:
            self.unread = self.unread or _named(error, file, self._source, source_index)
            raise


@dataclass(frozen=True)
class Checked:
    """Images of a source that can be read."""

    images: np.ndarray | LazyImages
    labels: np.ndarray
    kept: np.ndarray
    """Indices of these images in the source, int `[count]`."""
    damaged: tuple[str, ...]
    """A sentence for each image that was left out."""


def decode_and_validate(
    source: Source, preprocessing: Preprocessing, in_memory: bool, track: Callable[[Iterable], Iterable] = iter
) -> Checked:
    """Decode every image once, in threads, and leave out those that are damaged.

    Otherwise training would meet them after hours, and the images that are left out would depend on when they were
    damaged.

    Args:
        source: encoded images with labels.
        preprocessing: how an encoded image becomes one of the model's size.
        in_memory: keep the resized images; otherwise they are decoded again when they are needed.
        track: passes an iterable on while it shows progress.

    Raises:
        ValueError: more than 1 % are damaged.
    """
    # Each thread writes its own images; a damaged one's place stays undefined, and is removed at the end.
    images = np.empty((len(source), *_shape(preprocessing)), np.uint8) if in_memory else None

    def decode(index):
        file, label = source[index]
        try:
            image = read_image(file, preprocessing.max_pixels)
            if in_memory:
                images[index] = preprocessing.apply(image)
        except (OSError, ValueError) as error:  # OSError: a broken link, or a file that may not be read
            if getattr(error, "errno", None) in OF_THE_PROCESS:
                raise
            return None, label, _named(error, file, source, index)
        return (image.height, image.width), label, None

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        # `map` makes a task of every item at once: in parts, a million files do not take 2 GB.
        parts = (range(start, min(start + QUEUED, len(source))) for start in range(0, len(source), QUEUED))
        decoded = itertools.chain.from_iterable(threads.map(decode, part) for part in parts)
        sizes, labels, problems = zip(*track(decoded), strict=True)
    damaged = tuple(problem for problem in problems if problem)
    require_few_damaged(damaged, len(source))
    kept = np.flatnonzero([size is not None for size in sizes])
    if in_memory:
        images = images if not damaged else images[kept]
    else:
        images = LazyImages(source, kept, np.array([sizes[index] for index in kept], np.int32), preprocessing)
    return Checked(images, np.array(labels, np.int64)[kept], kept, damaged)


def track(progress: Progress | None, name: str, count: int) -> Callable[[Iterable], Iterable]:
    """Return a function that passes `count` items on and shows a bar of how many were read."""

    def tracked(items):
        if progress is None:
            yield from items
            return
        task = progress.add_task(f"reading {name}", total=count, detail="")
        for item in items:
            yield item
            progress.advance(task)
        progress.remove_task(task)

    return tracked


def _named(error, file, source, index):
    """Return a sentence about an image that cannot be read."""
    name = source.name(index)
    return sentence_of_failure(name, error) if isinstance(file, Path) else f"{name}: {error}"


def _shape(preprocessing):
    return preprocessing.height, preprocessing.width, preprocessing.channels
