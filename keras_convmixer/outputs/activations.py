"""Find the activations that a model's outputs come from: walk back from the outputs and try each on numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from ..keras_internals import call_of, graph_of, output_index, producer

HALF_TOLERANCE = 5e-3
"""How far from 1 the sum of a row may be where probabilities were rounded to 16 bits on the way."""
CLOSE = 1e-4
"""Tolerance of float32 values."""
STEEPEST = 1e6
"""An activation whose value at 60 exceeds this is an exponential, not a scale."""
HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class Source:
    """Where a tensor's values come from."""

    kinds: frozenset[str]
    """Of "softmax", "sigmoid", "log-softmax", "logits", "other NAME", "unknown"."""
    certain: bool
    """Whether the tensor holds values of that kind for all images."""
    name: str = ""
    """The operation that the kind was found at."""
    half: bool = False
    """Whether values were rounded to 16 bits after that."""


def _leaf(kind, name, certain=True):
    return Source(frozenset({kind}), certain, name)


def source_of(tensor: keras.KerasTensor) -> Source:
    """Walk back from a tensor to the activations that its values come from."""
    operation = producer(tensor)
    half = tensor.dtype in HALF
    if isinstance(operation, keras.layers.InputLayer):
        return _leaf("unknown", operation.name, certain=False)
    graph = graph_of(operation)
    if graph is not None:
        found = source_of(graph.outputs[output_index(tensor)])
    elif getattr(operation, "activation", None) is not None and not isinstance(operation, keras.layers.Activation):
        found = _source_of_layer(operation, tensor)
    else:
        found = _source_of_operation(operation, call_of(tensor), tensor)
    return Source(found.kinds, found.certain, found.name, found.half or half)


def _source_of_layer(layer, tensor):
    """Return the source of a dense layer or convolution with its activation."""
    behavior = _behavior(layer.activation, tensor.shape)
    if behavior == "identity" or behavior == "logits":
        # Rows can sum to 1 for all images only if the weights keep distributions, as those that merge classes do.
        return _leaf("logits", layer.name, certain=not _keeps_distributions(layer))
    if behavior == "other":
        return _leaf(f"other {_name_of(layer.activation)}", layer.name, certain=False)
    return _leaf(behavior, layer.name, certain=behavior != "unknown")


def _keeps_distributions(layer):
    kernel, bias = getattr(layer, "kernel", None), getattr(layer, "bias", None)
    if kernel is None:
        return True  # cannot be excluded
    kernel = keras.ops.convert_to_numpy(kernel)
    shifts = bias is not None and np.abs(keras.ops.convert_to_numpy(bias)).max() > CLOSE
    return not shifts and are_distributions(kernel.reshape(-1, kernel.shape[-1]))


def _source_of_operation(operation, call, tensor):
    """Return the source of an operation's output, by trying the operation on numbers."""
    inputs = [source_of(given) for given in call.inputs]
    if getattr(operation, "weights", None):
        affine = isinstance(operation, keras.layers.BatchNormalization | keras.layers.Normalization)
        return _leaf("logits" if affine else "unknown", operation.name, certain=False)
    if not inputs:
        return _leaf("unknown", operation.name, certain=False)
    kinds = frozenset().union(*(source.kinds for source in inputs))
    half = any(source.half for source in inputs)

    def run(*values):
        pairs = zip(call.inputs, values, strict=True)
        tensors = {id(given): keras.ops.convert_to_tensor(value, given.dtype) for given, value in pairs}
        arguments, keywords = call.arguments_with(tensors)
        with keras.device("cpu"):
            outputs = keras.tree.flatten(operation(*arguments, **keywords))
        place = next(index for index, output in enumerate(call.outputs) if output is tensor)
        return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(outputs[place], "float32")), "float64")

    one = len(inputs) == 1 and len(tensor.shape) == 2 and call.inputs[0].shape == tensor.shape
    behavior = _behavior(run, tensor.shape) if one else "unknown"
    if behavior == "softmax":
        return _leaf("softmax", operation.name)
    passed = Source(kinds, all(source.certain for source in inputs), inputs[0].name, half)
    if kinds == {"softmax"} and _keeps(run, call.inputs, distributions=True):
        return passed
    if kinds == {"sigmoid"} and _keeps(run, call.inputs, distributions=False):
        return passed
    if behavior in ("sigmoid", "log-softmax"):
        return _leaf(behavior, operation.name)
    if behavior == "other":
        return _leaf(f"other {_name_of(getattr(operation, 'activation', operation))}", operation.name, certain=False)
    if behavior == "identity":
        return passed
    if one and behavior == "unknown":
        return _leaf("unknown", operation.name, certain=False)
    return Source(kinds, behavior == "logits" and passed.certain and kinds == {"logits"}, passed.name, half)


