"""Functions for the graph of a Keras model, and all private names of Keras that this package uses.

Keras's public interface has a model's layers but not the graph of their calls. deploy(), the search for a classifier's
last activation, and Grad-CAM walk that graph. The names exist in Keras 3.14.0 and 3.15.1.
tests/library/environment/test_keras_internals.py checks each function on a small model; if a later version of Keras
changes a name, the failing test says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.models.functional import Functional

__all__ = [
    "Call",
    "Functional",
    "LayerScale",
    "StochasticDepth",
    "all_layers",
    "call_of",
    "calls",
    "graph_of",
    "input_structure",
    "is_operation",
    "output_index",
    "output_structure",
    "producer",
    "run_graph",
    "times_called",
]


class Call:
    """One call of a layer or operation in a functional model; Keras's name for it is Node.

    Attributes:
        operation: the layer or operation that was called.
        inputs: the tensors among its arguments, in order.
        outputs: the tensors that it returned, in order.
        args, kwargs: all its arguments, the tensors among them.
    """

    def __init__(self, node):
        self.operation: keras.Operation = node.operation
        self.inputs: list[keras.KerasTensor] = node.input_tensors
        self.outputs: list[keras.KerasTensor] = node.outputs
        self.args: tuple = node.arguments.args
        self.kwargs: dict[str, Any] = node.arguments.kwargs
        self._arguments = node.arguments

    def arguments_with(self, tensors: dict[int, Any]) -> tuple[tuple, dict[str, Any]]:
        """Return (args, kwargs) with each of `inputs` replaced by `tensors[id(input)]`."""
        return self._arguments.fill_in(tensors)


def graph_of(model: object) -> Functional | None:
    """Return the graph of a functional or Sequential model's calls.

    None for anything else: a layer, a Sequential model that was not built, a subclass with a `call` of its own.
    """
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        return model._functional
    return model if isinstance(model, Functional) and type(model).call is Functional.call else None


def calls(graph: Functional) -> list[Call]:
    """Return a graph's calls in the order in which Keras runs them, without those of its InputLayers."""
    by_depth = graph._nodes_by_depth  # the outputs have depth 0
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [Call(node) for node in nodes if not node.is_input]


def producer(tensor: keras.KerasTensor) -> keras.Operation:
    """Return the layer or operation that returned a tensor."""
    return tensor._keras_history.operation  # pyright: ignore[reportAttributeAccessIssue]


def call_of(tensor: keras.KerasTensor) -> Call:
    """Return the call that returned a tensor."""
    operation, call_index, _ = tensor._keras_history  # pyright: ignore[reportAttributeAccessIssue]
    return Call(operation._inbound_nodes[call_index])


def output_index(tensor: keras.KerasTensor) -> int:
    """Return the index of a tensor among the outputs of its call."""
    return tensor._keras_history.tensor_index  # pyright: ignore[reportAttributeAccessIssue]


def times_called(operation: keras.Operation) -> int:
    """Return how many times a layer or operation was called on Keras tensors, in any model."""
    return len(operation._inbound_nodes)


def input_structure(model: keras.Model) -> Any:
    """Return a model's inputs in the structure that was given to keras.Model: a tensor, a list or a dict."""
    return getattr(model, "_inputs_struct", model.inputs)  # a Sequential model has a list


def output_structure(graph: Functional) -> Any:
    """Return a graph's outputs in the structure that was given to keras.Model: a tensor, a list or a dict."""
    return graph._outputs_struct


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return a layer or model, and all layers inside it, at any depth."""
    return list(layer._flatten_layers())


def run_graph(graph: Functional, inputs: Any, call: Callable) -> Any:
    """Run a graph on `inputs`, with `call(operation, *args, **kwargs)` in place of each of its calls."""
    return graph._run_through_graph(inputs, operation_fn=lambda operation: operation, call_fn=call)


def is_operation(operation: object, module: str, names: Iterable[str]) -> bool:
    """Tell whether this is an operation of a module of keras.ops with one of these class names.

    A graph holds an operation for each call of a function of keras.ops; its class has no public name.

    Example:

        is_operation(operation, "nn", {"Relu"})  # whether it is a call of keras.ops.relu
    """
    kind = type(operation)
    return kind.__module__ == f"keras.src.ops.{module}" and kind.__name__ in names
