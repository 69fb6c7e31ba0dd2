"""Find the activation that a model's outputs come from.

The search walks back from the outputs. It runs each operation on numbers, so that names do not matter: a Lambda that
computes a softmax counts as a softmax. Operations that keep probabilities, such as a reshape or an average, are passed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np

from ..environment.keras_internals import Call, call_of, graph_of, output_index, producer

HALF_TOLERANCE = 5e-3
"""Largest deviation from 1 of the sum of probabilities that were rounded to 16 bits on the way."""
CLOSE = 1e-4
"""Tolerance of float32 values."""
STEEPEST = 1e6
"""An activation with a value above this at 60 grows exponentially, so its outputs are not logits."""
HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class Source:
    """The activations that a tensor's values come from."""

    kinds: frozenset[str]
    """One or several of "softmax", "sigmoid", "log-softmax", "logits", "other NAME", "unknown"."""
    certain: bool
    """Whether the layers prove that the tensor holds values of that kind for all images."""
    name: str = ""
    """The name of the operation with the activation."""
    half: bool = False
    """Whether the values were rounded to 16 bits after it."""


def _source(kind: str, name: str, certain: bool = True) -> Source:
    return Source(frozenset({kind}), certain, name)


def source_of(tensor: keras.KerasTensor) -> Source:
    """Walk back from a tensor to the activations that its values come from."""
    operation = producer(tensor)
    half = tensor.dtype in HALF
    if isinstance(operation, keras.layers.InputLayer):
        return _source("unknown", operation.name, certain=False)
    graph = graph_of(operation)
    if graph is not None:
        source = source_of(graph.outputs[output_index(tensor)])  # of a model inside the model
    elif getattr(operation, "activation", None) is not None and not isinstance(operation, keras.layers.Activation):
        source = _source_of_layer(operation, tensor)
    else:
        source = _source_of_operation(call_of(tensor), tensor)
    return replace(source, half=source.half or half)


def _source_of_layer(layer: keras.layers.Layer, tensor: keras.KerasTensor) -> Source:
    """Return the source of a dense layer or convolution with its activation."""
    behavior = _behavior(layer.activation, tensor.shape)
    if behavior in ("identity", "logits"):
        # Its outputs can be probabilities only if its weights turn probabilities into probabilities, for example by
        # adding up those of several classes.
        return _source("logits", layer.name, certain=not _keeps_distributions(layer))
    if behavior == "other":
        return _source(f"other {_name_of(layer.activation)}", layer.name, certain=False)
    return _source(behavior, layer.name, certain=behavior != "unknown")


def _keeps_distributions(layer):
    """Tell whether a layer maps rows that sum to 1 to rows that sum to 1, whatever they are."""
    kernel, bias = getattr(layer, "kernel", None), getattr(layer, "bias", None)
    if kernel is None:
        return True  # cannot be excluded
    kernel = np.asarray(keras.ops.convert_to_numpy(kernel))
    shifts = bias is not None and np.abs(keras.ops.convert_to_numpy(bias)).max() > CLOSE
    return not shifts and are_distributions(kernel.reshape(-1, kernel.shape[-1]))


def _source_of_operation(call: Call, tensor: keras.KerasTensor) -> Source:
    """Return the source of an operation's output, by trying the operation on numbers."""
    operation = call.operation
    if getattr(operation, "weights", None):
        affine = isinstance(operation, keras.layers.BatchNormalization | keras.layers.Normalization)
        return _source("logits" if affine else "unknown", operation.name, certain=False)
    inputs = [source_of(given) for given in call.inputs]
    if not inputs:
        return _source("unknown", operation.name, certain=False)
    kinds = frozenset().union(*(source.kinds for source in inputs))
    half = any(source.half for source in inputs)
    passed_on = Source(kinds, all(source.certain for source in inputs), inputs[0].name, half)

    def run(*values):
        return _run(call, tensor, values)

    # Only what maps rows of classes to rows of classes can be an activation.
    same_shape = len(inputs) == 1 and len(tensor.shape) == 2 and call.inputs[0].shape == tensor.shape
    behavior = _behavior(run, tensor.shape) if same_shape else "unknown"
    if behavior == "softmax":
        return _source("softmax", operation.name)
    if kinds == {"softmax"} and _keeps(run, call.inputs, distributions=True):
        return passed_on
    if kinds == {"sigmoid"} and _keeps(run, call.inputs, distributions=False):
        return passed_on
    if behavior in ("sigmoid", "log-softmax"):
        return _source(behavior, operation.name)
    if behavior == "other":
        name = _name_of(getattr(operation, "activation", operation))
        return _source(f"other {name}", operation.name, certain=False)
    if behavior == "identity":
        return passed_on
    if same_shape and behavior == "unknown":
        return _source("unknown", operation.name, certain=False)
    # A reshape, a sum: the kinds are those of its inputs. A scale of logits still gives logits.
    certain = behavior == "logits" and passed_on.certain and kinds == {"logits"}
    return replace(passed_on, certain=certain)


