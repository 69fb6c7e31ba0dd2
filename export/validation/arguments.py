"""Check the arguments of export_bundle before anything is written."""

from __future__ import annotations

import re
from typing import get_args

import keras
import numpy as np

from keras_convmixer.files.labels import is_label
from keras_convmixer.outputs.classifier import as_classifier

from ..choices import Target
from ..formats import FORMATS
from ..runtime.decision import BINARY

TARGETS = get_args(Target)


def check_choices(class_names: tuple[str, ...], formats: tuple[str, ...], target: str, qat_int8: bytes | None) -> None:
    """Check labels, formats and the target, and that the file of format qat_int8 is given; raises ValueError."""
    if isinstance(class_names, str) or len(set(class_names)) != len(class_names) or not all(map(is_label, class_names)):
        raise ValueError("class_names: give strings of valid Unicode, one line each, no two the same")
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise ValueError(f"formats has {', '.join(unknown)}: there are {', '.join(FORMATS)}")
    if target not in TARGETS:
        raise ValueError(f"target={target!r}: choose one of {', '.join(map(repr, TARGETS))}")
    if "qat_int8" in formats and qat_int8 is None:
        raise ValueError("formats has qat_int8: give qat_int8=quantization_aware(model, ...), which trains it")


def check_description(name: str | None, license: str | None, training_data: str | None) -> None:
    """Check what manifest and card say about a model; raises ValueError."""
    for argument, text in (("name", name), ("training_data", training_data)):
        if text is not None and not is_label(text):
            raise ValueError(f"{argument}={text!r}: give one line of text")
    if license is not None and not re.fullmatch(r"[A-Za-z0-9.+-]+", license):
        raise ValueError(f"license={license!r}: give an SPDX identifier, such as apache-2.0 or cc-by-4.0")


def exportable_classifier(
    model: keras.Model, class_names: tuple[str, ...], kind: str | None = None, images: np.ndarray | None = None
) -> keras.Model:
    """Return the model with probabilities as output; raises ValueError if it cannot be exported.

    `kind` and `images` are those of `as_classifier`; images of another shape than the model's are ignored.
    """
    fitting = np.ndim(images) == 4 and np.shape(images)[1:] == tuple(getattr(model, "input_shape", ())[1:])
    classifier = as_classifier(model, kind, images if fitting else None)
    shape = classifier.input_shape[1:]
    if None in shape or shape[-1] not in (1, 3):
        raise ValueError(
            f"the model takes images {shape}: export takes (height, width, 1 or 3) of one size; "
            "rebuild it with that input_shape and the same weights"
        )
    if classifier.returns.kind == BINARY:
        if len(class_names) not in (1, 2):
            raise ValueError(
                f"the model has one output and there are {len(class_names)} labels: give the negative and the positive "
                "one, or the positive one alone"
            )
    elif classifier.output_shape[-1] != len(class_names):
        raise ValueError(
            f"the model has {classifier.output_shape[-1]} classes and there are {len(class_names)} labels: "
            "give one label for each class"
        )
    reduced = {layer.compute_dtype for layer in classifier.layers} - {"float32"}
    if reduced:
        raise ValueError(
            f"the model computes in {', '.join(sorted(reduced))}: rebuild it under the float32 policy and load the "
            "same weights"
        )
    for weight in classifier.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise ValueError(
                f"the model's weights {weight.path} are NaN or infinite: its training diverged; train it again "
                "with a lower learning rate, or export an earlier checkpoint"
            )
    return classifier


def check_images(argument: str, images: np.ndarray, model: keras.Model) -> None:
    """Check that an argument is uint8 images `[count, height, width, channels]` of the model's size, one or more.

    Raises ValueError.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != tuple(model.input_shape[1:]) or not len(images):
        raise ValueError(
            f"{argument} is {images.dtype} {images.shape}: give uint8 images [count, *{model.input_shape[1:]}], "
            "at least one"
        )
