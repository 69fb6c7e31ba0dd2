"""Quantize a float32 .tflite file with litert-quantizer."""

from __future__ import annotations

import contextlib
import io
import os
import warnings

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from litert_quantizer import qtyping
from litert_quantizer.algorithm_manager import AlgorithmName
from litert_quantizer.calibrator import CalibrationMode, Calibrator
from litert_quantizer.qtyping import TFLOperationName as Operation
from litert_quantizer.quantizer import Quantizer
from litert_quantizer.recipe_manager import RecipeManager
from litert_quantizer.utils.qsv_utils import min_max_update

from .conversion import Conversion, convert_int8_with_tensorflow
from .flatbuffer import read_model, write_model
from .operators import read_operators
from .rewrites.batch import take_batches
from .rewrites.dense_scales import scale_behind_dense_layers
from .rewrites.openvino import let_openvino_read
from .rewrites.operator_versions import VERSIONS, set_versions

WEIGHTED = (Operation.CONV_2D, Operation.DEPTHWISE_CONV_2D, Operation.FULLY_CONNECTED)


def convert_int8(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert to int8 weights and activations, with integer operators only.

    Activations have the ranges that they have for the calibration images, uint8 `[count, height, width, channels]`. The
    file takes and returns uint8, as MediaPipe's tasks refuse int8.
    """
    quantizer = _static_quantizer(conversion, activation_bits=8)
    pixels = qtyping.TensorQuantizationConfig(8, symmetric=False, dtype=qtyping.TensorDataType.UINT)
    weights = qtyping.TensorQuantizationConfig(8, granularity=qtyping.QuantGranularity.CHANNELWISE)
    ends = qtyping.OpQuantizationConfig(pixels, weights, qtyping.ComputePrecision.INTEGER)
    for operation in (Operation.INPUT, Operation.OUTPUT):
        quantizer.update_quantization_recipe(".*", operation, ends)
    content = _quantize(quantizer, _ranges(quantizer, conversion.unfinished, calibration_images))
    if "FLOAT32" in read_operators(content).dtypes:
        # Operators that litert-quantizer does not know, as LEAKY_RELU, stay in float.
        return convert_int8_with_tensorflow(conversion, calibration_images)
    return content


def convert_int16x8(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert to int8 weights and int16 activations, whose accuracy is near float32's.

    Ranges come from the calibration images, as for int8. Operators without a 16-bit form, as HARD_SWISH, stay in
    float32. The file takes and returns float32. XNNPACK has no kernels for it: LiteRT's own run, slowly.
    """
    quantizer = _static_quantizer(conversion, activation_bits=16)
    _leave_in_float(quantizer, {Operation.INPUT, Operation.OUTPUT})
    return _quantize(quantizer, _ranges(quantizer, conversion.unfinished, calibration_images))


def _static_quantizer(conversion, activation_bits):
    """Return a quantizer of all operators whose oldest runtime is known."""
    quantizer = Quantizer(conversion.unfinished)
    quantizer.add_static_config(".*", Operation.ALL_SUPPORTED, activation_bits, weight_num_bits=8)
    others = {Operation.ALL_SUPPORTED, Operation.INPUT, Operation.OUTPUT}
    _leave_in_float(quantizer, {each for each in Operation if each.value not in VERSIONS} - others)
    return quantizer


def _leave_in_float(quantizer, operations):
    for operation in operations:
        quantizer.update_quantization_recipe(".*", operation, algorithm_key=AlgorithmName.NO_QUANTIZE)


def _ranges(quantizer, content, images):
    """Return the smallest and the largest value of each tensor for the calibration images.

    `Quantizer.calibrate` would take an average over the images, weighted to the last ones, so that ranges cut off what
    single images have.
    """
    recipe = RecipeManager()
    recipe.load_quantization_recipe(quantizer.get_quantization_recipe())
    ((signature, ends),) = Interpreter(model_content=content).get_signature_list().items()
    (name,) = ends["inputs"]
    # Measured inside LiteRT: four times as fast as by copies of all tensors.
    mode, threads = CalibrationMode.CALIBRATION_PROFILER_BASED, len(os.sched_getaffinity(0))
    with _silence():
        calibrator = Calibrator(content, threads, mode, min_max_update)
        calibrator.calibrate({signature: [{name: image[None].astype(np.float32)} for image in images]}, recipe)
    return calibrator.get_model_qsvs()


def convert_dynamic(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert to int8 weights in convolutions and dense layers, whose inputs are quantized when the model runs.

    Depthwise convolutions stay in float32, in which XNNPACK runs them as fast as in int8; TensorFlow's own dynamic
    quantization makes them int8, for which there is no kernel. The file takes and returns float32. Needs no
    calibration.
    """
    quantizer = Quantizer(conversion.unfinished)
    for operation in (Operation.CONV_2D, Operation.FULLY_CONNECTED):
        quantizer.add_dynamic_config(".*", operation, num_bits=8)
    return _quantize(quantizer)


def convert_weight_int8(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert to int8 weights with a scale for each channel, computed with in float32: for small files.

    The file takes and returns float32. Needs no calibration.
    """
    return _weights_only(conversion.unfinished, 8)


def convert_weight_int4(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert to int4 weights in convolutions and dense layers and int8 ones in depthwise convolutions.

    They are computed with in float32: for the smallest files. The file takes and returns float32. Needs no calibration.
    """
    return _weights_only(conversion.unfinished, 4)


def _weights_only(content, bits):
    quantizer = Quantizer(content)
    for operation in WEIGHTED:
        # LiteRT has no depthwise convolution with int4 weights.
        depthwise = operation is Operation.DEPTHWISE_CONV_2D
        quantizer.add_weight_only_config(".*", operation, num_bits=8 if depthwise else bits)
    return _quantize(quantizer)


def _quantize(quantizer, ranges=None):
    with _silence():
        result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    model = read_model(bytes(result.quantized_model))
    take_batches(model)
    scale_behind_dense_layers(model)
    let_openvino_read(model)
    set_versions(model)
    return write_model(model)


@contextlib.contextmanager
def _silence():
    """Hide litert-quantizer's progress, and that its interpreters keep all tensors."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(action="ignore", category=UserWarning),
    ):
        yield
