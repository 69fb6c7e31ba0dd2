"""Images of one's own to calibrate with: a folder of pictures, or arrays in a file."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import Progress

from keras_convmixer.images import SUFFIXES, Preprocessing, read_image
from keras_convmixer.picture_folders import DAMAGED, picture_files, require_few_damaged, sentence_of_others

ARRAYS = (".npz", ".npy")
IMAGES = "images"
"""The array of an .npz file that is taken where there are several."""


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
        source: a folder, whose pictures and those of its subfolders are taken; or an .npz or .npy file of uint8 images
            `[count, height, width, channels]` or grey `[count, height, width]`, pixels 0..255, of any size.
        preprocessing: how pictures become the model's images.
        count: how many at most.
        seed: of the choice.
        progress: shows a bar.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: no image is there, over 1 % of the folder's pictures are damaged, or the file holds something else.
    """
    source = Path(source)
    random = np.random.default_rng(seed)
    if source.suffix in ARRAYS and not source.is_dir():
        images = _read_arrays(source)
        images = images[np.sort(random.permutation(len(images))[:count])]
        if images.shape[1:] == (preprocessing.height, preprocessing.width, preprocessing.channels):
            return Calibration(images)
        pictures = map(Image.fromarray, images[..., 0] if images.shape[-1] == 1 else images)
        return Calibration(np.stack([preprocessing.apply(picture) for picture in pictures]))
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: there is no such folder, nor is it an .npz or .npy file")
    files = picture_files(source)
    paths = files.paths
    if not paths:
        if files.others:
            raise ValueError(
                f"{source} has no pictures that can be read ({files.described_others()}): save them as JPEG or PNG, or "
                f"as another of {', '.join(SUFFIXES)}"
            )
        raise ValueError(f"{source} has no pictures to calibrate with ({', '.join(SUFFIXES)}): name another folder")
    order = random.permutation(len(paths))
    images, skipped = [], []
    task = progress and progress.add_task("reading calibration images", total=min(count, len(paths)), detail="")
    tried = 0
    for place in order:
        tried += 1
        try:
            images.append(preprocessing.load(paths[place]))
        except (OSError, ValueError) as error:
            skipped.append(_sentence(paths[place], error))
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
                skipped.append(_sentence(paths[place], error))
    if not images:
        raise ValueError(
            f"none of the {len(paths)} pictures in {source} can be read ({skipped[0]}): name another folder"
        )
    require_few_damaged(skipped, len(paths))
    return Calibration(np.stack(images), tuple(skipped), sentence_of_others(source, files.others))


def _sentence(path, error):
    return f"{path}: {error.strerror}" if getattr(error, "strerror", None) else str(error)


def _read_arrays(path):
    names = [IMAGES]
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found as archive:
                names = archive.files
                name = IMAGES if IMAGES in names else names[0] if len(names) == 1 else None
                found = archive[name] if name else None
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged, or no array file of NumPy ({error}): write one array of uint8 images with numpy.savez"
        ) from None
    if found is None:
        raise ValueError(f"{path} holds {', '.join(names) or 'nothing'}: name the array of images {IMAGES!r}")
    grey = found.ndim == 3 and found.shape[-1] != 3  # else it is one picture, not many
    if found.dtype != np.uint8 or not (grey or (found.ndim == 4 and found.shape[-1] in (1, 3))):
        raise ValueError(
            f"{path} holds {found.dtype} {found.shape}: give uint8 images [count, height, width, 1 or 3], pixels 0..255"
        )
    if not len(found):
        raise ValueError(f"{path} holds no images: give some that are like those which the model will see")
    return found if found.ndim == 4 else found[..., None]
