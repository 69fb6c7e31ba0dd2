"""deploy(): the same function as a model that runs faster where it is deployed."""

from collections import Counter

import keras

from ..keras_internals import Call, call_of, calls, graph_of, input_structure, output_structure, producer
from .builder import Builder
from .rules import rule_of
from .signals import Signal
from .verification import verify

TARGETS = ("litert", "litert_int8", "tensorflow")


def deploy(model: keras.Model, target: str = "litert", verified: bool = True) -> keras.Model:
    """Return a functional model that computes what `model` does at inference, faster on the target.

    Inputs and outputs are those of `model`: shapes, dtypes, names, structure. Built-in Keras layers only, where the
    model has only such; `model` stays as it is. Any functional or Sequential model will do, as what has no exact
    rewrite is copied. Rewritten are, by structure and not by name:

    - scaling of the input (Rescaling, Normalization), into the first convolution, where that pads no zeros;
    - BatchNormalization, into the convolution or dense layer before it, through ReLU as far as signs allow, or
      after it, through sums, averages and dropped layers; what is left of it is one operation;
    - depthwise kernels of over 25 taps, for "litert": into pieces, see `cover.cover`, and wide ones run in groups of
      channels, see `depthwise.channel_groups`; for "litert_int8": into products of blocks, see `blocks.BlockPlan`;
    - layers that act in training only: dropped.

    Args:
        model: a functional or Sequential model, built.
        target: "litert" for .tflite files on LiteRT's CPU engine, XNNPACK; "litert_int8" for those that are quantized
            to 8 bits afterwards, two to three times as large and faster still; "tensorflow" for TensorFlow's own
            kernels, as in a SavedModel, which are fast at any kernel size.
        verified: run both models and compare; see `verify`.

    Raises:
        ValueError: the target is unknown, or the model is no functional one.
        ArithmeticError: `verified`, and the outputs differ.

    Source: RepVGG's separate deployed form; XNNPACK's depthwise microkernels (src/configs/dwconv-config.c).
    """
    if target not in TARGETS:
        raise ValueError(f"target={target!r}: there are {', '.join(map(repr, TARGETS))}")
    graph = graph_of(model)
    if graph is None:
        raise ValueError(
            f"{getattr(model, 'name', model)} is no functional or Sequential model that was built: deploy what its "
            "layers are called on, keras.Model(inputs, outputs)"
        )
    builder = Builder(target)
    inputs = [builder.copy(producer(tensor)).output for tensor in graph.inputs]
    for tensor, original in zip(inputs, graph.inputs, strict=True):
        tensor.name = original.name  # without one of its own, the copy has its layer's
    signals = _run(builder, graph, [Signal([tensor]) for tensor in inputs])
    outputs = _outputs(builder, signals, graph.outputs)
    deployed = keras.Model(
        keras.tree.pack_sequence_as(input_structure(graph), inputs),
        keras.tree.pack_sequence_as(output_structure(graph), outputs),
        name=model.name,
    )
    if verified:
        verify(model, deployed)
    return deployed


def _run(builder, graph, inputs: list[Signal]) -> list[Signal]:
    """Rewrite every call of a graph, in the order that Keras runs them; return the signals of its outputs."""
    graph_calls = calls(graph)
    times_called = Counter(id(call.operation) for call in graph_calls)
    uses = Counter(id(tensor) for call in graph_calls for tensor in call.inputs)
    uses.update(id(tensor) for tensor in graph.outputs)
    signals = {id(tensor): signal for tensor, signal in zip(graph.inputs, inputs, strict=True)}
    for call in graph_calls:
        results = _call(builder, call, signals, shared=times_called[id(call.operation)] > 1)
        for tensor, signal in zip(call.outputs, results, strict=True):
            if uses[id(tensor)] > 1:
                signal.forms  # noqa: B018 - built now, so that each user does not build its own
            signal.rank = len(tensor.shape)
            signals[id(tensor)] = signal
    return [signals[id(tensor)] for tensor in graph.outputs]


def _call(builder, call: Call, signals, shared) -> list[Signal]:
    operation = call.operation
    given = [signals[id(tensor)] for tensor in call.inputs]
    plain = keras.tree.flatten(call.args) == call.inputs and not any(
        value is not None and value is not False for value in keras.tree.flatten(call.kwargs)
    )
    with_weights = isinstance(operation, keras.layers.Layer) and operation.weights
    if plain and not (shared and with_weights):
        inner = graph_of(operation)
        if inner is not None and _takes(inner, call.inputs):
            given[0].forms  # noqa: B018 - built now, as the uses inside are not counted
            return _run(builder, inner, given)
        rule = rule_of(operation) if len(call.outputs) == 1 else None
        result = rule and rule(builder, operation, given)
        if result is not None:
            return [result]
    tensors = {id(tensor): builder.whole(signals[id(tensor)]) for tensor in call.inputs}
    arguments, keywords = call.arguments_with(tensors)
    return [Signal([tensor]) for tensor in keras.tree.flatten(builder.call(operation, *arguments, **keywords))]


def _takes(inner, tensors):
    """Tell whether a nested model takes its input as it is: one, which it neither casts nor expands."""
    return len(tensors) == len(inner.inputs) == 1 and (
        tensors[0].dtype == inner.inputs[0].dtype and len(tensors[0].shape) == len(inner.inputs[0].shape)
    )


def _outputs(builder, signals, originals) -> list:
    """Return the outputs' tensors, each of a layer of its own that has the original's name."""
    tensors, used = {}, set()
    for signal, original in zip(signals, originals, strict=True):
        if id(original) in tensors:
            continue
        name, tensor = producer(original).name, builder.whole(signal)
        of_input = isinstance(producer(tensor), keras.layers.InputLayer)
        if not (of_input and isinstance(producer(original), keras.layers.InputLayer)):
            if of_input or id(tensor) in used:
                tensor = builder.add(keras.layers.Identity, name)(tensor)
            used.add(id(tensor))
            if len(call_of(original).outputs) == 1:
                builder.rename(producer(tensor), name)
            tensor.name = original.name
        tensors[id(original)] = tensor
    return [tensors[id(original)] for original in originals]
