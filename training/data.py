"""Labelled images: digits, a folder of pictures, or a data set of tensorflow-datasets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import Progress

from keras_convmixer.images import SUFFIXES, Preprocessing

from .pictures import Files, Pictures, check, showing

HELD_OUT, HELD_OUT_OF_FEW, FEW = 50, 10, 5000
"""Every so many training images one is for validation, where a data set has no split for it; of few a larger share."""
SPLIT_FOLDERS = {
    "train": "train",
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    "test": "test",
}
"""Names of a folder's subfolders that are splits, not labels."""


@dataclass(frozen=True)
class Split:
    """Images uint8 `[count, height, width, channels]` in 0..255, in memory or not, and labels int64 `[count]`."""

    images: np.ndarray | Pictures
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    def take(self, chosen: np.ndarray) -> Split:
        """Return some of them, int or bool `[count]`."""
        images = self.images.take(chosen) if isinstance(self.images, Pictures) else self.images[chosen]
        return Split(images, self.labels[chosen])


@dataclass(frozen=True)
class Dataset:
    """Class names in the order of the labels, and disjoint splits that are the same in every run."""

    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    damaged: tuple[str, ...] = ()
    """A sentence for each picture that was left out as it cannot be read."""


def load_dataset(
    name: str,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
    data_dir: str = "",
    crops: bool = False,
) -> Dataset:
    """Load `digits`, a folder, or a data set of tensorflow-datasets by its name.

    Digits and folders are split 70 / 10 / 20 % with equal shares of each label (digits: 1,257 / 180 / 360). A folder
    whose subfolders are train, val and test, or two of these, and data sets of tensorflow-datasets keep their own
    splits; where there is none for test, that for validation is used, and where there is none for validation, every
    fiftieth training image is held out for it, of fewer than 5,000 every tenth. Pictures are held in memory where they
    take less than half of it. Damaged ones are left out, up to 1 %.

    Args:
        name: `digits`, a folder, or a name such as cifar10.
        preprocessing: how pictures become images of one size.
        class_names: labels of the model that the images are for, by default the data set's own.
        progress: shows a bar.
        data_dir: where tensorflow-datasets has its data, by default where it always has.
        crops: training crops from the pictures as their files are: keep these, unless they are of the images' size.

    Raises:
        ValueError: what `load_images` raises; where a folder has under two labels or under ten pictures of
            one of them; the data set is not prepared, or has no images with labels; over 1 % are damaged.
    """
    if name == "digits":
        class_names, everything = load_images(name, preprocessing, class_names, progress)
        return Dataset(class_names, *_divided(everything))
    if not Path(name).is_dir():
        return _tensorflow_dataset(name, preprocessing, class_names, progress, data_dir, crops)
    splits = _split_folders(Path(name))
    if splits:
        class_names, *_ = _folder(splits["train"], class_names)
        sources = {split: Files(*_folder(folder, class_names)[1:]) for split, folder in splits.items()}
        return _with_splits(name, class_names, sources, preprocessing, progress, crops)
    class_names, paths, labels = _folder(Path(name), class_names)
    counts = np.bincount(labels)
    few = [class_names[label] for label in np.flatnonzero((counts > 0) & (counts < 10))]
    if few or np.count_nonzero(counts) < 2:
        alone = np.count_nonzero(counts) < 2
        problem = "pictures of one label only" if alone else f"fewer than ten pictures of {_listed(few)}"
        raise ValueError(f"{name} has {problem}: to split it, give ten pictures or more of each of two labels or more")
    fits = _fits(len(paths), preprocessing)
    checked = check(Files(paths, labels), preprocessing, fits and not crops, showing(progress, name, len(paths)))
    return Dataset(class_names, *_divided(Split(checked.images, checked.labels)), checked.damaged)


def _divided(everything):
    """Return 70, 10 and 20 %, with equal shares of each label."""
    from sklearn.model_selection import train_test_split

    def divide(chosen, share):
        return train_test_split(chosen, test_size=share, stratify=everything.labels[chosen], random_state=0)

    rest, test = divide(np.arange(len(everything)), 0.2)
    train, validation = divide(rest, 0.125)
    return [everything.take(chosen) for chosen in (train, validation, test)]


