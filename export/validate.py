"""Compare an artifact with the Keras model before it is handed out."""

from dataclasses import dataclass

import numpy as np

from .runtime.decision import Decision
from .runtime.interpreter import LiteRTModel
from .tflite.operators import Operators


class ValidationError(ValueError):
    """An artifact is not what it should be; the sentence names it and what was measured."""

    def __init__(self, message: str, measured: "Validation | None" = None):
        super().__init__(message)
        self.measured = measured
        """What was measured, if it came to that."""


@dataclass(frozen=True)
class Requirement:
    """What an artifact must be like to be published."""

    agreement: float
    """Least share of images, 0..1, that get the Keras model's class or, of several labels, exactly the same ones."""
    accuracy_loss: float
    """Most that accuracy may lose against the Keras model's, 0..1, where labels are given; in small sets two images."""
    max_difference: float
    """Largest difference of a probability allowed."""
    input_dtype: str
    output_dtype: str
    tensor_dtypes: frozenset[str] | None
    """Dtypes that a .tflite file's tensors may have, by the schema's names; None for a SavedModel."""


CLIPPED = 0.02
"""Share of a layer's values that calibration may have missed.

Measured in the layer with most, of a ConvMixer-32/4 of digits and a -64/4 of CIFAR-10: after 500 or 10 training images
0.0005 and less, after noise 0.08 and 0.01, after one image 0.04 and 0.11, after a black one 0.02 and 0.08.
"""
FLOAT32 = ("float32", "float32")
_REALS = frozenset({"FLOAT32", "INT32"})
_INTEGERS = frozenset({"UINT8", "INT8", "INT32"})
REQUIREMENTS = {
    # Float forms compute what Keras computes in another order of additions. Quantized ones are held to its accuracy:
    # where the model itself is unsure, they may decide otherwise, as often to the better.
    "saved_model": Requirement(0.99, 0.001, 1e-4, "uint8", "float32", None),
    "float32": Requirement(0.99, 0.001, 1e-4, *FLOAT32, _REALS),
    "float16": Requirement(0.99, 0.002, 0.05, *FLOAT32, _REALS | {"FLOAT16"}),
    "dynamic": Requirement(0.98, 0.002, 1.0, *FLOAT32, _REALS | {"INT8"}),
    "int8": Requirement(0.93, 0.01, 1.0, "uint8", "uint8", _INTEGERS),
    # Training changes what it decides where it is unsure.
    "qat_int8": Requirement(0.90, 0.005, 1.0, "uint8", "uint8", _INTEGERS),
    "int16x8": Requirement(0.98, 0.005, 1.0, *FLOAT32, _REALS | {"INT8", "INT16", "INT64"}),
    "weight_int8": Requirement(0.98, 0.005, 1.0, *FLOAT32, _REALS | {"INT8"}),
    "weight_int4": Requirement(0.85, 0.03, 1.0, *FLOAT32, _REALS | {"INT8", "INT4"}),
}
"""By the names of formats."""


@dataclass(frozen=True)
class Validation:
    """How an artifact's probabilities compare with the Keras model's on images it was not calibrated with."""

    images: int
    agreement: float
    max_difference: float
    mean_difference: float
    accuracy: float | None
    """Of the artifact, where labels were given."""


def validate(
    name: str,
    reference: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray | None = None,
    layers: list[dict] | None = None,
    decision: Decision | None = None,
) -> Validation:
    """Compare probabilities `[images, classes]` with the reference's.

    `layers`, of a calibrated file, are what `layer_errors` returned; `decision` is how probabilities become labels, one
    for each image where it is None. An image agrees where it gets the same class, or exactly the same set of labels.

    Raises:
        ValidationError: NaN, another shape, a layer's range cuts off more than `CLIPPED` of its values, or a
            requirement of REQUIREMENTS[name] is missed.
    """
    if probabilities.shape != reference.shape:
        raise ValidationError(f"{name} returns {probabilities.shape}, the Keras model {reference.shape}")
    if not np.isfinite(probabilities).all():
        raise ValidationError(f"{name} returns NaN or infinity where the Keras model does not")
    decision = decision or Decision()
    difference = np.abs(probabilities - reference)
    result = Validation(
        images=len(reference),
        agreement=float(np.mean(decision.same(probabilities, reference))),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        accuracy=accuracy(probabilities, labels, decision),
    )
    _check_calibration(name, layers or (), result)
    requirement = REQUIREMENTS[name]
    if result.agreement < requirement.agreement:
        remedy = "choose a format of more bits" if layers is None else "calibrate with more images"
        raise ValidationError(
            f"{name} agrees with the Keras model on {result.agreement:.2%} of {result.images} images, and "
            f"{requirement.agreement:.0%} is required: {remedy}, validate with more images, or train longer",
            result,
        )
    lost = 0.0 if labels is None else accuracy(reference, labels, decision) - result.accuracy
    if lost > max(requirement.accuracy_loss, 2 / len(reference)) + 1e-9:
        raise ValidationError(
            f"{name} is right on {result.accuracy:.2%} of {result.images} images, the Keras model on "
            f"{result.accuracy + lost:.2%}, and {requirement.accuracy_loss:.1%} less is allowed: calibrate with more "
            "images, or take another format",
            result,
        )
    if result.max_difference > requirement.max_difference:
        raise ValidationError(
            f"{name} differs from the Keras model by up to {result.max_difference:.2g} in a probability, and "
            f"{requirement.max_difference:.2g} is allowed",
            result,
        )
    return result


def accuracy(probabilities: np.ndarray, labels: np.ndarray | None, decision: Decision | None = None) -> float | None:
    """Return the share of images that get their class, or exactly their labels, 0..1; None without labels."""
    return None if labels is None else float(np.mean((decision or Decision()).right(probabilities, labels)))


def check_dtypes(name: str, input_dtype: str, output_dtype: str) -> None:
    """Check what an artifact takes and returns; raises ValidationError where it is not REQUIREMENTS[name]'s."""
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
        ValidationError: an input, output or tensor has a dtype, or there is an operator, that does not belong.
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
    scale, zero_point = model.input["quantization"]
    if scale and (zero_point != 0 or abs(scale - 1) > 0.02):
        raise ValidationError(
            f"{name}'s input stands for pixels 0..{scale * (255 - zero_point):.0f} instead of 0..255: "
            "calibrate with images that have black and white pixels"
        )


def _check_calibration(name, layers, measured):
    integers = [layer for layer in layers if layer["clipped"] is not None]
    worst = max(integers, key=lambda layer: layer["clipped"], default=None)
    if worst and worst["clipped"] > CLIPPED:
        raise ValidationError(
            f"{name} cuts off {worst['clipped']:.1%} of the values in layer {worst['layer']}: the calibration images "
            "are unlike the validation images; calibrate with images like those that the model will see",
            measured,
        )
