"""Write a .tflite file's metadata, as MediaPipe Tasks and Android's tools read it: name, normalization, labels.

The metadata is a flatbuffer of its own schema. Of its generated classes, which mediapipe has, no more would be needed
than the tables below; so it is written from dictionaries of slots, the fields of each table by their number.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from types import SimpleNamespace

import flatbuffers
import numpy as np

from keras_convmixer.files.labels import NAME as LABELS
from keras_convmixer.files.labels import labels_text
from keras_convmixer.files.printable import printable

from ..flatbuffer import append_metadata, check_size, read_model, write_model

# Slots of the tables that are written. Source: metadata_schema.fbs of MediaPipe (mediapipe/tasks/metadata). Fields are
# numbered in the order of their declaration; a union takes two numbers, its type and its value.
Model = SimpleNamespace(NAME=0, DESCRIPTION=1, SUBGRAPHS=3, MIN_PARSER_VERSION=7)  # ModelMetadata
Subgraph = SimpleNamespace(INPUTS=2, OUTPUTS=3)  # SubGraphMetadata
Tensor = SimpleNamespace(NAME=0, DESCRIPTION=1, CONTENT=3, PROCESS_UNITS=4, STATS=5, FILES=6)  # TensorMetadata
Content = SimpleNamespace(PROPERTIES_TYPE=0, PROPERTIES=1)
Image = SimpleNamespace(COLOR_SPACE=0, DEFAULT_SIZE=1)  # ImageProperties
Size = SimpleNamespace(WIDTH=0, HEIGHT=1)  # ImageSize
ProcessUnit = SimpleNamespace(OPTIONS_TYPE=0, OPTIONS=1)
Normalization = SimpleNamespace(MEAN=0, DEVIATION=1)  # NormalizationOptions
Stats = SimpleNamespace(MAX=0, MIN=1)
File = SimpleNamespace(NAME=0, DESCRIPTION=1, TYPE=2)  # AssociatedFile


@dataclass(frozen=True)
class _Scalar:
    """A number in a table; tables, lists and texts are stored behind a table, which refers to them."""

    kind: str
    """The number's type, as flatbuffers.Builder's methods name it."""
    value: int


# Values of the schema's enumerations and unions.
RGB, GREYSCALE = _Scalar("Int8", 1), _Scalar("Int8", 2)
AXIS_LABELS = _Scalar("Int8", 2)
NORMALIZATION_OPTIONS = _Scalar("Uint8", 1)
FEATURE_PROPERTIES, IMAGE_PROPERTIES = _Scalar("Uint8", 1), _Scalar("Uint8", 2)


def add_metadata(
    content: bytes, name: str, description: str, class_names: tuple[str, ...], float_input: bool, image: tuple[int, ...]
) -> bytes:
    """Return a .tflite classifier with metadata, and the labels as an associated file.

    Normalization is mean 0 and deviation 1: the file takes raw pixels 0..255. `image` is (height, width, channels).
    Name and labels, which apps show as they are, are written without control characters.

    Raises:
        ValueError: the file with its metadata would be larger than a .tflite file can be.
    """
    height, width, channels = image
    size = {Size.WIDTH: _Scalar("Uint32", width), Size.HEIGHT: _Scalar("Uint32", height)}
    normalize = {
        ProcessUnit.OPTIONS_TYPE: NORMALIZATION_OPTIONS,
        ProcessUnit.OPTIONS: {Normalization.MEAN: [0.0], Normalization.DEVIATION: [1.0]},
    }
    pixels = {
        Tensor.NAME: "images",
        Tensor.DESCRIPTION: f"{'RGB' if channels == 3 else 'Grey'} image, pixels 0..255.",
        Tensor.CONTENT: {
            Content.PROPERTIES_TYPE: IMAGE_PROPERTIES,
            Content.PROPERTIES: {Image.COLOR_SPACE: RGB if channels == 3 else GREYSCALE, Image.DEFAULT_SIZE: size},
        },
        Tensor.PROCESS_UNITS: [normalize] if float_input else [],  # MediaPipe requires it of float inputs
        Tensor.STATS: {Stats.MAX: [255.0], Stats.MIN: [0.0]},
    }
    labels_file = {
        File.NAME: LABELS,
        File.DESCRIPTION: "One label a line, in the order of the classes.",
        File.TYPE: AXIS_LABELS,
    }
    probabilities = {
        Tensor.NAME: "probabilities",
        Tensor.DESCRIPTION: "Probability of each label.",
        Tensor.CONTENT: {Content.PROPERTIES_TYPE: FEATURE_PROPERTIES, Content.PROPERTIES: {}},
        Tensor.STATS: {Stats.MAX: [1.0], Stats.MIN: [0.0]},
        Tensor.FILES: [labels_file],
    }
    metadata = {
        Model.NAME: printable(name),
        Model.DESCRIPTION: description,
        Model.SUBGRAPHS: [{Subgraph.INPUTS: [pixels], Subgraph.OUTPUTS: [probabilities]}],
        Model.MIN_PARSER_VERSION: "1.0.0",
    }
    builder = flatbuffers.Builder()
    builder.Finish(_table(builder, metadata), file_identifier=b"M001")

    model = read_model(content)
    append_metadata(model, "TFLITE_METADATA", np.frombuffer(builder.Output(), np.uint8))
    # Associated files are a zip archive behind the flatbuffer; LiteRT reads the flatbuffer alone.
    with io.BytesIO(write_model(model)) as file:
        with zipfile.ZipFile(file, "a") as archive:
            labels = zipfile.ZipInfo(LABELS)  # dated 1980, so that two exports give the same bytes
            archive.writestr(labels, labels_text([printable(label) for label in class_names]))
        check_size(file.tell())
        return file.getvalue()


def _table(builder: flatbuffers.Builder, slots: dict) -> int:
    """Write a table from its slots: strings, scalars, tables, lists of tables or of floats. Return its offset."""
    # A flatbuffer is written from its leaves to its root: all that a table points to comes before it.
    written = {slot: _written(builder, value) for slot, value in slots.items() if not isinstance(value, _Scalar)}
    builder.StartObject(max(slots, default=-1) + 1)
    for slot, value in slots.items():
        if isinstance(value, _Scalar):
            getattr(builder, f"Prepend{value.kind}Slot")(slot, value.value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, written[slot], 0)
    return builder.EndObject()


def _written(builder, value):
    """Write a value that a table points to; return its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, dict):
        return _table(builder, value)
    floats = bool(value) and isinstance(value[0], float)
    items = value if floats else [_table(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):  # the builder writes from the end of the buffer to its beginning
        (builder.PrependFloat32 if floats else builder.PrependUOffsetTRelative)(item)
    return builder.EndVector()
