"""Labelled images in memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import Progress

from keras_convmixer.images import SUFFIXES, Preprocessing


@dataclass(frozen=True)
class Split:
    """Images uint8 `[count, height, width, channels]` in 0..255, labels int64 `[count]`."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Class names in the order of the labels, and disjoint splits that are the same in every run."""

    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split


def load_dataset(
    name: str,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load `digits` or a folder as `load_images` does, split 70 / 10 / 20 % with equal shares of each label.

    Of the digits: 1,257 / 180 / 360.

    Raises:
        ValueError: what `load_images` raises, and where a folder has under two labels or under ten pictures of
            one of them.
    """
    from sklearn.model_selection import train_test_split

    class_names, everything = load_images(name, preprocessing, class_names, progress)
    counts = np.bincount(everything.labels)
    few = [class_names[label] for label in np.flatnonzero((counts > 0) & (counts < 10))]
    if few or np.count_nonzero(counts) < 2:
        alone = np.count_nonzero(counts) < 2
        problem = "pictures of one label only" if alone else f"fewer than ten pictures of {', '.join(few)}"
        raise ValueError(f"{name} has {problem}: to split it, give ten pictures or more of each of two labels or more")

    def divide(chosen, share):
        return train_test_split(chosen, test_size=share, stratify=everything.labels[chosen], random_state=0)

    rest, test = divide(np.arange(len(everything)), 0.2)
    train, validation = divide(rest, 0.125)
    splits = (Split(everything.images[chosen], everything.labels[chosen]) for chosen in (train, validation, test))
    return Dataset(class_names, *splits)


def load_images(
    name: str,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> tuple[tuple[str, ...], Split]:
    """Load every image of `digits`, or of a folder with one subfolder of pictures for each label.

    With `class_names` a folder's labels are their positions there; without, the sorted subfolders'. All
    images are held in memory, prepared for evaluation.

    Raises:
        ValueError: `name` is neither, or digits and `class_names` are others; the folder has no subfolders, one
            without pictures, or one that is not among `class_names`; a picture is damaged.
    """
    if name == "digits":
        given = class_names
        class_names, labels, pictures = _digits()
        if given not in (None, class_names):
            raise ValueError(f"digits have the labels 0 to 9, and the model has {', '.join(given)}: name other data")
    elif Path(name).is_dir():
        class_names, labels, pictures = _folder(Path(name), class_names)
    else:
        raise ValueError(
            f"no data set {name!r}: give 'digits', or a folder with one subfolder of pictures for each label"
        )
    images = np.empty((len(labels), preprocessing.height, preprocessing.width, preprocessing.channels), np.uint8)
    task = progress.add_task("reading pictures", total=len(labels), detail="") if progress else None
    for index, picture in enumerate(pictures):
        images[index] = preprocessing.load(picture) if isinstance(picture, Path) else preprocessing.apply(picture)
        if progress:
            progress.advance(task)
    if progress:
        progress.remove_task(task)
    return class_names, Split(images, labels)


def _digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * 255 / 16).astype(np.uint8)  # scanned in 17 shades, 0..16
    return tuple("0123456789"), digits.target.astype(np.int64), [Image.fromarray(image) for image in grey]


def _folder(folder, class_names):
    found = {
        entry.name: sorted(path for path in entry.rglob("*") if path.suffix.lower() in SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    empty = [label for label, paths in found.items() if not paths]
    if empty or not found:
        problem = f"no pictures in {', '.join(empty)}" if empty else "no subfolders"
        raise ValueError(
            f"{folder} has {problem}: give a folder with one subfolder of pictures for each label "
            f"({', '.join(SUFFIXES)})"
        )
    class_names = tuple(class_names or found)
    unknown = sorted(set(found) - set(class_names))
    if unknown:
        raise ValueError(
            f"{folder} has subfolders that are no label of the model ({', '.join(unknown)}): "
            f"name them as its labels are ({', '.join(class_names)})"
        )
    labels = np.repeat([class_names.index(label) for label in found], [len(paths) for paths in found.values()])
    return class_names, labels.astype(np.int64), [path for paths in found.values() for path in paths]
