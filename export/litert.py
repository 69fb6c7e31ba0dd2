"""Convert a Keras classifier to .tflite files with TensorFlow's converter."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import ConverterError

from keras_convmixer.atomic import explaining_full_disk

from .batch import take_batches
from .flatbuffer import read_model, write_model
from .operator_versions import set_versions
from .saved_model import write_saved_model


def convert_float32(model: keras.Model, calibration_images: np.ndarray) -> bytes:
    """Float32 throughout; takes and returns float32. Needs no calibration."""
    return _convert(model, lambda converter: None)


def convert_float16(model: keras.Model, calibration_images: np.ndarray) -> bytes:
    """Float16 weights, made float32 to compute, or left float16 on GPUs; takes and returns float32.

    Needs no calibration.
    """

    def configure(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    return _convert(model, configure)


def convert_int8(model: keras.Model, calibration_images: np.ndarray) -> bytes:
    """Int8 weights and activations, integer operators only; takes and returns uint8.

    Ranges are those of the calibration images, uint8 `[count, height, width, channels]`. uint8 outside,
    because MediaPipe's tasks refuse int8.
    """

    def configure(converter):
        _calibrate(converter, calibration_images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8

    return _convert(model, configure)


def convert_int16x8(model: keras.Model, calibration_images: np.ndarray) -> bytes:
    """Int8 weights and int16 activations, for accuracy near float32's in integers; takes and returns float32.

    Ranges are those of the calibration images, as in int8. XNNPACK has no kernels for it: LiteRT's own run, slowly.
    """

    def configure(converter):
        _calibrate(converter, calibration_images)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]

    return _convert(model, configure)


def _calibrate(converter, images):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None].astype(np.float32)] for image in images)


def _convert(model, configure):
    # Through a SavedModel: from_concrete_functions converts a Keras 3 model silently into a file that returns
    # NaN, and from_keras_model leaves the signature's names to chance.
    with explaining_full_disk(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as folder:
        write_saved_model(model, Path(folder), batch=1, dtype="float32")
        return convert_saved_model(folder, configure)


def convert_saved_model(folder: str, configure: Callable[[tf.lite.TFLiteConverter], None]) -> bytes:
    """Convert a SavedModel's one signature with built-in operators, as `configure` sets the converter.

    The file takes batches, see `take_batches`, and says which runtimes it needs, see `set_versions`.

    Raises ValueError: it has operators that LiteRT lacks, or is larger than a .tflite file can be.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    configure(converter)
    try:
        model = read_model(converter.convert())
    except ConverterError as error:
        missing = re.search(r"(?:Custom|Flex) ops: (.+)", str(error))
        reason = f"LiteRT lacks {missing[1].strip()}" if missing else str(error).strip().split("\n")[0]
        raise ValueError(
            f"the model cannot be converted: {reason}; build it of layers that LiteRT has operators for"
        ) from error
    take_batches(model)
    set_versions(model, as_converted=True)
    return write_model(model)
