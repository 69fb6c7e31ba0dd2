"""deploy(): rewrite a model as one that computes the same and runs faster where it is deployed.

The calls of the model's layers are visited in order. Each goes into the deployed model in one of three ways: the layers
of a nested model are visited in its place (`_inline_nested`), a rule of rules.py rewrites it (`_rewrite`), or it is
copied (`_copy`).
"""

from __future__ import annotations

from collections import Counter

import keras

from ..environment.keras_internals import (
    Call,
    Functional,
    call_of,
    calls,
    graph_of,
    input_structure,
    output_structure,
    producer,
)
from .builder import Builder
from .pending import PendingTensor
from .rules import rule_of
from .verification import verify

TARGETS = ("litert", "litert_int8", "litert_gpu", "tensorflow")


def deploy(model: keras.Model, target: str = "litert", verified: bool = True) -> keras.Model:
    """Return a functional model that computes what `model` does at inference, faster on the target.

    | target          | for                                            | depthwise kernels of over 25 taps  |
    |-----------------|------------------------------------------------|------------------------------------|
    | `"litert"`      | .tflite files on XNNPACK, LiteRT's CPU engine  | cut into pieces, which are added   |
    | `"litert_int8"` | .tflite files that are quantized to 8 bits     | made matrix products of blocks     |
    | `"litert_gpu"`  | .tflite files on LiteRT's GPU engine           | kept                               |
    | `"tensorflow"`  | TensorFlow's own kernels, as in a SavedModel   | kept: these are fast at any size   |

    A model for "litert_int8" is two to three times as large as one for "litert", and its quantized file is faster.

    Inputs and outputs are those of `model`: shapes, dtypes, names, structure. `model` stays as it is, and the result
    shares no weights with it. The result is made of built-in Keras layers if `model` is. Layers are rewritten for what
    they compute, whatever their names; layers without an exact rewrite are copied:

    | layers                                             | rewrite                                             |
    |----------------------------------------------------|-----------------------------------------------------|
    | BatchNormalization, LayerScale of ConvNeXt         | folded into the convolution or dense layer before   |
    |                                                    | or after, also through ReLU, sums and averages; one |
    |                                                    | operation where that is not exact                   |
    | Rescaling, Normalization                           | folded into the first convolution if it pads no zeros |
    | DepthwiseConv2D, Conv2D with a group per channel   | as above, and for XNNPACK in groups of channels     |
    | Conv2D of image patches                            | for XNNPACK with rows of a patch as channels        |
    | layers that act in training only                   | dropped                                             |

    docs/how/deploy.md has the mathematics and the measurements.

    Example:
        ```python
        fast = kc.deploy(model, target="litert")
        fast.save("deployed.keras")  # loads with Keras alone
        ```

    Args:
        model: a functional or Sequential model, built.
        target: one of the table above.
        verified: run both models on noise and compare them; see `verify`.

    Raises:
        ValueError: the target is unknown, or `model` is not a functional or Sequential model that was built.
        ArithmeticError: `verified`, and the outputs differ.
    """
    if target not in TARGETS:
        raise ValueError(f"target={target!r}: give one of {', '.join(map(repr, TARGETS))}")
    graph = graph_of(model)
    if graph is None:
        raise ValueError(
            f"{getattr(model, 'name', model)} is not a functional or Sequential model that was built: deploy the "
            "model of its layers' calls, keras.Model(inputs, outputs)"
        )
    builder = Builder(target)
    inputs: list[keras.KerasTensor] = [builder.copy(producer(tensor)).output for tensor in graph.inputs]
    for tensor, original in zip(inputs, graph.inputs, strict=True):
        tensor.name = original.name  # otherwise it has its layer's name
    results = _rewrite_graph(builder, graph, [PendingTensor([tensor]) for tensor in inputs])
    outputs = _outputs(builder, results, graph.outputs)
    deployed = keras.Model(
        keras.tree.pack_sequence_as(input_structure(graph), inputs),
        keras.tree.pack_sequence_as(output_structure(graph), outputs),
        name=model.name,
    )
    if verified:
        verify(model, deployed)
    return deployed