def _with_splits(name, class_names, sources, preprocessing, progress, crops):
    """Return a data set of sources by split: train, and validation or test or both."""
    sources = dict(sources)
    if "test" not in sources:
        sources["test"] = sources.pop("validation")
    fits = _fits(sum(len(source) for source in sources.values()), preprocessing)
    splits, damaged = {}, ()
    for split, source in sources.items():
        in_memory = fits and not (crops and split == "train")
        checked = check(source, preprocessing, in_memory, showing(progress, f"{name}, {split}", len(source)))
        splits[split], damaged = Split(checked.images, checked.labels), damaged + checked.damaged
    if "validation" not in splits:
        every = HELD_OUT if len(splits["train"]) >= FEW else HELD_OUT_OF_FEW
        held = np.arange(len(splits["train"])) % every == every - 1
        splits["validation"], splits["train"] = splits["train"].take(held), splits["train"].take(~held)
    return Dataset(class_names, splits["train"], splits["validation"], splits["test"], damaged)


def _tensorflow_dataset(name, preprocessing, class_names, progress, data_dir, crops):
    from .records import Records, prepared, splits_of

    builder = prepared(name, data_dir)
    names = tuple(builder.info.features[builder.info.supervised_keys[1]].names)
    if class_names is not None and class_names != names:
        raise ValueError(f"{name} has the labels {_listed(names)}, which are not the model's: name other data")
    shape = builder.info.features[builder.info.supervised_keys[0]].shape
    crops = crops and shape[:2] != (preprocessing.height, preprocessing.width)
    sources = {split: Records(builder, there) for split, there in splits_of(builder).items()}
    return _with_splits(name, names, sources, preprocessing, progress, crops)


def _fits(count, preprocessing):
    """Tell whether so many images fit in half the memory, with the copy that TensorFlow makes of them."""
    needed = 2 * count * preprocessing.height * preprocessing.width * preprocessing.channels
    return 2 * needed < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_images(
    name: str,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> tuple[tuple[str, ...], Split]:
    """Load every image of `digits`, or of a folder with one subfolder of pictures for each label.

    With `class_names` a folder's labels are their positions there; without, the sorted subfolders'. All
    images are prepared for evaluation, in memory where they fit.

    Raises:
        ValueError: `name` is neither, or digits and `class_names` are others; the folder has no subfolders, one
            without pictures, or one that is not among `class_names`; a picture is damaged.
    """
    if name == "digits":
        return _digits(preprocessing, class_names)
    if not Path(name).is_dir():
        raise ValueError(
            f"no data set {name!r}: give 'digits', or a folder with one subfolder of pictures for each label"
        )
    class_names, paths, labels = _folder(Path(name), class_names)
    fits = _fits(len(paths), preprocessing)
    checked = check(Files(paths, labels), preprocessing, fits, showing(progress, name, len(paths)))
    if checked.damaged:
        raise ValueError("; ".join(checked.damaged))
    return class_names, Split(checked.images, checked.labels)


def _digits(preprocessing, class_names):
    from sklearn.datasets import load_digits

    if class_names not in (None, tuple("0123456789")):
        raise ValueError(f"digits have the labels 0 to 9, and the model has {', '.join(class_names)}: name other data")
    digits = load_digits()
    grey = np.rint(digits.images * 255 / 16).astype(np.uint8)  # scanned in 17 shades, 0..16
    images = np.stack([preprocessing.apply(Image.fromarray(image)) for image in grey])
    return tuple("0123456789"), Split(images, digits.target.astype(np.int64))


def _subfolders(folder):
    return [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]


def _split_folders(folder):
    """Return a folder's subfolders by split, None where they are labels."""
    found = {entry.name: entry for entry in _subfolders(folder)}
    splits = {SPLIT_FOLDERS[name]: entry for name, entry in found.items() if name in SPLIT_FOLDERS}
    whole = len(splits) == len(found) and "train" in splits and len(splits) > 1
    return splits if whole and all(_subfolders(entry) for entry in splits.values()) else None


def _folder(folder, class_names):
    """Return labels, files and the number of each file's label."""
    found = {
        entry.name: sorted(path for path in entry.rglob("*") if path.suffix.lower() in SUFFIXES)
        for entry in _subfolders(folder)
    }
    empty = [label for label, paths in found.items() if not paths]
    if empty or not found:
        problem = f"no pictures in {_listed(empty)}" if empty else "no subfolders"
        raise ValueError(
            f"{folder} has {problem}: give a folder with one subfolder of pictures for each label "
            f"({', '.join(SUFFIXES)})"
        )
    class_names = tuple(class_names or found)
    unknown = sorted(set(found) - set(class_names))
    if unknown:
        raise ValueError(
            f"{folder} has subfolders that are no label of the model ({_listed(unknown)}): "
            f"name them as its labels are ({_listed(class_names)})"
        )
    labels = np.repeat([class_names.index(label) for label in found], [len(paths) for paths in found.values()])
    return class_names, [path for paths in found.values() for path in paths], labels.astype(np.int64)


def _listed(names, most=10):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
