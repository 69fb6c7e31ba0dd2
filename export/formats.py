"""The formats of .tflite files, and how each is made.

What to write to add a format is in CONTRIBUTING.md.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .tflite.conversion import Conversion, convert_float16, convert_float32
from .tflite.quantize import convert_dynamic, convert_int8, convert_int16x8, convert_weight_int4, convert_weight_int8


@dataclass(frozen=True)
class Format:
    """A format of .tflite files, and the function that makes them."""

    scheme: str
    """Dtypes of weights and computation, as manifest and card describe them."""
    convert: Callable[[Conversion, np.ndarray], bytes] | None
    """Makes the file's bytes from a deployed model's conversion and calibration images, uint8
    `[count, height, width, channels]`. None: the file comes from training, see qat/."""
    calibrated: bool = False
    """The calibration images set the ranges of the file's integers."""
    in_8_bits: bool = False
    """Converted from the model that is deployed for "litert_int8" where the export is for that target."""
    for_gpus: bool = False
    """Always deployed for "litert_gpu"."""


FORMATS: dict[str, Format] = {
    "float32": Format("float32 throughout", convert_float32),
    "float16": Format("float16 weights, computed in float32 or, on GPUs, float16", convert_float16, for_gpus=True),
    "dynamic": Format(
        "int8 weights and activations in convolutions and dense layers, the rest float32",
        convert_dynamic,
        in_8_bits=True,
    ),
    "int8": Format(
        "int8 weights and activations, integer operators only", convert_int8, calibrated=True, in_8_bits=True
    ),
    "qat_int8": Format("int8 weights and activations, integer operators only, trained with them", None),
    "int16x8": Format("int8 weights, int16 activations", convert_int16x8, calibrated=True),
    "weight_int8": Format("int8 weights, computed in float32", convert_weight_int8),
    "weight_int4": Format(
        "int4 weights, int8 ones of depthwise convolutions, computed in float32", convert_weight_int4
    ),
}


def deployed_for(format: str, target: str) -> str:
    """Return the target of `deploy` for a format's file, in an export for `target`."""
    made = FORMATS[format]
    if made.convert is None:
        return "litert"
    if made.for_gpus or target == "litert_gpu":
        return "litert_gpu"
    return target if made.in_8_bits else "litert"


def gzip_size(content: bytes) -> int:
    """Return the size of a file compressed by gzip, as app stores and web servers send it."""
    return len(gzip.compress(content, 6, mtime=0))
