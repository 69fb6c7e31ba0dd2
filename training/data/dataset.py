"""Loading of labeled images: digits, a folder of image files, or a data set of tensorflow-datasets."""

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
from keras_convmixer.images.folders import sentence_of_others
from keras_convmixer.images.preprocessing import Preprocessing

from .label_folders import label_folder, split_folders
from .lazy_images import Files, LazyImages, decode_and_validate, track

HELD_OUT, HELD_OUT_OF_FEW, FEW = 50, 10, 5000
"""Without a validation split, every 50th training image is held out (every 10th below 5,000)."""
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""The file in which Linux states a container's memory limit."""


@dataclass(frozen=True)
class Split:
    """Images with one label each.

    Example:
        ```python
        from keras_convmixer.training import Split

        split = Split(images, labels)
        print(len(split.take(np.flatnonzero(split.labels == 0))), "red images")
        ```
    """

    images: np.ndarray | LazyImages
    """uint8 `[count, height, width, channels]`, 0..255; in memory, or decoded when they are indexed."""
    labels: np.ndarray
    """int64 `[count]`."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """Return the images at `indices`, int or bool `[count]`."""
        images = self.images.take(indices) if isinstance(self.images, LazyImages) else self.images[indices]
        return Split(images, self.labels[indices])

    def sample(self, count: int, seed: int) -> Split:
        """Return up to `count` images chosen at random, in their order; a split may be sorted by label."""
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.take(np.sort(chosen))


class LabeledImages(NamedTuple):
    """All images of a folder, and what was left out."""

    class_names: tuple[str, ...]
    split: Split
    damaged: tuple[str, ...] = ()
    """A sentence for each file that was left out because it cannot be read."""
    left_out: tuple[str, ...] = ()
    """A sentence with the number of files that were left out because of their ending, if there are any."""


@dataclass(frozen=True)
class Dataset:
    """Class names in the order of the labels, and disjoint splits that are the same in every run.

    Example:
        ```python
        from keras_convmixer.training import load_dataset

        dataset = load_dataset("photos", kc.Preprocessing(8, 8))
        print(dataset.class_names, len(dataset.train), len(dataset.validation), len(dataset.test))
        ```
    """

    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    damaged: tuple[str, ...] = ()
    """A sentence for each file that was left out because it cannot be read."""
    names: int = 0
    """Checksum of the image files' names."""
    left_out: tuple[str, ...] = ()
    """A sentence with the number of files that were left out because of their ending, if there are any."""

    @property
    def fingerprint(self) -> int:
        """Checksum (32 bits) of class names, file names and labels; files are not read for it."""
        checksum = zlib.crc32(repr((self.class_names, self.names)).encode())
        for split in (self.train, self.validation, self.test):
            checksum = zlib.crc32(np.ascontiguousarray(split.labels), checksum)
        return checksum

    def describe(self) -> str:
        """Return a line with the labels and the number of images in each split."""
        counts = ", ".join(f"{len(getattr(self, split)):,} {split}" for split in ("train", "validation", "test"))
        return f"{len(self.class_names)} labels ({first_of(self.class_names, 5)}), {counts} images"


