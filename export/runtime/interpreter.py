"""Run a .tflite classifier with ai-edge-litert; TensorFlow is not needed."""

import contextlib
import os
from collections.abc import Iterator

import numpy as np

from keras_convmixer.environment.install import install_command

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    raise ImportError(f"running a .tflite file needs ai-edge-litert: {install_command('predict')}") from None


def open_interpreter(content: bytes, name: str, threads: int) -> Interpreter:
    """Return an interpreter of a .tflite file's bytes, its tensors allocated.

    Raises:
        ValueError: the bytes are not a .tflite file that LiteRT can run.
    """
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name} is not a .tflite file that LiteRT can run ({reason}): name one, or a bundle of `convmixer export`"
        ) from None
    return interpreter


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
