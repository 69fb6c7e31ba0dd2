"""Labelled images: digits, a folder of pictures, or a data set of tensorflow-datasets."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.progress import Progress

from keras_convmixer.files.labels import require_labels
from keras_convmixer.files.printable import first_of
from keras_convmixer.images.decoding import SUFFIXES
from keras_convmixer.images.folders import image_files, sentence_of_others, subfolders
from keras_convmixer.images.preprocessing import Preprocessing

from .lazy_images import Files, LazyImages, decode_and_validate, track

HELD_OUT, HELD_OUT_OF_FEW, FEW = 50, 10, 5000
"""Every so many training images one is for validation, where a data set has no split for it; of few a larger share."""
CONTAINER = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container may have."""
SPLIT_FOLDERS = {
    "train": "train",
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    "test": "test",
}
"""Names of a folder's subfolders that are splits, not labels."""


@dataclass(frozen=True)
class Split:
    """Images uint8 `[count, height, width, channels]` in 0..255, in memory or not, and labels int64 `[count]`."""

    images: np.ndarray | LazyImages
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    def take(self, chosen: np.ndarray) -> Split:
        """Return some of them, int or bool `[count]`."""
        images = self.images.take(chosen) if isinstance(self.images, LazyImages) else self.images[chosen]
        return Split(images, self.labels[chosen])

    def sample(self, count: int, seed: int) -> Split:
        """Return up to `count` images chosen at random, in their order; a split may lie sorted by label."""
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.take(np.sort(chosen))


class LabeledImages(NamedTuple):
    """Every image of a folder, and what was left out of it."""

    class_names: tuple[str, ...]
    split: Split
    damaged: tuple[str, ...] = ()
    """A sentence for each picture that was left out because it cannot be read."""
    left_out: tuple[str, ...] = ()
    """A sentence that counts the files that were left out because of their ending, if there are any."""


@dataclass(frozen=True)
class Dataset:
    """Class names in the order of the labels, and disjoint splits that are the same in every run."""

    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    damaged: tuple[str, ...] = ()
    """A sentence for each picture that was left out because it cannot be read."""
    names: int = 0
    """A checksum of the pictures' names."""
    left_out: tuple[str, ...] = ()
    """A sentence that counts the files that were left out because of their ending, if there are any."""

    @property
    def fingerprint(self) -> int:
        """A number that is another, of 2**32, where the pictures are others; what is in them is not looked at."""
        number = zlib.crc32(repr((self.class_names, self.names)).encode())
        for split in (self.train, self.validation, self.test):
            number = zlib.crc32(np.ascontiguousarray(split.labels), number)
        return number

    def described(self) -> str:
        """Say in a line what there is."""
        counts = ", ".join(f"{len(getattr(self, split)):,} {split}" for split in ("train", "validation", "test"))
        return f"{len(self.class_names)} labels ({first_of(self.class_names, 5)}), {counts} images"


def load_dataset(
    name: str,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
    data_dir: str = "",
    keep_originals: bool = False,
) -> Dataset:
    """Load `digits`, a folder, or a data set of tensorflow-datasets by its name.

    Digits, folders and data sets of tensorflow-datasets with one split are split 70 / 10 / 20 % with equal shares of
    each label (digits: 1,257 / 180 / 360). A folder whose subfolders are train, val and test, or two of these, and
    other data sets of tensorflow-datasets keep their own splits; where there is none for test, that for validation is
    used, and where there is none for validation, every fiftieth training image is held out for it, of fewer than 5,000
    every tenth. Pictures are held in memory where they take less than a quarter of it, as TensorFlow copies them.
    Damaged ones are left out, up to 1 %.

    Args:
        name: `digits`, a folder, or a name such as cifar10.
        preprocessing: how pictures become images of one size.
        class_names: labels of the model that the images are for, by default the data set's own.
        progress: shows a bar.
        data_dir: where tensorflow-datasets has its data, by default where it always has.
        keep_originals: decode training images from their files at each use, at full size, as random crops need;
            without effect where all are of the model's size already.

    Raises:
        ValueError: what `load_images` raises; where what is to be split has under two labels or under ten pictures of
            one of them; the data set is not prepared, or has no images with labels; over 1 % are damaged.
    """
    if name == "digits":
        class_names, everything, *_ = load_images(name, preprocessing, class_names, progress)
        return Dataset(class_names, *(everything.take(chosen) for chosen in _divided(everything.labels)))
    if not Path(name).is_dir():
        return _tensorflow_dataset(name, preprocessing, class_names, progress, data_dir, keep_originals)
    splits = _split_folders(Path(name))
    if splits:
        class_names, *_ = _folder(splits["train"], class_names)
        sources, others = {}, Counter()
        for split, folder in splits.items():
            _, paths, labels, more = _folder(folder, class_names)
            sources[split] = Files(paths, labels)
            others += more
        names = _checksum([path for source in sources.values() for path in source.paths], Path(name))
        left_out = sentence_of_others(Path(name), others)
        return _with_splits(name, class_names, sources, preprocessing, progress, keep_originals, names, left_out)
    class_names, paths, labels, others = _folder(Path(name), class_names)
    _require_divisible(name, class_names, labels)
    fits = _fits(len(paths), preprocessing)
    checked = decode_and_validate(
        Files(paths, labels), preprocessing, fits and not keep_originals, track(progress, name, len(paths))
    )
    # Divided with the damaged ones, so that one more or less moves no other picture from training to test.
    everything = Split(checked.images, checked.labels)
    splits = (everything.take(np.isin(checked.kept, chosen)) for chosen in _divided(labels))
    left_out = sentence_of_others(Path(name), others)
    return Dataset(class_names, *splits, checked.damaged, _checksum(paths, Path(name)), left_out)