def _keeps(run, tensors, distributions):
    """Tell whether an operation maps distributions to distributions or, without `distributions`, 0..1 into 0..1."""
    random = np.random.default_rng(0)
    for sharpness in (0.1, 5.0, 60.0):
        values = []
        for given in tensors:
            shape = [4, *(side or 2 for side in given.shape[1:])]
            value = np.exp(random.uniform(-sharpness, 0, shape))
            values.append(value / value.sum(-1, keepdims=True) if distributions else value)
        try:
            result = run(*values)
        except Exception:  # a user's function may raise anything; then nothing is proven
            return False
        if not (are_distributions(result) if distributions else within_0_and_1(result)):
            return False
    return True


def _behavior(function: Callable, shape) -> str:
    """Classify an activation by its values on rows of numbers of that shape.

    Returns:
        identity; softmax, rows that sum to 1; log-softmax; sigmoid, each number by itself into 0..1; logits, each
        number by itself, rising beyond 1, as ReLU or a scale; other, each number by itself; unknown.
    """
    random = np.random.default_rng(0)
    width = shape[-1]
    row = np.concatenate([random.normal(scale=scale, size=(16, width)) for scale in (0.1, 1.0, 3.0, 30.0)])

    def apply(rows):
        tensor = keras.ops.convert_to_tensor(rows.reshape(-1, *[1] * (len(shape) - 2), width).astype("float32"))
        result = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(function(tensor), "float32")), "float64")
        return result.reshape(rows.shape)

    row = row.astype("float32")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Keras's, of a softmax over one number
            result = apply(row)
            shifted = row.copy()
            shifted[:, 0] += 1
            alone = np.allclose(apply(shifted)[:, 1:], result[:, 1:], atol=1e-6) and np.allclose(
                apply(row[:1]), result[:1], atol=1e-6
            )
            numbers = np.linspace(-60, 60, 241).astype("float32")
            curve = apply(np.repeat(numbers[:, None], width, axis=1))[:, 0]
    except Exception:  # a user's function may raise anything
        return "unknown"
    if np.allclose(result, row, rtol=1e-3, atol=1e-4):
        return "identity"
    if are_distributions(result):
        return "softmax"
    if result.max() <= CLOSE and are_distributions(np.exp(result)):
        return "log-softmax"
    if not alone:
        return "unknown"
    rising = bool((np.diff(curve) >= -1e-6).all())
    if rising and curve.min() >= 0 and curve.max() <= 1 + 1e-6 and curve[-1] - curve[0] > 0.9:
        return "sigmoid"
    slope, shift = np.polyfit(numbers, curve, 1)
    if slope > 0 and np.allclose(curve, slope * numbers + shift, atol=1e-3 * slope * 60):
        return "logits"
    return "logits" if 1.5 < curve[-1] <= STEEPEST and curve[-1] >= curve.max() - 1e-6 else "other"


def _name_of(activation):
    return getattr(activation, "__name__", None) or getattr(activation, "name", type(activation).__name__)


def within_0_and_1(values: np.ndarray) -> bool:
    """Tell whether all values are probabilities, each by itself."""
    return bool(values.min() >= -CLOSE and values.max() <= 1 + CLOSE)


def are_distributions(values: np.ndarray, tolerance: float = HALF_TOLERANCE) -> bool:
    """Tell whether the last axis holds probabilities that sum to 1."""
    return bool(values.size and values.min() >= -1e-6 and np.abs(values.sum(-1) - 1).max() <= tolerance)
