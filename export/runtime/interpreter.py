"""Run a .tflite classifier with ai-edge-litert; TensorFlow is not needed."""

import os

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    raise ImportError("running a .tflite file needs ai-edge-litert: pip install ai-edge-litert") from None


def open_interpreter(content: bytes, name: str, threads: int) -> Interpreter:
    """Return an interpreter of a .tflite file's bytes, its tensors allocated.

    Raises:
        ValueError: the bytes are no .tflite file that LiteRT can run.
    """
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is no .tflite file that LiteRT can run: {str(error).splitlines()[0]}") from None
    return interpreter


class LiteRTModel:
    """A .tflite file that takes one image of raw pixels 0..255 at a time and returns class probabilities.

    Input `[1, height, width, channels]`, float32 or uint8; output `[1, classes]`, float32, or uint8 with a
    scale, which is undone here.

    Raises:
        ValueError: the bytes are no .tflite file, or not of such a classifier.
    """

    def __init__(self, content: bytes, name: str, threads: int | None = None):
        self._interpreter = open_interpreter(content, name, threads or _cores())
        try:
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name} is damaged: a name in it is not a text in UTF-8 ({error}); get it again"
            ) from None
        if any(np.dtype(tensor["dtype"]).name not in ("float32", "uint8") for tensor in (*inputs, *outputs)):
            raise ValueError(
                f"{name} does not take and return float32 or uint8: convert it with uint8 input and output"
            )
        if (
            len(inputs) != 1
            or len(outputs) != 1
            or len(inputs[0]["shape"]) != 4
            or len(outputs[0]["shape"]) != 2
            or inputs[0]["shape"][0] != 1
        ):
            raise ValueError(f"{name} is no image classifier: it needs one image input and one output of classes")
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
        scale, zero_point = self.output["quantization"]
        return values if scale == 0 else (values.astype(np.float32) - zero_point) * scale


def _cores():
    # What this process may use, which in a container is fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