def load_dataset(
    name: str | os.PathLike[str],
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
    data_dir: str | os.PathLike[str] = "",
    keep_originals: bool = False,
) -> Dataset:
    """Load `digits`, a folder of image files, or a data set of tensorflow-datasets by its name.

    Digits, folders, and data sets of tensorflow-datasets with a single split are divided into 70 / 10 / 20 % with the
    same fraction of each label (digits: 1,257 / 180 / 360). Data with splits of its own keeps these: a folder whose
    subfolders are train, val and test, or train and one of the others, and other data sets of tensorflow-datasets.
    Without a test split the validation split is used as one; without a validation split every 50th training image is
    held out (every 10th below 5,000).

    Images are kept in memory where they take less than a quarter of it (TensorFlow makes a copy of them), else decoded
    when they are needed. Up to 1 % of the files may be damaged; they are left out.

    Example:
        ```python
        from keras_convmixer.training import load_dataset

        dataset = load_dataset("photos", kc.Preprocessing(8, 8))
        print(dataset.train.images.shape, dataset.train.labels[:3])
        ```

    Args:
        name: `digits`, a folder with one subfolder of images for each label, or a name such as cifar10.
        preprocessing: how image files become images of one size.
        class_names: labels of the model that the images are for, by default the data set's own.
        progress: shows a bar.
        data_dir: folder of tensorflow-datasets' data, by default its own.
        keep_originals: decode training images from their files at each use, at full size, as random crops need;
            without effect where all are of the model's size already.

    Raises:
        ValueError: what `load_images` raises; data without splits has fewer than two labels, or fewer than ten images
            of one of them; the data set is not prepared, or has no images with labels.
    """
    name, data_dir = os.fspath(name), os.fspath(data_dir)
    if name == "digits":
        class_names, everything, *_ = load_images(name, preprocessing, class_names, progress)
        return Dataset(class_names, *(everything.take(indices) for indices in _divided(everything.labels)))
    if not Path(name).is_dir():
        return _tensorflow_dataset(name, preprocessing, class_names, progress, data_dir, keep_originals)
    splits = split_folders(Path(name))
    if splits:
        class_names, *_ = label_folder(splits["train"], class_names)
        sources, others = {}, Counter()
        for split, folder in splits.items():
            _, paths, labels, more = label_folder(folder, class_names)
            sources[split] = Files(paths, labels)
            others += more
        names = _checksum([path for source in sources.values() for path in source.paths], Path(name))
        left_out = sentence_of_others(Path(name), others)
        return _with_splits(name, class_names, sources, preprocessing, progress, keep_originals, names, left_out)
    class_names, paths, labels, others = label_folder(Path(name), class_names)
    _require_divisible(name, class_names, labels)
    fits = _fits(len(paths), preprocessing)
    checked = decode_and_validate(
        Files(paths, labels), preprocessing, fits and not keep_originals, track(progress, name, len(paths))
    )
    # Divided before damaged files are left out, so that repairing one moves no other image from training to test.
    everything = Split(checked.images, checked.labels)
    splits = (everything.take(np.isin(checked.kept, indices)) for indices in _divided(labels))
    left_out = sentence_of_others(Path(name), others)
    return Dataset(class_names, *splits, checked.damaged, _checksum(paths, Path(name)), left_out)


def _require_divisible(name, class_names, labels):
    """Raise ValueError unless there are enough images of each label to divide them into three splits."""
    counts = np.bincount(labels)
    few = [class_names[label] for label in np.flatnonzero((counts > 0) & (counts < 10))]
    if few or np.count_nonzero(counts) < 2:
        alone = np.count_nonzero(counts) < 2
        problem = "images of one label only" if alone else f"fewer than ten images of {first_of(few)}"
        raise ValueError(f"{name} has {problem}: to split it, give ten images or more of each of two labels or more")


def _checksum(paths, folder):
    """Return the checksum (32 bits) of the files' names below `folder`."""
    return zlib.crc32("\n".join(path.relative_to(folder).as_posix() for path in paths).encode(errors="surrogateescape"))


def _divided(labels):
    """Return the indices of 70, 10 and 20 %, with the same fraction of each label."""
    from sklearn.model_selection import train_test_split

    def divide(indices, fraction):
        return train_test_split(indices, test_size=fraction, stratify=labels[indices], random_state=0)

    rest, test = divide(np.arange(len(labels)), 0.2)
    train, validation = divide(rest, 0.125)  # an eighth of 80 % is 10 %
    return train, validation, test


def _with_splits(name, class_names, sources, preprocessing, progress, keep_originals, names=0, left_out=()):
    """Return the data set of some sources by split: train, and validation or test or both."""
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
        raise ValueError(f"{name} has images of one label only: give images of two labels or more")
    if "validation" not in splits:
        # Counted before damaged images are left out, so that repairing one moves no other image between the splits.
        every = HELD_OUT if len(sources["train"]) >= FEW else HELD_OUT_OF_FEW
        held_out = kept["train"] % every == every - 1
        splits["validation"], splits["train"] = splits["train"].take(held_out), splits["train"].take(~held_out)
    return Dataset(class_names, splits["train"], splits["validation"], splits["test"], damaged, names, left_out)


