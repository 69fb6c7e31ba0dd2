"""Convert a Keras model to .tflite files with TensorFlow's converter."""

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
from .flatbuffer import read_model, write_model
from .rewrites.batch import take_batches
from .rewrites.operator_versions import set_versions


class Conversion:
    """The conversion of a deployed model to several formats, which share the SavedModel that they start from.

    The SavedModel lies in a temporary folder until the block ends. For a large model, tracing the model and writing
    the SavedModel takes longer than a conversion.

    Example:
        ```python
        with Conversion(deploy(model, "litert")) as conversion:
            small, exact = convert_float16(conversion, images), convert_float32(conversion, images)
        ```
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
        """The model as a .tflite file, float32 throughout, that takes batches."""
        return _finish(self.unfinished)

    @functools.cached_property
    def unfinished(self) -> bytes:
        """The float32 file as TensorFlow converts it, for one image; the quantized formats are made from it."""
        return _run_converter(self._saved_model, lambda converter: None)

    def run(self, configure: Callable[[tf.lite.TFLiteConverter], None]) -> bytes:
        """Convert the model with the converter's settings that `configure` makes; raises as `convert_saved_model`."""
        return convert_saved_model(self._saved_model, configure)

    @functools.cached_property
    def _saved_model(self):
        # Through a SavedModel: from_concrete_functions silently makes a file that returns NaN of a Keras 3 model, and
        # from_keras_model leaves the names of the signature to chance.
        with explaining_full_disk(Path(tempfile.gettempdir())):
            path = tempfile.mkdtemp(dir=self._folder.name)  # a new one, as an attempt before may have failed
            write_saved_model(self.model, Path(path), batch=1, dtype="float32")
        return path


def convert_float32(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert to float32 throughout. The file takes and returns float32. Needs no calibration."""
    return conversion.float32


def convert_float16(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert to float16 weights, which are computed with in float32 or, on GPUs, in float16.

    The file takes and returns float32. Needs no calibration.
    """

    def configure(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    return conversion.run(configure)


def convert_int8_with_tensorflow(conversion: Conversion, calibration_images: np.ndarray) -> bytes:
    """Convert as `quantize.convert_int8`, by TensorFlow's own quantizer, which knows more operators."""

    def configure(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None].astype(np.float32)] for image in calibration_images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8

    return conversion.run(configure)


def convert_saved_model(folder: str, configure: Callable[[tf.lite.TFLiteConverter], None]) -> bytes:
    """Convert a SavedModel of one signature with the converter's settings that `configure` makes.

    The file takes batches, see `take_batches`, and states the runtime that it needs, see `set_versions`.

    Raises ValueError: the model has operators that LiteRT lacks, or is larger than a .tflite file can be.
    """
    return _finish(_run_converter(folder, configure))


def _finish(content):
    model = read_model(content)
    take_batches(model)
    set_versions(model, as_converted=True)
    return write_model(model)


def _run_converter(folder, configure):
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    configure(converter)
    try:
        return converter.convert()
    except ConverterError as error:
        # The message has hundreds of lines; one of them names the operators.
        missing = re.search(r"(?:Custom|Flex) ops: (.+)", str(error))
        reason = f"LiteRT lacks {missing[1].strip()}" if missing else str(error).strip().split("\n")[0]
        raise ValueError(
            f"the model cannot be converted: {reason}; build it of layers that LiteRT has operators for"
        ) from error