def _require_divisible(name, class_names, labels):
    counts = np.bincount(labels)
    few = [class_names[label] for label in np.flatnonzero((counts > 0) & (counts < 10))]
    if few or np.count_nonzero(counts) < 2:
        alone = np.count_nonzero(counts) < 2
        problem = "pictures of one label only" if alone else f"fewer than ten pictures of {first_of(few)}"
        raise ValueError(f"{name} has {problem}: to split it, give ten pictures or more of each of two labels or more")


def _checksum(paths, folder):
    return zlib.crc32("\n".join(path.relative_to(folder).as_posix() for path in paths).encode(errors="surrogateescape"))


def _divided(labels):
    """Return the places of 70, 10 and 20 %, with equal shares of each label."""
    from sklearn.model_selection import train_test_split

    def divide(chosen, share):
        return train_test_split(chosen, test_size=share, stratify=labels[chosen], random_state=0)

    rest, test = divide(np.arange(len(labels)), 0.2)
    train, validation = divide(rest, 0.125)
    return train, validation, test


def _with_splits(name, class_names, sources, preprocessing, progress, keep_originals, names=0, left_out=()):
    """Return a data set of sources by split: train, and validation or test or both."""
    sources = dict(sources)
    if "test" not in sources:
        sources["test"] = sources.pop("validation")
    fits = _fits(sum(len(source) for source in sources.values()), preprocessing)
    splits, damaged, kept = {}, (), {}
    for split, source in sources.items():
        in_memory = fits and not (keep_originals and split == "train")
        checked = decode_and_validate(
            source, preprocessing, in_memory, track(progress, f"{name}, {split}", len(source))
        )
        splits[split], damaged = Split(checked.images, checked.labels), damaged + checked.damaged
        kept[split] = checked.kept
        if checked.labels.min() < 0:
            raise ValueError(f"{name} has {split} images without labels: name another data set")
    if len(np.unique(splits["train"].labels)) < 2:
        raise ValueError(f"{name} has pictures of one label only: give two or more")
    if "validation" not in splits:
        every = HELD_OUT if len(sources["train"]) >= FEW else HELD_OUT_OF_FEW
        held = kept["train"] % every == every - 1
        splits["validation"], splits["train"] = splits["train"].take(held), splits["train"].take(~held)
    return Dataset(class_names, splits["train"], splits["validation"], splits["test"], damaged, names, left_out)


def _tensorflow_dataset(name, preprocessing, class_names, progress, data_dir, keep_originals):
    from .records import Records, prepared, splits_of

    builder = prepared(name, data_dir)
    names = tuple(builder.info.features[builder.info.supervised_keys[1]].names)
    require_labels(name, names)
    if class_names is not None and class_names != names:
        raise ValueError(f"{name} has the labels {first_of(names)}, which are not the model's: name other data")
    shape = builder.info.features[builder.info.supervised_keys[0]].shape
    keep_originals = keep_originals and shape[:2] != (preprocessing.height, preprocessing.width)
    sources = {split: Records(builder, there) for split, there in splits_of(builder).items()}
    if "all" in sources:
        return _divided_records(name, names, sources["all"], preprocessing, progress, keep_originals)
    return _with_splits(name, names, sources, preprocessing, progress, keep_originals)


def _divided_records(name, class_names, source, preprocessing, progress, keep_originals):
    fits = _fits(len(source), preprocessing)
    checked = decode_and_validate(
        source, preprocessing, fits and not keep_originals, track(progress, name, len(source))
    )
    if checked.labels.min() < 0:
        raise ValueError(f"{name} has images without labels: name another data set")
    _require_divisible(name, class_names, checked.labels)
    everything = Split(checked.images, checked.labels)
    # Of those that can be read: tensorflow-datasets compares checksums, so that none is damaged one day, as in folders.
    splits = (everything.take(places) for places in _divided(checked.labels))
    return Dataset(class_names, *splits, checked.damaged)


