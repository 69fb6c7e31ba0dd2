"""Run a .tflite classifier with ai-edge-litert; TensorFlow is not needed."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from keras_convmixer.environment.install import install_command

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    raise ImportError(f"running a .tflite file needs ai-edge-litert: {install_command('predict')}") from None


LARGEST_RATIO = 2**16
"""Largest of two scales of one file's 8-bit tensors by the smallest, above which LiteRT may end the process."""

TRIAL = """
import sys
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_content=sys.stdin.buffer.read(), num_threads=1)
interpreter.allocate_tensors()
interpreter.invoke()
"""


def open_interpreter(content: bytes, name: str, threads: int) -> Interpreter:
    """Return an interpreter of a .tflite file's bytes, its tensors allocated.

    Raises:
        ValueError: the bytes are not a .tflite file that LiteRT can run.
    """
    with _explaining(name):
        interpreter = Interpreter(model_content=content, num_threads=threads)
    with decoding_names(name):
        crashes = _may_crash(interpreter) and _crashes(content)
    if crashes:
        raise ValueError(f"{name} is damaged: LiteRT crashes at the scales of its 8-bit numbers; get it again")
    with _explaining(name):
        interpreter.allocate_tensors()
    return interpreter


@contextlib.contextmanager
def _explaining(name):
    try:
        yield
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name} is not a .tflite file that LiteRT can run ({reason}): name one, or a bundle of `convmixer export`"
        ) from None


def _may_crash(interpreter):
    """Whether an 8-bit tensor has a scale or zero point as no converter writes them.

    LiteRT checks a file's structure and not these numbers: XNNPACK then reads outside its memory, and LiteRT's own ADD
    ends the process (seen with ai-edge-litert 2.3.0).
    """
    scales = [1.0]
    for tensor in interpreter.get_tensor_details():
        given = tensor["quantization_parameters"]
        # Weights have a scale for each channel, and do no harm.
        if tensor["dtype"] in (np.int8, np.uint8) and len(given["scales"]) == 1:
            limits = np.iinfo(tensor["dtype"])
            if any(not limits.min <= zero_point <= limits.max for zero_point in given["zero_points"]):
                return True
            scales.append(given["scales"][0])
    least, most = np.min(scales), np.max(scales)  # NaN where one is
    return not (least > 0 and most <= LARGEST_RATIO * least and most < np.inf)


def _crashes(content):
    """Whether running a file ends the process, by running it in another one."""
    return subprocess.run([sys.executable, "-c", TRIAL], input=content, capture_output=True, check=False).returncode < 0


@contextlib.contextmanager
def decoding_names(file: str) -> Iterator[None]:
    """Raise ValueError in place of the UnicodeDecodeError with which LiteRT meets damaged names in `file`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is damaged: a name in it is not UTF-8 text ({error}); get it again") from None


class LiteRTModel:
    """A .tflite file that takes one image of raw pixels 0..255 at a time and returns class probabilities.

    Input `[1, height, width, channels]`, float32 or uint8; output `[1, classes]`, float32, or uint8 with a
    scale, which is undone here.

    Raises:
        ValueError: the bytes are not a .tflite file of such a classifier.
    """

    def __init__(self, content: bytes, name: str, threads: int | None = None):
        self._interpreter = open_interpreter(content, name, threads or _cores())
        with decoding_names(name):
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if any(np.dtype(tensor["dtype"]).name not in ("float32", "uint8") for tensor in (*inputs, *outputs)):
            raise ValueError(
                f"{name} does not take and return float32 or uint8: convert it with uint8 input and output"
            )
        # Images [1, height, width, channels] in, probabilities [1, classes] out.
        if (
            len(inputs) != 1
            or len(outputs) != 1
            or len(inputs[0]["shape"]) != 4
            or len(outputs[0]["shape"]) != 2
            or inputs[0]["shape"][0] != 1
        ):
            raise ValueError(f"{name} is not an image classifier: it needs one image input and one output of classes")
        self.input, self.output = inputs[0], outputs[0]
        self.height, self.width, self.channels = (int(side) for side in self.input["shape"][1:])
        self.classes = int(self.output["shape"][1])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Classify uint8 `[count, height, width, channels]`: float32 probabilities `[count, classes]`."""
        probabilities = np.empty((len(images), self.classes), np.float32)
        for index, image in enumerate(images):
            # Raw bytes also into a quantized input, as phones feed it; validation checks that its scale is 1.
            self._interpreter.set_tensor(self.input["index"], image[None].astype(self.input["dtype"]))
            self._interpreter.invoke()
            probabilities[index] = self._dequantize(self._interpreter.get_tensor(self.output["index"])[0])
        return probabilities

    def _dequantize(self, values):
        scale, zero_point = self.output["quantization"]  # a float32 tensor has scale 0
        return values if scale == 0 else (values.astype(np.float32) - zero_point) * scale


def _cores():
    # Those that this process may use: in a container fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
