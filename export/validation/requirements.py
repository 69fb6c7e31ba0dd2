"""The requirements that each artifact must meet to be published."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Requirement:
    """The limits of one kind of artifact."""

    agreement: float
    """Lowest share of images, 0..1, that get the Keras model's class or, of a multi-label model, exactly its labels."""
    accuracy_loss: float
    """Highest loss of accuracy against the Keras model's, 0..1, if there are labels; two images may always be lost."""
    max_difference: float
    """Largest difference of a probability."""
    input_dtype: str
    output_dtype: str
    tensor_dtypes: frozenset[str] | None
    """Allowed dtypes of a .tflite file's tensors, by the schema's names; None for a SavedModel."""


CLIPPED = 0.02
"""Highest share of a layer's values outside the range that calibration found.

Measured in the worst layer of a ConvMixer-32/4 of digits and of a ConvMixer-64/4 of CIFAR-10, calibrated with 500 or 10
training images: 0.0005 at most; with noise: 0.08 and 0.01; with one image: 0.04 and 0.11; with a black one: 0.02 and
0.08.
"""
FLOAT32 = ("float32", "float32")
_REALS = frozenset({"FLOAT32", "INT32"})
_INTEGERS = frozenset({"UINT8", "INT8", "INT32"})
REQUIREMENTS = {
    # Float formats compute what Keras computes in another order of additions, so the largest difference is limited.
    # Quantized ones are held to the accuracy: where the model is unsure they may decide otherwise, for the better too.
    "saved_model": Requirement(0.99, 0.001, 1e-4, "uint8", "float32", None),
    "float32": Requirement(0.99, 0.001, 1e-4, *FLOAT32, _REALS),
    "float16": Requirement(0.99, 0.002, 0.05, *FLOAT32, _REALS | {"FLOAT16"}),
    "dynamic": Requirement(0.98, 0.002, 1.0, *FLOAT32, _REALS | {"INT8"}),
    "int8": Requirement(0.93, 0.01, 1.0, "uint8", "uint8", _INTEGERS),
    # Training with 8 bits changes the decisions where the model is unsure.
    "qat_int8": Requirement(0.90, 0.005, 1.0, "uint8", "uint8", _INTEGERS),
    "int16x8": Requirement(0.98, 0.005, 1.0, *FLOAT32, _REALS | {"INT8", "INT16", "INT64"}),
    "weight_int8": Requirement(0.98, 0.005, 1.0, *FLOAT32, _REALS | {"INT8"}),
    "weight_int4": Requirement(0.85, 0.03, 1.0, *FLOAT32, _REALS | {"INT8", "INT4"}),
}
"""By artifact: "saved_model", or the format of a .tflite file."""