def _rewrite_graph(builder: Builder, graph: Functional, inputs: list[PendingTensor]) -> list[PendingTensor]:
    """Rewrite every call of a graph, in the order in which Keras runs them; return its outputs."""
    graph_calls = calls(graph)
    times_called = Counter(id(call.operation) for call in graph_calls)
    # How many calls take each tensor; an output counts as one more.
    uses = Counter(id(tensor) for call in graph_calls for tensor in call.inputs)
    uses.update(id(tensor) for tensor in graph.outputs)
    # id of the original's tensor -> what has become of it
    pending = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
    for call in graph_calls:
        given = [pending[id(tensor)] for tensor in call.inputs]
        results = None
        # Folding into a layer that is called twice would change its other call.
        shares_weights = times_called[id(call.operation)] > 1 and getattr(call.operation, "weights", None)
        if _has_default_arguments(call) and not shares_weights:
            results = _inline_nested(builder, call, given) or _rewrite(builder, call, given)
        if results is None:
            results = _copy(builder, call, given)
        for tensor, result in zip(call.outputs, results, strict=True):
            if uses[id(tensor)] > 1:
                result.materialize()  # now, as otherwise each of them would build the layer
            result.rank = len(tensor.shape)
            pending[id(tensor)] = result
    return [pending[id(tensor)] for tensor in graph.outputs]


def _has_default_arguments(call: Call) -> bool:
    """Tell whether a layer was called on tensors alone, without, for example, training=True or a mask."""
    return keras.tree.flatten(call.args) == call.inputs and not any(
        value is not None and value is not False for value in keras.tree.flatten(call.kwargs)
    )


def _inline_nested(builder: Builder, call: Call, given: list[PendingTensor]) -> list[PendingTensor] | None:
    """Rewrite the calls inside a nested model; None if the layer is not a model, or changes its input."""
    inner = graph_of(call.operation)
    if inner is None or not len(call.inputs) == len(inner.inputs) == 1:
        return None
    outer_tensor, inner_tensor = call.inputs[0], inner.inputs[0]
    if outer_tensor.dtype != inner_tensor.dtype or len(outer_tensor.shape) != len(inner_tensor.shape):
        return None  # the model casts its input, or adds an axis
    given[0].materialize()  # several layers inside may use it
    return _rewrite_graph(builder, inner, given)


def _rewrite(builder: Builder, call: Call, given: list[PendingTensor]) -> list[PendingTensor] | None:
    """Apply the rule for a layer; None if there is none, or it does not apply."""
    rule = rule_of(call.operation) if len(call.outputs) == 1 else None
    result = rule and rule(builder, call.operation, given)
    return None if result is None else [result]


def _copy(builder: Builder, call: Call, given: list[PendingTensor]) -> list[PendingTensor]:
    """Call a copy of the layer with the same arguments, on whole tensors."""
    tensors = {id(tensor): builder.whole(one) for tensor, one in zip(call.inputs, given, strict=True)}
    args, kwargs = call.arguments_with(tensors)
    outputs = builder.call(call.operation, *args, **kwargs)
    return [PendingTensor([tensor]) for tensor in keras.tree.flatten(outputs)]


def _outputs(builder: Builder, results: list[PendingTensor], originals: list) -> list:
    """Return the deployed model's outputs, each from a layer of its own with the name of the original's.

    Keras names an output after the layer that returns it, and exporters use these names.
    """
    tensors, used = {}, set()
    for pending, original in zip(results, originals, strict=True):
        if id(original) in tensors:  # a model may return the same tensor twice
            continue
        name, tensor = producer(original).name, builder.whole(pending)
        is_input = isinstance(producer(tensor), keras.layers.InputLayer)
        if not (is_input and isinstance(producer(original), keras.layers.InputLayer)):
            if is_input or id(tensor) in used:  # every layer was dropped, or two outputs have become the same tensor
                tensor = builder.add(keras.layers.Identity, name)(tensor)
            used.add(id(tensor))
            if len(call_of(original).outputs) == 1:
                builder.rename(producer(tensor), name)
            tensor.name = original.name
        tensors[id(original)] = tensor
    return [tensors[id(original)] for original in originals]
