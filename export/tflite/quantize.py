"""Quantize a float32 .tflite file with litert-quantizer, to formats that TensorFlow's converter cannot make."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from litert_quantizer.qtyping import TFLOperationName as Operation
from litert_quantizer.quantizer import Quantizer

from .conversion import Conversion
from .flatbuffer import read_model, write_model
from .rewrites.dense_scales import scale_behind_dense_layers
from .rewrites.openvino import let_openvino_read
from .rewrites.operator_versions import set_versions

WEIGHTED = (Operation.CONV_2D, Operation.DEPTHWISE_CONV_2D, Operation.FULLY_CONNECTED)


def convert_dynamic(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert to int8 weights in convolutions and dense layers, whose inputs are quantized when the model runs.

    Depthwise convolutions stay in float32, in which XNNPACK runs them as fast as in int8; TensorFlow's own dynamic
    quantization makes them int8, for which there is no kernel. The file takes and returns float32. Needs no
    calibration.
    """
    quantizer = Quantizer(conversion.float32)
    for operation in (Operation.CONV_2D, Operation.FULLY_CONNECTED):
        quantizer.add_dynamic_config(".*", operation, num_bits=8)
    return _quantize(quantizer)


def convert_weight_int8(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert to int8 weights with a scale for each channel, computed with in float32: for small files.

    The file takes and returns float32. Needs no calibration.
    """
    return _weights_only(conversion.float32, 8)


def convert_weight_int4(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert to int4 weights in convolutions and dense layers and int8 ones in depthwise convolutions.

    They are computed with in float32: for the smallest files. The file takes and returns float32. Needs no calibration.
    """
    return _weights_only(conversion.float32, 4)


def _weights_only(content, bits):
    quantizer = Quantizer(content)
    for operation in WEIGHTED:
        # LiteRT has no depthwise convolution with int4 weights.
        depthwise = operation is Operation.DEPTHWISE_CONV_2D
        quantizer.add_weight_only_config(".*", operation, num_bits=8 if depthwise else bits)
    return _quantize(quantizer)


def _quantize(quantizer):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        content = quantizer.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model
    model = read_model(bytes(content))
    scale_behind_dense_layers(model)
    let_openvino_read(model)
    set_versions(model)
    return write_model(model)
