"""Data sets of tensorflow-datasets, with random access to their encoded images."""

from __future__ import annotations

import struct
from pathlib import Path

import tensorflow_datasets as tfds

HEADER, FOOTER = 12, 4
"""Bytes before and after a TFRecord's content: the content's length with a checksum, and the content's checksum."""


def prepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """Return the builder of a data set that was prepared before; nothing is downloaded.

    Raises:
        ValueError: there is no such data set, it is not prepared, or it has no images with labels.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir or None, try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != "tensorflow_datasets":
            raise
        if name == "FOLDER":  # the default of recipe finetune
            raise ValueError(
                "the data set is missing: give dataset=FOLDER, a folder with one subfolder of images for each label"
            ) from None
        raise ValueError(
            f"no data set {name!r}: give 'digits', a folder with one subfolder of images for each label, or a name "
            "of tensorflow-datasets, such as cifar10 (https://www.tensorflow.org/datasets/catalog)"
        ) from None
    if not builder.info.splits:
        # Not its command line, which in 4.9.10 asks for apache_beam.
        place = f", data_dir={data_dir!r}" if data_dir else ""
        raise ValueError(
            f'the data set {name} is not in {builder.data_path.parent.parent}: get it with `python -c "import '
            f'tensorflow_datasets as tfds; tfds.builder({name!r}{place}).download_and_prepare()"`, or name its place '
            "with data_dir"
        )
    keys, features = builder.info.supervised_keys, builder.info.features
    if not keys or not (
        isinstance(features[keys[0]], tfds.features.Image) and isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise ValueError(f"the data set {name} has no images with labels: name one for image classification")
    return builder


def splits_of(builder: tfds.core.DatasetBuilder) -> dict[str, str]:
    """Return split names by purpose: train, test and, if there is one, validation; or "all" for the only split.

    Raises:
        ValueError: there are several splits, but none for training or none for testing.
    """
    available = set(builder.info.splits)
    if "test" in available and Records(builder, "test")[0][1] < 0:  # ImageNet's test labels are secret
        available.remove("test")
    if len(available) == 1:
        return {"all": available.pop()}
    test = next((split for split in ("test", "validation") if split in available), None)
    if "train" not in available or test is None:
        splits = ", ".join(builder.info.splits)
        raise ValueError(f"the data set {builder.name} has the splits {splits}: name one with train and test")
    splits = {"train": "train", "test": test}
    return splits | ({"validation": "validation"} if {"test", "validation"} <= available else {})


class Records:
    """Sequence of a split's encoded images with their labels; several threads may read it.

    Files in TFRecord, tensorflow-datasets' default format, have no index. The records' offsets are found once by
    walking from header to header, which takes 2.4 microseconds each. Other formats are read by tensorflow-datasets'
    own data source.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        self._name = f"{builder.name} {split}"
        self._image, self._label = builder.info.supervised_keys
        decoders = {self._image: tfds.decode.SkipDecoding()}  # pyright: ignore[reportUnhashable]
        if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
            paths = map(Path, builder.info.splits[split].filepaths)
            places = [(path, start, length) for path in paths for start, length in _walk(path)]
            deserialize = builder.info.features.deserialize_example_np  # pyright: ignore[reportAttributeAccessIssue]
            self._example = lambda index: deserialize(_content(*places[index]), decoders=decoders)
            self._count = len(places)
        else:
            source = builder.as_data_source(split, decoders=decoders)
            self._example, self._count = source.__getitem__, len(source)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        """Return an encoded image and its label."""
        example = self._example(index)
        return bytes(example[self._image]), int(example[self._label])

    def name(self, index: int) -> str:
        """Return the name by which the user finds an image."""
        return f"{self._name}, record {index}"


def _walk(path):
    """Yield the start and length, in bytes, of each record's content."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start < size:
            file.seek(start)  # from record to record, without reading their contents
            header = file.read(8)
            if len(header) < 8:
                raise ValueError(f"{path} ends in the middle of a record: prepare the data set again")
            # A little-endian uint64; its checksum, the header's other four bytes, is not compared.
            (length,) = struct.unpack("<Q", header)
            yield start + HEADER, length
            start += HEADER + length + FOOTER


def _content(path, start, length):
    with path.open("rb") as file:  # not kept open: ImageNet has a thousand files
        file.seek(start)
        return file.read(length)
