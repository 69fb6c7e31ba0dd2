"""Pictures as their files are, decoded when they are needed: what training crops from, and what exceeds memory.

Pillow decodes and resizes, as in timm and as evaluation does: here five times as fast as TensorFlow's own decoder,
which is built without the processor's vector instructions, and with the same orientation, colours and formats.
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
"""Errors of the system that say nothing about the file that was opened: too many are open, no memory is left."""
QUEUED = 4096
"""Pictures that wait for a thread at once; each takes 2 kB."""


class Source(Protocol):
    """Encoded pictures with labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Path | bytes, int]: ...

    def name(self, index: int) -> str:
        """Return what a person finds an image by."""
        ...


@dataclass(frozen=True)
class Files:
    """Picture files with their labels."""

    paths: list[Path]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        """Return a picture's file and label."""
        return self.paths[index], int(self.labels[index])

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.paths[index])


class LazyImages:
    """Pictures that are decoded when they are asked for.

    Indexed by a number, a slice or numbers they are what evaluation sees, uint8 `[count, height, width, channels]`,
    like an array in memory.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, source: Source, numbers: np.ndarray, sizes: np.ndarray, preprocessing: Preprocessing):
        """Of a source those of some numbers, int `[count]`, whose upright sizes are int `[count, (height, width)]`."""
        self._source, self._numbers, self.sizes, self._preprocessing = source, numbers, sizes, preprocessing
        self.unread: str | None = None
        """What was wrong with the first picture that could not be read: TensorFlow's own account is a page long."""

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the array that all of them would be."""
        return len(self), self._preprocessing.height, self._preprocessing.width, self._preprocessing.channels

    def take(self, chosen: np.ndarray) -> LazyImages:
        """Return some of them, none decoded."""
        return LazyImages(self._source, self._numbers[chosen], self.sizes[chosen], self._preprocessing)

    def __getitem__(self, chosen) -> np.ndarray:
        if np.ndim(chosen) == 0 and not isinstance(chosen, slice):
            return self._preprocessing.apply(self._read(chosen))
        images = [self[int(index)] for index in np.arange(len(self))[chosen]]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), np.uint8)

    def cut(self, index: int, box: np.ndarray, bicubic: bool) -> np.ndarray:
        """Return what is in a box (top, left, height, width) at the size of the model's images, with antialias.

        Source: torchvision's `resized_crop` on Pillow images, as timm's RandomResizedCropAndInterpolation calls it.
        """
        top, left, high, wide = (int(value) for value in box)
        picture = self._read(index).convert("RGB" if self._preprocessing.channels == 3 else "L")
        picture = picture.crop((left, top, left + wide, top + high))
        way = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
        size = (self._preprocessing.width, self._preprocessing.height)
        return np.asarray(picture.resize(size, way)).reshape(self.shape[1:])

    def _read(self, index):
        number = int(self._numbers[index])
        file, _ = self._source[number]
        try:
            return read_image(file, self._preprocessing.max_pixels)
        except (OSError, ValueError) as error:
            self.unread = self.unread or _named(error, file, self._source, number)
            raise


@dataclass(frozen=True)
class Checked:
    """A source's pictures that can be read."""

    images: np.ndarray | LazyImages
    labels: np.ndarray
    kept: np.ndarray
    """Their places in the source, int `[count]`."""
    damaged: tuple[str, ...]
    """A sentence for each picture that was left out."""


def decode_and_validate(
    source: Source, preprocessing: Preprocessing, in_memory: bool, track: Callable[[Iterable], Iterable] = iter
) -> Checked:
    """Decode every picture once, in threads, to leave out those that are damaged; keep them if `in_memory`.

    Training would otherwise meet them after hours, and which are left out would depend on when.

    Raises ValueError: more than 1 % are damaged.
    """
    images = np.empty((len(source), *_shape(preprocessing)), np.uint8) if in_memory else None

    def one(index):
        file, label = source[index]
        try:
            picture = read_image(file, preprocessing.max_pixels)
            if in_memory:
                images[index] = preprocessing.apply(picture)
        except (OSError, ValueError) as error:  # OSError: a broken link, or a file that may not be read
            if getattr(error, "errno", None) in OF_THE_PROCESS:
                raise
            return None, label, _named(error, file, source, index)
        return (picture.height, picture.width), label, None

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        parts = (range(start, min(start + QUEUED, len(source))) for start in range(0, len(source), QUEUED))
        found = itertools.chain.from_iterable(threads.map(one, part) for part in parts)
        sizes, labels, problems = zip(*track(found), strict=True)
    damaged = tuple(problem for problem in problems if problem)
    require_few_damaged(damaged, len(source))
    kept = np.flatnonzero([size is not None for size in sizes])
    if in_memory:
        images = images if not damaged else images[kept]
    else:
        images = LazyImages(source, kept, np.array([sizes[index] for index in kept], np.int32), preprocessing)
    return Checked(images, np.array(labels, np.int64)[kept], kept, damaged)


def track(progress: Progress | None, name: str, count: int) -> Callable[[Iterable], Iterable]:
    """Return a function that shows by a bar how far something is read."""

    def said(items):
        if progress is None:
            yield from items
            return
        task = progress.add_task(f"reading {name}", total=count, detail="")
        for item in items:
            yield item
            progress.advance(task)
        progress.remove_task(task)

    return said


def _named(error, file, source, index):
    name = source.name(index)
    return sentence_of_failure(name, error) if isinstance(file, Path) else f"{name}: {error}"


def _shape(preprocessing):
    return preprocessing.height, preprocessing.width, preprocessing.channels