def _fits(count, preprocessing):
    """Tell whether so many images fit in half the memory, with the copy that TensorFlow makes of them."""
    needed = 2 * count * preprocessing.height * preprocessing.width * preprocessing.channels
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if CONTAINER.exists() and (limit := CONTAINER.read_text().strip()).isdigit():
        there = min(there, int(limit))
    return 2 * needed < there


def may_share_test_images(folder: Path, data: Path) -> bool:
    """Tell whether a folder of images may hold test images of the data set in folder `data`.

    It may where one of the two is in the other, unless the folder is, or is in, the data's training split.
    """
    folder, data = folder.resolve(), data.resolve()
    if folder.is_relative_to(data):
        return folder == data or SPLIT_FOLDERS.get(folder.relative_to(data).parts[0].lower()) != "train"
    return data.is_relative_to(folder)


def load_images(
    name: str,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> LabeledImages:
    """Load every image of `digits`, or of a folder with one subfolder of pictures for each label.

    With `class_names` a folder's labels are their positions there; without, the sorted subfolders'. All
    images are prepared for evaluation, in memory where they fit. Damaged ones are left out, up to 1 %.

    Raises:
        ValueError: `name` is neither, or digits and `class_names` are others; the folder has no subfolders, one
            without pictures, or one that is not among `class_names`; over 1 % of the pictures are damaged.
    """
    if name == "digits":
        return LabeledImages(*_digits(preprocessing, class_names))
    if not Path(name).is_dir():
        raise ValueError(
            f"no data set {name!r}: give 'digits', or a folder with one subfolder of pictures for each label"
        )
    class_names, paths, labels, others = _folder(Path(name), class_names)
    fits = _fits(len(paths), preprocessing)
    checked = decode_and_validate(Files(paths, labels), preprocessing, fits, track(progress, name, len(paths)))
    left_out = sentence_of_others(Path(name), others)
    return LabeledImages(class_names, Split(checked.images, checked.labels), checked.damaged, left_out)


def _digits(preprocessing, class_names):
    from sklearn.datasets import load_digits

    if class_names not in (None, tuple("0123456789")):
        raise ValueError(f"digits have the labels 0 to 9, and the model has {', '.join(class_names)}: name other data")
    digits = load_digits()
    grey = np.rint(digits.images * 255 / 16).astype(np.uint8)  # scanned in 17 shades, 0..16
    images = np.stack([preprocessing.apply(Image.fromarray(image)) for image in grey])
    return tuple("0123456789"), Split(images, digits.target.astype(np.int64))


def _split_folders(folder):
    """Return a folder's subfolders by split, None where they are labels.

    They are splits where one is train and has subfolders itself; a label may be called train.
    """
    found = subfolders(folder)
    named = [(SPLIT_FOLDERS.get(entry.name.lower()), entry) for entry in found]
    train = [entry for split, entry in named if split == "train"]
    if not train or not subfolders(train[0]):
        return None
    splits = {split: entry for split, entry in named if split}
    flat = [entry.name for entry in found if not subfolders(entry)]
    if len(splits) < len(found) or len(splits) < 2 or flat:
        raise ValueError(
            f"{folder} has the subfolders {first_of([entry.name for entry in found])}: beside a train with a subfolder "
            "for each label give val and test, or one of them, with the same subfolders, and nothing else"
        )
    return splits


def _folder(folder, class_names):
    """Return labels, files, the number of each file's label, and how many files there are of each other ending."""
    files = {entry.name: image_files(entry) for entry in subfolders(folder)}
    found = {label: entry.paths for label, entry in files.items()}
    empty = [label for label, paths in found.items() if not paths]
    if empty or not found:
        problem = f"no pictures in {first_of(empty)}" if empty else "no subfolders"
        if unread := [f"{label} has {files[label].described_others()}" for label in empty if files[label].others]:
            raise ValueError(
                f"{folder} has {problem} that can be read ({first_of(unread)}): save them as JPEG or PNG, or as "
                f"another of {', '.join(SUFFIXES)}"
            )
        raise ValueError(
            f"{folder} has {problem}: give a folder with one subfolder of pictures for each label "
            f"({', '.join(SUFFIXES)})"
        )
    require_labels(folder, found)
    class_names = tuple(class_names or found)
    unknown = sorted(set(found) - set(class_names))
    if unknown:
        raise ValueError(
            f"{folder} has subfolders that are no label of the model ({first_of(unknown)}): "
            f"name them as its labels are ({first_of(class_names)})"
        )
    labels = np.repeat([class_names.index(label) for label in found], [len(paths) for paths in found.values()])
    others = sum((entry.others for entry in files.values()), Counter())
    return class_names, [path for paths in found.values() for path in paths], labels.astype(np.int64), others
