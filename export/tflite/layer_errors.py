"""Where a quantized .tflite file departs from its model: each layer's error, and what its range cuts off."""

from __future__ import annotations

import re
import warnings

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_convmixer.keras_internals import times_called

IMAGES = 8


def layer_errors(deployed: keras.Model, content: bytes, images: np.ndarray) -> list[dict]:
    """Compare what a file computes in each layer with what the deployed Keras model computes, in the file's order.

    An error is the root mean square of the difference, as a share of that of the layer's output. Layers that a file
    merged into others are left out, and the last, whose output is the file's and is validated by itself. `clipped` is
    the share of the model's values that lie outside what the file's integers can stand for, None of a float layer; 0
    where it concerns under half of the images, as a few always exceed the range of the calibration images a little: of
    a layer of 6 values, as in squeeze-and-excitation blocks, one value of one image is 2% of those of 8 images.

    Args:
        deployed: what the file was made of.
        content: the file.
        images: uint8 `[count, height, width, channels]`; a few, spread over all, are used, one at a time.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is for debugging only, as here
        interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    (image_tensor,) = interpreter.get_input_details()
    # Nested models, and layers that are called twice, do not have a single output.
    layers = {
        layer.name: layer
        for layer in deployed.layers[1:-1]
        if times_called(layer) == 1 and not isinstance(layer, keras.Model)
    }
    found = {}
    for node in interpreter._get_ops_details():
        tensor = interpreter._get_tensor_details(int(node["outputs"][0]), 0)
        name = _layer_of(tensor["name"], layers)
        if name and node["op_name"] != "DELEGATE" and tuple(tensor["shape"][1:]) == layers[name].output.shape[1:]:
            found[name] = node["op_name"], tensor  # a layer's last operator is its output
    if not found:
        return []
    outputs = keras.Model(deployed.input, [layers[name].output for name in found])
    squares = {name: np.zeros(2) for name in found}
    clipped = {name: [] for name in found}
    # Spread, as those of one label may lie together.
    for image in images[np.unique(np.linspace(0, len(images) - 1, IMAGES).astype(int))]:
        interpreter.set_tensor(image_tensor["index"], image[None].astype(image_tensor["dtype"]))
        interpreter.invoke()
        expected = outputs(image[None].astype("float32"), training=False)
        for (name, (_, tensor)), right in zip(found.items(), expected, strict=True):
            right = keras.ops.convert_to_numpy(right)
            values = interpreter.get_tensor(tensor["index"]).astype(np.float32)
            scale, zero_point = tensor["quantization"]
            if scale:
                values = scale * (values - zero_point)
                limits = np.iinfo(tensor["dtype"])
                low, high = scale * (limits.min - 0.5 - zero_point), scale * (limits.max + 0.5 - zero_point)
                clipped[name].append(np.mean((right < low) | (right > high)))
            squares[name] += np.mean((values - right) ** 2), np.mean(right**2)
    return [
        {
            "layer": name,
            "operator": operator,
            "error": float(np.sqrt(squares[name][0] / max(squares[name][1], 1e-30))),
            "clipped": float(np.mean(clipped[name]) * (np.median(clipped[name]) > 0)) if clipped[name] else None,
        }
        for name, (operator, _) in found.items()
    ]


def _layer_of(tensor, layers):
    """Return the layer that a tensor's name begins with: MODEL/LAYER/..., LAYER with a number or quant_ around it."""
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
