"""What a .tflite file says of itself, as MediaPipe Tasks and Android's tools read it: name, normalization, labels."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_convmixer.files.labels import NAME as LABELS
from keras_convmixer.files.labels import labels_text
from keras_convmixer.files.printable import printable

from .flatbuffer import check_size, read_model, write_model

RGB, GREY = 1, 2
AXIS_LABELS = 2
NORMALIZATION, FEATURES, IMAGE = 1, 1, 2
"""Values of the metadata schema's enumerations."""


@dataclass(frozen=True)
class _Scalar:
    kind: str
    value: int


def add_metadata(
    content: bytes, name: str, description: str, class_names: tuple[str, ...], float_input: bool, image: tuple[int, ...]
) -> bytes:
    """Return a .tflite classifier with metadata, and the labels as an associated file.

    Normalization is mean 0 and deviation 1: the file takes raw pixels 0..255. `image` is height, width, channels. What
    apps show as it is, the name and the labels, is written without control characters.
    Source: metadata_schema.fbs of MediaPipe (mediapipe/tasks/metadata), whose slots the numbers below are.

    Raises:
        ValueError: the file with its metadata would be larger than a .tflite file can be.
    """
    height, width, channels = image
    pixels = {
        0: "images",
        1: f"{'RGB' if channels == 3 else 'Grey'} image, pixels 0..255.",
        3: {
            0: _Scalar("Uint8", IMAGE),
            1: {0: _Scalar("Int8", RGB if channels == 3 else GREY), 1: _size(height, width)},
        },
        4: [{0: _Scalar("Uint8", NORMALIZATION), 1: {0: [0.0], 1: [1.0]}}] if float_input else [],
        5: {0: [255.0], 1: [0.0]},
    }
    probabilities = {
        0: "probabilities",
        1: "Probability of each label.",
        3: {0: _Scalar("Uint8", FEATURES), 1: {}},
        5: {0: [1.0], 1: [0.0]},
        6: [{0: LABELS, 1: "One label a line, in the order of the classes.", 2: _Scalar("Int8", AXIS_LABELS)}],
    }
    metadata = {0: printable(name), 1: description, 3: [{2: [pixels], 3: [probabilities]}], 7: "1.0.0"}
    builder = flatbuffers.Builder()
    builder.Finish(_table(builder, metadata), file_identifier=b"M001")

    model = read_model(content)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers)
    held = schema.BufferT()
    held.data = np.frombuffer(builder.Output(), np.uint8)
    model.buffers.append(held)
    model.metadata = [*(model.metadata or []), entry]
    # Associated files are a zip behind the model, which LiteRT does not read.
    with io.BytesIO(write_model(model)) as file:
        with zipfile.ZipFile(file, "a") as archive:
            labels = zipfile.ZipInfo(LABELS)  # of 1980, the same in every export
            archive.writestr(labels, labels_text([printable(label) for label in class_names]))
        check_size(file.tell())
        return file.getvalue()


def _size(height, width):
    return {0: _Scalar("Uint32", width), 1: _Scalar("Uint32", height)}


def _table(builder: flatbuffers.Builder, slots: dict) -> int:
    """Write a table of strings, scalars, tables, lists of tables and lists of floats by their slots."""
    written = {slot: _written(builder, value) for slot, value in slots.items() if not isinstance(value, _Scalar)}
    builder.StartObject(max(slots, default=-1) + 1)
    for slot, value in slots.items():
        if isinstance(value, _Scalar):
            getattr(builder, f"Prepend{value.kind}Slot")(slot, value.value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, written[slot], 0)
    return builder.EndObject()


def _written(builder, value):
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, dict):
        return _table(builder, value)
    floats = bool(value) and isinstance(value[0], float)
    items = value if floats else [_table(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        (builder.PrependFloat32 if floats else builder.PrependUOffsetTRelative)(item)
    return builder.EndVector()
