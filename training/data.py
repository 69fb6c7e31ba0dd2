"""Labelled images in memory."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import Progress

from keras_convmixer.images import SUFFIXES, Preprocessing

UNLABELLED_TEST = ("imagenet2012",)
"""Whose test images have the label -1."""
HELD_OUT = 50
"""Every so many training images one is for validation, where a data set has no split for it."""


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
    data_dir: str = "",
) -> Dataset:
    """Load `digits`, a folder as `load_images` does, or a data set of tensorflow-datasets by its name.

    Digits and folders are split 70 / 10 / 20 % with equal shares of each label (digits: 1,257 / 180 / 360). Others keep
    their own splits; where there is none for validation, every fiftieth training image is held out for it.

    Args:
        name: `digits`, a folder, or a name such as cifar10.
        preprocessing: how pictures become images of one size.
        class_names: labels of the model that the images are for, by default the data set's own.
        progress: shows a bar.
        data_dir: where tensorflow-datasets has its data, by default where it always has.

    Raises:
        ValueError: what `load_images` raises; where a folder has under two labels or under ten pictures of
            one of them; the data set is not prepared, or has no images with labels.
    """
    if name != "digits" and not Path(name).is_dir():
        return tensorflow_dataset(name, preprocessing, class_names, progress, data_dir)
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


def tensorflow_dataset(
    name: str,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None,
    progress: Progress | None,
    data_dir: str,
) -> Dataset:
    """Load a prepared data set of tensorflow-datasets into memory; never downloads."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir or None, try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != "tensorflow_datasets":
            raise
        raise ValueError(
            f"no data set {name!r}: give 'digits', a folder with one subfolder of pictures for each label, or a name "
            "of tensorflow-datasets, as cifar10 (https://www.tensorflow.org/datasets/catalog)"
        ) from None
    command = f"python -m tensorflow_datasets.scripts.cli.main build {name}"
    if not builder.info.splits:
        where = f" --data_dir {data_dir}" if data_dir else ""
        raise ValueError(
            f"the data set {name} is not in {builder.data_path.parent.parent}: get it with `{command}{where}`, or name "
            "its place with --data-dir"
        )
    splits = builder.info.splits
    keys = builder.info.supervised_keys
    label = builder.info.features[keys[1]] if keys else None
    if not isinstance(label, tfds.features.ClassLabel) or not isinstance(
        builder.info.features[keys[0]], tfds.features.Image
    ):
        raise ValueError(f"the data set {name} has no images with labels: name one for image classification")
    unlabelled = {"test"} if name.split(":")[0].split("/")[0] in UNLABELLED_TEST else set()
    evaluation = next((split for split in ("test", "validation") if split in splits and split not in unlabelled), None)
    if "train" not in splits or evaluation is None:
        raise ValueError(f"the data set {name} has the splits {', '.join(splits)}: name one with train and test")
    names = tuple(label.names)
    if class_names is not None and class_names != names:
        raise ValueError(f"{name} has the labels {', '.join(names[:10])}, which are not the model's: name other data")
    total = sum(splits[split].num_examples for split in {"train", evaluation} | ({"validation"} & set(splits)))
    _require_memory(name, total, preprocessing)
    task = progress.add_task(f"reading {name}", total=total, detail="") if progress else None

    def load(split):
        count = splits[split].num_examples
        images = np.empty((count, preprocessing.height, preprocessing.width, preprocessing.channels), np.uint8)
        labels = np.empty(count, np.int64)
        for index, (image, number) in enumerate(tfds.as_numpy(builder.as_dataset(split=split, as_supervised=True))):
            if image.shape != images.shape[1:] or preprocessing.crop_fraction != 1:
                picture = image[..., 0] if image.shape[-1] == 1 else image
                image = preprocessing.apply(Image.fromarray(picture))
            images[index], labels[index] = image, number
            if progress and index % 100 == 0:
                progress.update(task, advance=100)
        return Split(images, labels)

    train, test = load("train"), load(evaluation)
    if "validation" in splits and evaluation != "validation":
        validation = load("validation")
    else:
        held = np.arange(len(train)) % HELD_OUT == HELD_OUT - 1
        validation = Split(train.images[held], train.labels[held])
        train = Split(train.images[~held], train.labels[~held])
    if progress:
        progress.remove_task(task)
    return Dataset(names, train, validation, test)


def _require_memory(name, count, preprocessing):
    needed = count * preprocessing.height * preprocessing.width * preprocessing.channels
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 2 * needed > there:  # TensorFlow makes a copy
        raise ValueError(
            f"{name} at {preprocessing.height}x{preprocessing.width} takes twice {needed / 1e9:,.0f} GB of memory, and "
            f"the machine has {there / 1e9:,.0f}: give a smaller --image-size"
        )


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
