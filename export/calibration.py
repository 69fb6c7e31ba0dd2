"""Choose and read calibration images: of a data set, of a folder, or of an array in an .npz or .npy file."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import Progress

from keras_convmixer.files.regular_files import NotAFile, open_file
from keras_convmixer.images.decoding import MAX_PIXELS, SUFFIXES, Refused, read_image
from keras_convmixer.images.folders import (
    DAMAGED,
    image_files,
    may_share_test_images,
    require_few_damaged,
    sentence_of_failure,
    sentence_of_others,
)
from keras_convmixer.images.preprocessing import Preprocessing

SPLITS = ("train", "validation", "test")
ARRAYS = (".npz", ".npy")
IMAGES = "images"
"""Name of the array that is read from an .npz file of several."""
SMALL, PACKED = 2**28, 100
"""An array of more than SMALL bytes is refused if it was compressed to less than 1 / PACKED of its size. Photographs
never are; such a file may be made to fill the memory."""
MEMORY = 4_000_000_000
"""Largest size of the sampled images together, in bytes."""
CHUNK = 2**20
"""Bytes of skipped images that are unpacked at once."""


@dataclass(frozen=True)
class Calibration:
    """Calibration images, and what could not be read."""

    images: np.ndarray
    """uint8 `[count, height, width, channels]`, prepared for the model."""
    skipped: tuple[str, ...] = ()
    """One sentence for each file that could not be read."""
    left_out: tuple[str, ...] = ()
    """A sentence that counts the files left out because of their ending, if there are any."""
    source: str = ""
    """Description of the images, without paths of this machine."""


def choose_calibration(
    given: str | None,
    data: str,
    dataset: Any,
    load_dataset: Callable[[str], Any],
    preprocessing: Preprocessing,
    count: int,
    seed: int,
    progress: Progress | None = None,
) -> Calibration:
    """Sample calibration images from what a person named, so that none of them validates the files.

    Args:
        given: a folder of images, an .npz or .npy file, or the name of a data set, with ":train", ":validation" or
            ":test" after it or without; None takes the training images of `data`.
        data: name of the data set whose test images validate the files.
        dataset: that data set, as `training.load_dataset` returns it.
        load_dataset: loads another one by its name; training and export do not import each other.
        preprocessing: turns images into the model's input.
        count: most images to sample.
        seed: of the sampling.
        progress: shows a bar.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: the images are, or may be, among those that validate, or cannot be read.
    """
    if given is None:
        images = dataset.train.sample(count, seed).images[:]
        return Calibration(images, source=f"training images of {data_for_others(data)}")
    shared = f"calibration={given}: each file is validated with images of it; name others, or leave it out"
    name, _, split = given.rpartition(":")
    if split not in SPLITS:
        name, split = given, "train"
        path = Path(given)
        if given.startswith(("/", ".")) or path.is_dir() or path.suffix in ARRAYS:
            if path.is_dir() and Path(data).is_dir() and may_share_test_images(path, Path(data)):
                raise ValueError(shared)
            source = "images of a folder" if path.is_dir() else "images of an array file"
            return replace(read_calibration(path, preprocessing, count, seed, progress), source=source)
    same = name == data or (Path(data).is_dir() and Path(name).resolve() == Path(data).resolve())
    if same and split == "test":
        raise ValueError(shared)
    chosen = dataset if same else load_dataset(name)
    images = getattr(chosen, split).sample(count, seed).images[:]
    source = f"{split} images of {data_for_others(name)}"
    # What was left out of the data that validates is reported already.
    return Calibration(images, source=source) if same else Calibration(images, chosen.damaged, chosen.left_out, source)


def data_for_others(data: str) -> str:
    """Return what a bundle may say of a data set that it was made with: not where on this machine a folder is."""
    return "a folder of images" if Path(data).is_dir() else data


def read_calibration(
    source: str | os.PathLike[str],
    preprocessing: Preprocessing,
    count: int,
    seed: int,
    progress: Progress | None = None,
) -> Calibration:
    """Sample up to `count` images, the same for the same seed, and prepare them for the model.

    Args:
        source: a folder, whose images and those of its subfolders are taken; or an .npz or .npy file of uint8 images
            `[count, height, width, channels]` or grey `[count, height, width]`, pixels 0..255, of any size.
        preprocessing: turns images into the model's input.
        count: most images to sample.
        seed: of the sampling.
        progress: shows a bar.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: there is no image, over 1 % of the folder's images are damaged, or the file holds something else.
    """
    source = Path(source)
    random = np.random.default_rng(seed)
    if source.is_dir():
        return _read_folder(source, preprocessing, count, random, progress)
    if source.suffix not in ARRAYS:
        raise FileNotFoundError(f"{source}: there is no such folder, nor is it an .npz or .npy file")
    images = _read_arrays(source, lambda there: np.sort(random.permutation(there)[:count]))
    if images.shape[1:] == (preprocessing.height, preprocessing.width, preprocessing.channels):
        return Calibration(images)
    images = map(Image.fromarray, images[..., 0] if images.shape[-1] == 1 else images)
    return Calibration(np.stack([preprocessing.apply(image) for image in images]))


def _read_folder(folder, preprocessing, count, random, progress):
    files = image_files(folder)
    paths = files.paths
    if not paths:
        if files.others:
            raise ValueError(
                f"{folder} has no images that can be read ({files.described_others()}): save them as JPEG or PNG, or "
                f"as another of {', '.join(SUFFIXES)}"
            )
        raise ValueError(f"{folder} has no images to calibrate with ({', '.join(SUFFIXES)}): name another folder")
    order = random.permutation(len(paths))
    images, skipped, tried = [], [], 0
    task = progress and progress.add_task("reading calibration images", total=min(count, len(paths)), detail="")
    for place in order:
        tried += 1
        try:
            images.append(preprocessing.load(paths[place]))
        except (OSError, ValueError) as error:
            skipped.append(sentence_of_failure(paths[place], error))
            continue
        if progress:
            progress.advance(task)
        if len(images) == count:
            break
    if len(skipped) > DAMAGED * tried:
        # In a sample this may be chance: as in training, the share of damaged ones among all images decides.
        for place in order[tried:]:
            try:
                read_image(paths[place], preprocessing.max_pixels)
            except (OSError, ValueError) as error:
                skipped.append(sentence_of_failure(paths[place], error))
    if not images:
        raise ValueError(f"none of the {len(paths)} images in {folder} can be read ({skipped[0]}): name another folder")
    require_few_damaged(skipped, len(paths))
    return Calibration(np.stack(images), tuple(skipped), sentence_of_others(folder, files.others))


def _read_arrays(path, choose):
    """Read from an .npz or .npy file the images at the sorted indices `choose(count)`, without keeping the others."""
    try:
        with open_file(path, "an .npz or .npy file") as file:
            if zipfile.is_zipfile(file):
                return _read_archive(path, file, choose)
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: only the sampled images are read
        _check_array(path, array.dtype, array.shape)
        indices = choose(len(array))
        _check_memory(path, len(indices), array.shape)
        return np.array(_with_channels(array)[indices])
    except (FileNotFoundError, MemoryError, NotAFile, Refused):
        raise
    except Exception as error:  # NumPy's header, zipfile and four decompressors raise a dozen types
        if getattr(error, "errno", None):  # the system's own
            raise
        raise ValueError(
            f"{path} is damaged, or not an array file of NumPy ({error}): write one array of uint8 images with "
            "numpy.savez"
        ) from None


def _read_archive(path, packed, choose):
    with zipfile.ZipFile(packed) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        name = IMAGES if IMAGES in members else next(iter(members)) if len(members) == 1 else None
        if name is None:
            raise Refused(f"{path} holds {', '.join(members) or 'nothing'}: name the array of images {IMAGES!r}")
        info = members[name]
        packed_size = min(info.compress_size, path.stat().st_size)  # a damaged archive may state any size
        if info.file_size > SMALL and info.file_size > PACKED * packed_size:
            raise Refused(
                f"{path} unpacks to {info.file_size:,} bytes, {info.file_size // max(packed_size, 1):,} times "
                "its size, as images do not: give images like those which the model will see"
            )
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
            _check_array(path, dtype, shape)
            if fortran:
                raise Refused(f"{path} is in Fortran's order: write numpy.ascontiguousarray(images)")
            if math.prod(shape) > info.file_size:
                raise ValueError(f"it says that it holds {math.prod(shape):,} bytes, in {info.file_size:,}")
            indices = choose(shape[0])
            _check_memory(path, len(indices), shape)
            images = np.empty((len(indices), *shape[1:]), np.uint8)
            # A compressed file has to be read from its beginning: the images between the sampled ones are dropped.
            place = 0
            for image, index in zip(images, indices, strict=True):
                _skip(file, (index - place) * image.nbytes)
                image[...] = np.frombuffer(file.read(image.nbytes), np.uint8).reshape(image.shape)
                place = index + 1
    return _with_channels(images)


def _check_memory(path, count, shape):
    if count * math.prod(shape[1:]) > MEMORY:
        raise Refused(
            f"{path}: {count:,} images {shape[1:]} take over {MEMORY / 1e9:.0f} GB: give smaller ones, or fewer"
        )


def _skip(file, count):
    while count > 0:
        skipped = len(file.read(min(count, CHUNK)))
        if not skipped:
            raise EOFError("it ends too early")
        count -= skipped


def _with_channels(images):
    return images if images.ndim == 4 else images[..., None]


def _check_array(path, dtype, shape):
    grey = len(shape) == 3 and shape[-1] != 3  # [height, width, 3] is one image, not many
    if dtype != np.uint8 or not (grey or (len(shape) == 4 and shape[-1] in (1, 3))):
        raise Refused(f"{path} holds {dtype} {shape}: give uint8 images [count, height, width, 1 or 3], pixels 0..255")
    if not shape[0]:
        raise Refused(f"{path} holds no images: give some that are like those which the model will see")
    if shape[1] * shape[2] > MAX_PIXELS:
        raise Refused(f"{path} holds images of {shape[1]}x{shape[2]} pixels, and the limit is {MAX_PIXELS:,}")
