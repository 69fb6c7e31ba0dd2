"""Validate an artifact before it is published: compare it with the Keras model, and check dtypes and operators."""

from dataclasses import dataclass

import numpy as np

from ..runtime.decision import Decision
from ..runtime.interpreter import LiteRTModel
from ..tflite.operators import Operators
from .requirements import CLIPPED, REQUIREMENTS


class ValidationError(ValueError):
    """An artifact, or the Keras model itself, misses a requirement; the message names it and what was measured."""

    def __init__(self, message: str, measured: "Validation | None" = None):
        super().__init__(message)
        self.measured = measured
        """The measurement, None if the artifact failed before it."""


@dataclass(frozen=True)
class Validation:
    """An artifact's probabilities compared with the Keras model's, on images that it was not calibrated with."""

    images: int
    agreement: float
    max_difference: float
    mean_difference: float
    accuracy: float | None
    """The artifact's, 0..1; None without labels."""


def validate(
    name: str,
    reference: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray | None = None,
    layers: list[dict] | None = None,
    decision: Decision | None = None,
) -> Validation:
    """Compare an artifact's probabilities with the Keras model's and with the requirements.

    Args:
        name: the artifact, a key of `REQUIREMENTS`.
        reference: the Keras model's probabilities, float32 `[images, classes]`.
        probabilities: the artifact's, of the same shape.
        labels: as `checked_labels` returns them.
        layers: what `layer_errors` returned of a calibrated file; None for others.
        decision: how probabilities become labels; None: the most probable label. An image agrees if it gets the same
            class, or exactly the same set of labels.

    Raises:
        ValidationError: NaN, another shape, a layer's range cuts off more than `CLIPPED` of its values, or a
            requirement is missed.
    """
    if probabilities.shape != reference.shape:
        raise ValidationError(f"{name} returns {probabilities.shape}, the Keras model {reference.shape}")
    if not np.isfinite(probabilities).all():
        raise ValidationError(f"{name} returns NaN or infinity where the Keras model does not")
    decision = decision or Decision()
    difference = np.abs(probabilities - reference)  # [images, classes]
    measured = Validation(
        images=len(reference),
        agreement=float(np.mean(decision.same(probabilities, reference))),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        accuracy=accuracy(probabilities, labels, decision),
    )
    _check_calibration(name, layers or (), measured)
    _check_agreement(name, measured, calibrated=layers is not None)
    if labels is not None:
        _check_accuracy(name, measured, accuracy(reference, labels, decision))
    allowed = REQUIREMENTS[name].max_difference
    if measured.max_difference > allowed:
        raise ValidationError(
            f"{name} differs from the Keras model by up to {measured.max_difference:.2g} in a probability, and "
            f"{allowed:.2g} is allowed",
            measured,
        )
    return measured


def _check_calibration(name, layers, measured):
    # Float layers have no range that could cut off values.
    integers = [layer for layer in layers if layer["clipped"] is not None]
    worst = max(integers, key=lambda layer: layer["clipped"], default=None)
    if worst and worst["clipped"] > CLIPPED:
        raise ValidationError(
            f"{name} cuts off {worst['clipped']:.1%} of the values in layer {worst['layer']}: the calibration images "
            "are unlike the validation images; calibrate with images like those that the model will see",
            measured,
        )


def _check_agreement(name, measured, calibrated):
    required = REQUIREMENTS[name].agreement
    if measured.agreement < required:
        remedy = "calibrate with more images" if calibrated else "choose a format of more bits"
        raise ValidationError(
            f"{name} agrees with the Keras model on {measured.agreement:.2%} of {measured.images} images, and "
            f"{required:.0%} is required: {remedy}, validate with more images, or train longer",
            measured,
        )


def _check_accuracy(name, measured, expected):
    """Check the loss of accuracy against the Keras model's, `expected`; two images may always be lost."""
    allowed = REQUIREMENTS[name].accuracy_loss
    if expected - measured.accuracy > max(allowed, 2 / measured.images) + 1e-9:
        raise ValidationError(
            f"{name} is right on {measured.accuracy:.2%} of {measured.images} images, the Keras model on "
            f"{expected:.2%}, and {allowed:.1%} less is allowed: calibrate with more images, or take another format",
            measured,
        )


def accuracy(probabilities: np.ndarray, labels: np.ndarray | None, decision: Decision | None = None) -> float | None:
    """Return the share of images that get their class, or exactly their labels, 0..1; None without labels."""
    return None if labels is None else float(np.mean((decision or Decision()).right(probabilities, labels)))


def check_dtypes(name: str, input_dtype: str, output_dtype: str) -> None:
    """Check the dtypes of an artifact's input and output; raises ValidationError."""
    requirement = REQUIREMENTS[name]
    for side, dtype, required in (
        ("input", input_dtype, requirement.input_dtype),
        ("output", output_dtype, requirement.output_dtype),
    ):
        if dtype != required:
            raise ValidationError(f"{name}'s {side} is {dtype}, and must be {required}")


def check_litert(name: str, model: LiteRTModel, operators: Operators) -> None:
    """Check dtypes and operators of a .tflite file, and that it takes raw pixels.

    Raises:
        ValidationError: an input, an output or a tensor has another dtype than the format, LiteRT lacks an operator, or
            the input's scale is not 1.
    """
    requirement = REQUIREMENTS[name]
    check_dtypes(name, np.dtype(model.input["dtype"]).name, np.dtype(model.output["dtype"]).name)
    if operators.custom:
        raise ValidationError(
            f"{name} has operators that LiteRT lacks ({', '.join(sorted(operators.custom))}): "
            "build the model of layers that convert to built-in ones"
        )
    foreign = operators.dtypes - requirement.tensor_dtypes
    if foreign:
        raise ValidationError(f"{name} has {', '.join(sorted(foreign))} tensors, and must have none")
    # Apps feed bytes 0..255 as they are. A scale of 1.02 moves a pixel by 5 of 255 levels at most; float32 has scale 0.
    scale, zero_point = model.input["quantization"]
    if scale and (zero_point != 0 or abs(scale - 1) > 0.02):
        raise ValidationError(
            f"{name}'s input stands for pixels 0..{scale * (255 - zero_point):.0f} instead of 0..255: "
            "calibrate with images that have black and white pixels"
        )
