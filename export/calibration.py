"""Images of one's own to calibrate with: a folder of images, or arrays in a file."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import Progress

from keras_convmixer.files.regular_files import NotAFile, open_file
from keras_convmixer.images.decoding import MAX_PIXELS, SUFFIXES, Refused, read_image
from keras_convmixer.images.folders import (
    DAMAGED,
    image_files,
    require_few_damaged,
    sentence_of_failure,
    sentence_of_others,
)
from keras_convmixer.images.preprocessing import Preprocessing

ARRAYS = (".npz", ".npy")
IMAGES = "images"
"""The array of an .npz file that is taken where there are several."""
SMALL, PACKED = 2**28, 100
"""An array of over so many bytes is refused where it was packed to less than a hundredth, as no photographs are."""
MEMORY = 4_000_000_000
"""Bytes that the chosen images may take."""
CHUNK = 2**20
"""Bytes that are unpacked at once, of images that were not chosen."""


@dataclass(frozen=True)
class Calibration:
    """Images uint8 `[count, height, width, channels]`, and a sentence for each file that could not be read."""

    images: np.ndarray
    skipped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """A sentence that counts the files that were left out because of their ending, if there are any."""


def read_calibration(
    source: Path, preprocessing: Preprocessing, count: int, seed: int, progress: Progress | None = None
) -> Calibration:
    """Choose up to `count` images at random, the same for the same seed, and prepare them for the model.

    Args:
        source: a folder, whose images and those of its subfolders are taken; or an .npz or .npy file of uint8 images
            `[count, height, width, channels]` or grey `[count, height, width]`, pixels 0..255, of any size.
        preprocessing: how images become the model's images.
        count: how many at most.
        seed: of the choice.
        progress: shows a bar.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: no image is there, over 1 % of the folder's images are damaged, or the file holds something else.
    """
    source = Path(source)
    random = np.random.default_rng(seed)
    if source.suffix in ARRAYS and not source.is_dir():
        images = _read_arrays(source, lambda there: np.sort(random.permutation(there)[:count]))
        if images.shape[1:] == (preprocessing.height, preprocessing.width, preprocessing.channels):
            return Calibration(images)
        images = map(Image.fromarray, images[..., 0] if images.shape[-1] == 1 else images)
        return Calibration(np.stack([preprocessing.apply(image) for image in images]))
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: there is no such folder, nor is it an .npz or .npy file")
    files = image_files(source)
    paths = files.paths
    if not paths:
        if files.others:
            raise ValueError(
                f"{source} has no images that can be read ({files.described_others()}): save them as JPEG or PNG, or "
                f"as another of {', '.join(SUFFIXES)}"
            )
        raise ValueError(f"{source} has no images to calibrate with ({', '.join(SUFFIXES)}): name another folder")
    order = random.permutation(len(paths))
    images, skipped = [], []
    task = progress and progress.add_task("reading calibration images", total=min(count, len(paths)), detail="")
    tried = 0
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
    if len(skipped) > DAMAGED * tried:  # may be chance in a sample: as in training, the share of all decides
        for place in order[tried:]:
            try:
                read_image(paths[place], preprocessing.max_pixels)
            except (OSError, ValueError) as error:
                skipped.append(sentence_of_failure(paths[place], error))
    if not images:
        raise ValueError(f"none of the {len(paths)} images in {source} can be read ({skipped[0]}): name another folder")
    require_few_damaged(skipped, len(paths))
    return Calibration(np.stack(images), tuple(skipped), sentence_of_others(source, files.others))


def _read_arrays(path, choose):
    """Read the images at `choose(count)`, sorted indices, from an .npz or .npy file; the others are not kept."""
    try:
        with open_file(path, "an .npz or .npy file") as file:
            if zipfile.is_zipfile(file):
                return _read_archive(path, file, choose)
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        _check_array(path, found.dtype, found.shape)
        chosen = choose(len(found))
        _check_memory(path, len(chosen), found.shape)
        return np.array(_with_channels(found)[chosen])
    except (FileNotFoundError, MemoryError, NotAFile, Refused):
        raise
    except Exception as error:  # of NumPy's header, zipfile and four decompressors: of a dozen types
        if getattr(error, "errno", None):  # the system's
            raise
        raise ValueError(
            f"{path} is damaged, or no array file of NumPy ({error}): write one array of uint8 images with numpy.savez"
        ) from None


def _read_archive(path, packed, choose):
    with zipfile.ZipFile(packed) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        name = IMAGES if IMAGES in members else next(iter(members)) if len(members) == 1 else None
        if name is None:
            raise Refused(f"{path} holds {', '.join(members) or 'nothing'}: name the array of images {IMAGES!r}")
        info = members[name]
        packed_size = min(info.compress_size, path.stat().st_size)  # a directory may say anything
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
            chosen = choose(shape[0])
            _check_memory(path, len(chosen), shape)
            images = np.empty((len(chosen), *shape[1:]), np.uint8)
            place = 0
            for row, index in zip(images, chosen, strict=True):
                _skip(file, (index - place) * row.nbytes)
                content = file.read(row.nbytes)
                row[...] = np.frombuffer(content, np.uint8).reshape(row.shape)
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
    grey = len(shape) == 3 and shape[-1] != 3  # else it is one image, not many
    if dtype != np.uint8 or not (grey or (len(shape) == 4 and shape[-1] in (1, 3))):
        raise Refused(f"{path} holds {dtype} {shape}: give uint8 images [count, height, width, 1 or 3], pixels 0..255")
    if not shape[0]:
        raise Refused(f"{path} holds no images: give some that are like those which the model will see")
    if shape[1] * shape[2] > MAX_PIXELS:
        raise Refused(f"{path} holds images of {shape[1]}x{shape[2]} pixels, and the limit is {MAX_PIXELS:,}")
