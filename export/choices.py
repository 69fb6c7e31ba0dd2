"""The choices of an export and their defaults. The command line reads them too, so this file imports no TensorFlow."""

from typing import Literal

FormatName = Literal["float32", "float16", "dynamic", "int8", "qat_int8", "int16x8", "weight_int8", "weight_int4"]
"""Formats of .tflite files, see formats.py."""
DEFAULT_FORMATS: tuple[FormatName, ...] = ("float32", "float16", "dynamic", "int8")
Target = Literal["litert", "litert_int8", "litert_gpu"]
"""Targets of `deploy` that .tflite files may be made for."""
OutputKind = Literal["single-label", "multi-label", "binary"]
"""Kinds of classifiers, see `outputs.kind.KINDS`."""