def _tensorflow_dataset(name, preprocessing, class_names, progress, data_dir, keep_originals):
    """Return a data set of tensorflow-datasets, with its own splits or divided if it has only one."""
    from .records import Records, prepared, splits_of

    builder = prepared(name, data_dir)
    names = tuple(builder.info.features[builder.info.supervised_keys[1]].names)
    require_labels(name, names)
    if class_names is not None and class_names != names:
        raise ValueError(f"{name} has the labels {first_of(names)}, which are not the model's: name other data")
    shape = builder.info.features[builder.info.supervised_keys[0]].shape
    # Images that have the model's size already are cropped in memory: decoding them at each use would bring nothing.
    keep_originals = keep_originals and shape[:2] != (preprocessing.height, preprocessing.width)
    sources = {split: Records(builder, there) for split, there in splits_of(builder).items()}
    if "all" in sources:
        return _divided_records(name, names, sources["all"], preprocessing, progress, keep_originals)
    return _with_splits(name, names, sources, preprocessing, progress, keep_originals)


def _divided_records(name, class_names, source, preprocessing, progress, keep_originals):
    """Return the data set of a single source, divided into three splits."""
    fits = _fits(len(source), preprocessing)
    checked = decode_and_validate(
        source, preprocessing, fits and not keep_originals, track(progress, name, len(source))
    )
    if checked.labels.min() < 0:
        raise ValueError(f"{name} has images without labels: name another data set")
    _require_divisible(name, class_names, checked.labels)
    everything = Split(checked.images, checked.labels)
    # After damaged ones are left out: tensorflow-datasets compares checksums, so that files are not damaged later.
    splits = (everything.take(indices) for indices in _divided(checked.labels))
    return Dataset(class_names, *splits, checked.damaged)


def _fits(count, preprocessing):
    """Tell whether `count` images, with the copy that TensorFlow makes of them, fit in half of the memory."""
    # One byte for each channel of a pixel, twice.
    needed = 2 * count * preprocessing.height * preprocessing.width * preprocessing.channels
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if CONTAINER_LIMIT.exists() and (limit := CONTAINER_LIMIT.read_text().strip()).isdigit():
        memory = min(memory, int(limit))
    return 2 * needed < memory


def load_images(
    name: str | os.PathLike[str],
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> LabeledImages:
    """Load all images of `digits`, or of a folder with one subfolder of images for each label, for evaluation.

    Example:
        ```python
        from keras_convmixer.training import evaluate, load_images

        photos = load_images("photos", kc.Preprocessing(8, 8), class_names=("red", "green", "blue"))
        print(f"{evaluate(model, photos.split).accuracy:.0%} of {len(photos.split)} images")
        ```

    Args:
        name: `digits`, or a folder.
        preprocessing: how image files become images of one size.
        class_names: a folder's labels are their positions here; by default the sorted subfolders.
        progress: shows a bar.

    Raises:
        ValueError: `name` is neither `digits` nor a folder; `class_names` are not the digits'; the folder has no
            subfolders, one without images, or one that is not among `class_names`; more than 1 % of the files are
            damaged.
    """
    name = os.fspath(name)
    if name == "digits":
        return LabeledImages(*_digits(preprocessing, class_names))
    if not Path(name).is_dir():
        raise ValueError(
            f"no data set {name!r}: give 'digits', or a folder with one subfolder of images for each label"
        )
    class_names, paths, labels, others = label_folder(Path(name), class_names)
    fits = _fits(len(paths), preprocessing)
    checked = decode_and_validate(Files(paths, labels), preprocessing, fits, track(progress, name, len(paths)))
    left_out = sentence_of_others(Path(name), others)
    return LabeledImages(class_names, Split(checked.images, checked.labels), checked.damaged, left_out)


def _digits(preprocessing, class_names):
    """Return the class names and images of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    if class_names not in (None, tuple("0123456789")):
        raise ValueError(f"digits have the labels 0 to 9, and the model has {', '.join(class_names)}: name other data")
    digits = load_digits()
    grey = np.rint(digits.images * 255 / 16).astype(np.uint8)  # scanned in 17 shades, 0..16  # pyright: ignore[reportAttributeAccessIssue]
    images = np.stack([preprocessing.apply(Image.fromarray(image)) for image in grey])
    return tuple("0123456789"), Split(images, digits.target.astype(np.int64))  # pyright: ignore[reportAttributeAccessIssue]
