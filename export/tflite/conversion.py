"""Convert a Keras classifier to .tflite files with TensorFlow's converter."""

import functools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import ConverterError

from keras_convmixer.files.atomic import explaining_full_disk

from ..serving.saved_model import write_saved_model
from .batch import take_batches
from .flatbuffer import read_model, write_model
from .operator_versions import set_versions


class Conversion:
    """A deployed model that is being converted: what several formats start from is made once.

    >>> with Conversion(deploy(model, "litert")) as conversion:
    ...     small, fast = convert_float16(conversion, images), convert_int8(conversion, images)

    A SavedModel of the model lies in a temporary folder until the block ends. Of a large model, writing it and
    tracing the model for it takes longer than a conversion.
    """

    def __init__(self, model: keras.Model):
        self.model = model

    def __enter__(self) -> "Conversion":
        self._folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *error) -> None:
        self._folder.cleanup()

    @functools.cached_property
    def float32(self) -> bytes:
        """The model as a .tflite file, float32 throughout."""
        return self.run(lambda converter: None)

    def run(self, configure: Callable[[tf.lite.TFLiteConverter], None]) -> bytes:
        """Convert the model as `configure` sets TensorFlow's converter; raises as `convert_saved_model`."""
        return convert_saved_model(self._saved_model, configure)

    @functools.cached_property
    def _saved_model(self):
        # Through a SavedModel: from_concrete_functions converts a Keras 3 model silently into a file that returns
        # NaN, and from_keras_model leaves the signature's names to chance.
        with explaining_full_disk(Path(tempfile.gettempdir())):
            path = tempfile.mkdtemp(dir=self._folder.name)  # a new one each time, as one attempt may have failed
            write_saved_model(self.model, Path(path), batch=1, dtype="float32")
        return path


def convert_float32(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Float32 throughout; takes and returns float32. Needs no calibration."""
    return conversion.float32


def convert_float16(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Float16 weights, made float32 to compute, or left float16 on GPUs; takes and returns float32.

    Needs no calibration.
    """

    def configure(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    return conversion.run(configure)


def convert_int8(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Int8 weights and activations, integer operators only; takes and returns uint8.

    Ranges are those of the calibration images, uint8 `[count, height, width, channels]`. uint8 outside,
    because MediaPipe's tasks refuse int8.
    """

    def configure(converter):
        _calibrate(converter, calibration_images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8

    return conversion.run(configure)


def convert_int16x8(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Int8 weights and int16 activations, for accuracy near float32's in integers; takes and returns float32.

    Ranges are those of the calibration images, as in int8. XNNPACK has no kernels for it: LiteRT's own run, slowly.
    """

    def configure(converter):
        _calibrate(converter, calibration_images)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]

    return conversion.run(configure)


def _calibrate(converter, images):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None].astype(np.float32)] for image in images)


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
