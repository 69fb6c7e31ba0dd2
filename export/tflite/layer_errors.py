"""Compare a .tflite file with its model layer by layer: each layer's error, and the share of values that it clips."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_convmixer.environment.keras_internals import times_called

IMAGES = 8
"""Images on which layers are compared."""


def layer_errors(deployed: keras.Model, content: bytes, images: np.ndarray) -> list[dict]:
    """Compare each layer's output in a file with the deployed Keras model's, in the file's order.

    A layer's "error" is the root mean square of the difference, relative to that of the model's output. Its "clipped"
    is the share of the model's values outside the range that the file's integers represent; None for a float layer. It
    counts as 0 if under half of the images have such values: a few values always exceed the range of the calibration
    images a little, and in a layer of 6 values, as in squeeze-and-excitation blocks, one value of one image is 2 % of
    those of 8 images.

    Layers that the file merged into others are left out, and so is the last, whose output is validated by itself.

    Args:
        deployed: the model that the file was converted from.
        content: the file.
        images: uint8 `[count, height, width, channels]`; up to `IMAGES` of them, spread over all, are used.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the option is for debugging only, as here
        interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    (image_tensor,) = interpreter.get_input_details()
    layers = _layers_of_both(deployed, interpreter)
    if not layers:
        return []
    outputs = keras.Model(deployed.input, [deployed.get_layer(layer.name).output for layer in layers])
    # Spread over all, as images of one label may lie together.
    for image in images[np.unique(np.linspace(0, len(images) - 1, IMAGES).astype(int))]:
        interpreter.set_tensor(image_tensor["index"], image[None].astype(image_tensor["dtype"]))
        interpreter.invoke()
        expected = outputs(image[None].astype("float32"), training=False)
        for layer, right in zip(layers, expected, strict=True):
            values = interpreter.get_tensor(layer.tensor["index"]).astype(np.float32)
            layer.compare(values, keras.ops.convert_to_numpy(right))
    return [layer.facts() for layer in layers]


@dataclass
class _Layer:
    """A layer that file and model have, with what is measured of it, image by image."""

    name: str
    operator: str
    tensor: dict
    """LiteRT's description of the output in the file."""
    squares: np.ndarray = field(default_factory=lambda: np.zeros(2))
    """Sums over images of the mean squared error and of the mean squared value."""
    clipped: list[float] = field(default_factory=list)

    def compare(self, values, right):
        """Add an image's output in the file, integers not yet scaled, and in the model."""
        scale, zero_point = self.tensor["quantization"]
        if scale:
            values = scale * (values - zero_point)
            limits = np.iinfo(self.tensor["dtype"])
            # Half a step beyond the limits still rounds to them.
            low, high = scale * (limits.min - 0.5 - zero_point), scale * (limits.max + 0.5 - zero_point)
            self.clipped.append(np.mean((right < low) | (right > high)))
        self.squares += np.mean((values - right) ** 2), np.mean(right**2)

    def facts(self):
        error, square = self.squares
        clipped = float(np.mean(self.clipped) * (np.median(self.clipped) > 0)) if self.clipped else None
        relative = float(np.sqrt(error / max(square, 1e-30)))
        return {"layer": self.name, "operator": self.operator, "error": relative, "clipped": clipped}


def _layers_of_both(deployed, interpreter):
    # Nested models, and layers that are called twice, do not have a single output.
    layers = {
        layer.name: layer
        for layer in deployed.layers[1:-1]
        if times_called(layer) == 1 and not isinstance(layer, keras.Model)
    }
    by_name = {}
    for node in interpreter._get_ops_details():
        tensor = interpreter._get_tensor_details(int(node["outputs"][0]), 0)
        name = _layer_of(tensor["name"], layers)
        if name and node["op_name"] != "DELEGATE" and tuple(tensor["shape"][1:]) == layers[name].output.shape[1:]:
            # A layer of several operators: the last one's output is the layer's.
            by_name[name] = _Layer(name, node["op_name"], tensor)
    return list(by_name.values())


def _layer_of(tensor, layers):
    """Return the name of the layer that made a tensor, None if it is none of `layers`.

    "convmixer/quant_stem_conv_1/BiasAdd;..." is stem_conv's: the converter adds the number, and quantization-aware
    training the prefix.
    """
    for part in tensor.split(";")[0].split("/")[1:2]:
        part = part.removeprefix("quant_")
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in layers:
                return name
    return None


def largest_rise(layers: list[dict]) -> tuple[str, float, float]:
    """Return the layer of `layer_errors` where the error grows most, and the errors before and after it.

    Example:
        ```python
        largest_rise([{"layer": "a", "error": 0.01}, {"layer": "b", "error": 0.2}])  # ("b", 0.01, 0.2)
        ```
    """
    errors = [0.0, *(layer["error"] for layer in layers)]
    place = max(range(len(layers)), key=lambda index: errors[index + 1] - errors[index])
    return layers[place]["layer"], errors[place], errors[place + 1]
