"""Folders with one subfolder of image files for each label, and folders with such a folder for each split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from keras_convmixer.files.labels import require_labels
from keras_convmixer.files.printable import first_of
from keras_convmixer.images.decoding import SUFFIXES
from keras_convmixer.images.folders import SPLIT_FOLDERS, image_files, subfolders


def split_folders(folder: Path) -> dict[str, Path] | None:
    """Return a folder's subfolders by split: train, validation, test; None if they are labels.

    They are splits if one is called train and has subfolders itself. A label may be called train, too.

    Raises:
        ValueError: beside the splits there are other subfolders, or one without labels in it.
    """
    entries = subfolders(folder)
    named = [(SPLIT_FOLDERS.get(entry.name.lower()), entry) for entry in entries]
    train = [entry for split, entry in named if split == "train"]
    if not train or not subfolders(train[0]):
        return None
    splits = {split: entry for split, entry in named if split}  # fewer than entries if two mean the same split
    flat = [entry.name for entry in entries if not subfolders(entry)]
    if len(splits) < len(entries) or len(splits) < 2 or flat:
        raise ValueError(
            f"{folder} has the subfolders {first_of([entry.name for entry in entries])}: beside a train with a "
            "subfolder for each label give val and test, or one of them, with the same subfolders, and nothing else"
        )
    return splits


def label_folder(
    folder: Path, class_names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[Path], np.ndarray, Counter]:
    """Return the class names, the image files, their labels int64 `[count]`, and a count of other files by ending.

    Raises:
        ValueError: there are no subfolders, one has no images, or one is not among `class_names`.
    """
    files = {entry.name: image_files(entry) for entry in subfolders(folder)}
    paths_of = {label: entry.paths for label, entry in files.items()}
    empty = [label for label, paths in paths_of.items() if not paths]
    if empty or not paths_of:
        problem = f"no images in {first_of(empty)}" if empty else "no subfolders"
        if unread := [f"{label} has {files[label].described_others()}" for label in empty if files[label].others]:
            raise ValueError(
                f"{folder} has {problem} that can be read ({first_of(unread)}): save them as JPEG or PNG, or as "
                f"another of {', '.join(SUFFIXES)}"
            )
        raise ValueError(
            f"{folder} has {problem}: give a folder with one subfolder of images for each label ({', '.join(SUFFIXES)})"
        )
    require_labels(folder, paths_of)
    class_names = tuple(class_names or paths_of)
    unknown = sorted(set(paths_of) - set(class_names))
    if unknown:
        raise ValueError(
            f"{folder} has subfolders that are not labels of the model ({first_of(unknown)}): "
            f"name them as its labels ({first_of(class_names)})"
        )
    # An image's label is the position of its folder's name among the class names, which may hold more than the folder.
    labels = np.repeat([class_names.index(label) for label in paths_of], [len(paths) for paths in paths_of.values()])
    others = sum((entry.others for entry in files.values()), Counter())
    return class_names, [path for paths in paths_of.values() for path in paths], labels.astype(np.int64), others