def _run(call, tensor, values):
    """Run a call on other values; return those of one of its outputs, `tensor`, as float64."""
    pairs = zip(call.inputs, values, strict=True)
    tensors = {id(given): keras.ops.convert_to_tensor(value, given.dtype) for given, value in pairs}
    args, kwargs = call.arguments_with(tensors)
    with keras.device("cpu"):
        outputs = keras.tree.flatten(call.operation(*args, **kwargs))
    output = next(value for value, original in zip(outputs, call.outputs, strict=True) if original is tensor)
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(output, "float32")), "float64")


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


def _behavior(function: Callable, shape: tuple) -> str:
    """Classify an activation by its values on rows of numbers; `shape` is that of the tensor that it is applied to.

    Returns:
        "identity".
        "softmax": rows that sum to 1.
        "log-softmax": logarithms of such rows.
        "sigmoid": each number by itself, rising from 0 to 1.
        "logits": each number by itself, rising beyond 1, as ReLU or a scale.
        "other": each number by itself.
        "unknown": anything else, or it cannot be run.
    """
    random = np.random.default_rng(0)
    width = shape[-1]
    rows = np.concatenate([random.normal(scale=scale, size=(16, width)) for scale in (0.1, 1.0, 3.0, 30.0)])
    rows = rows.astype("float32")  # [64, classes]

    def apply(rows):
        tensor = keras.ops.convert_to_tensor(rows.reshape(-1, *[1] * (len(shape) - 2), width).astype("float32"))
        result = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(function(tensor), "float32")), "float64")
        return result.reshape(rows.shape)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Keras's, of a softmax over one number
            result = apply(rows)
            by_itself = _treats_each_number_by_itself(apply, rows, result)
            numbers = np.linspace(-60, 60, 241).astype("float32")
            curve = apply(np.repeat(numbers[:, None], width, axis=1))[:, 0]
    except Exception:  # a user's function may raise anything
        return "unknown"
    if np.allclose(result, rows, rtol=1e-3, atol=1e-4):
        return "identity"
    if are_distributions(result):
        return "softmax"
    if result.max() <= CLOSE and are_distributions(np.exp(result)):
        return "log-softmax"
    return _behavior_of_curve(numbers, curve) if by_itself else "unknown"


def _treats_each_number_by_itself(apply, rows, result):
    """Tell whether a change of the first column leaves the others, and other rows do not matter."""
    changed = rows.copy()
    changed[:, 0] += 1
    columns = np.allclose(apply(changed)[:, 1:], result[:, 1:], atol=1e-6)
    return columns and np.allclose(apply(rows[:1]), result[:1], atol=1e-6)


def _behavior_of_curve(numbers, curve):
    """Classify an activation of single numbers by its values `curve` at `numbers`, -60 to 60."""
    rising = bool((np.diff(curve) >= -1e-6).all())
    if rising and curve.min() >= 0 and curve.max() <= 1 + 1e-6 and curve[-1] - curve[0] > 0.9:
        return "sigmoid"
    slope, shift = np.polyfit(numbers, curve, 1)
    if slope > 0 and np.allclose(curve, slope * numbers + shift, atol=1e-3 * slope * 60):
        return "logits"  # a straight line
    return "logits" if 1.5 < curve[-1] <= STEEPEST and curve[-1] >= curve.max() - 1e-6 else "other"


def _name_of(activation):
    return getattr(activation, "__name__", None) or getattr(activation, "name", type(activation).__name__)


def within_0_and_1(values: np.ndarray) -> bool:
    """Tell whether all values are probabilities, each by itself."""
    return bool(values.min() >= -CLOSE and values.max() <= 1 + CLOSE)


def are_distributions(values: np.ndarray, tolerance: float = HALF_TOLERANCE) -> bool:
    """Tell whether the last axis holds probabilities that sum to 1."""
    return bool(values.size and values.min() >= -1e-6 and np.abs(values.sum(-1) - 1).max() <= tolerance)
