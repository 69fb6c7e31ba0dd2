"""Move the scales of int8 dense layers into a multiplication, for runtimes that read only one scale of such a layer."""

from __future__ import annotations

import copy

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ..flatbuffer import append_constant
from ..operators import operator_name


def scale_behind_dense_layers(model: schema.ModelT) -> None:
    """Give int8 weights of dense layers that take float32 the scale 1, and multiply the results by each row's scale.

    Before, with weights q int8 `[out, in]`, a scale for each output s `[out]` and a bias b `[out]`, a layer computes

        y = s * (q @ x) + b         FULLY_CONNECTED, version 12, which runtimes have since TensorFlow 2.17

    Afterwards it computes the same to float32's rounding, in two operators that all runtimes have:

        z = q @ x + b / s           FULLY_CONNECTED, version 3, with the one scale 1
        y = s * z                   MUL

    The cost is one multiplication of the layer's output. Weights with one scale stay as they are.

    Example:
        ```python
        model = read_model(content)
        scale_behind_dense_layers(model)
        content = write_model(model)
        ```
    """
    for graph in model.subgraphs:
        scales: dict[int, np.ndarray] = {}  # by the number of the weights' tensor, which two layers may share
        operators = []
        for operator in graph.operators:
            operators.append(operator)
            if operator_name(model, operator) != "FULLY_CONNECTED":
                continue
            images, weights = (graph.tensors[number] for number in operator.inputs[:2])
            if weights.type == schema.TensorType.INT8 and images.type == schema.TensorType.FLOAT32:
                scale = scales.setdefault(int(operator.inputs[1]), np.array(weights.quantization.scale, np.float32))
                if len(scale) > 1:
                    operators.append(_multiply_behind(model, graph, operator, scale))
        for number, scale in scales.items():
            if len(scale) > 1:
                quantization = schema.QuantizationParametersT()
                quantization.scale, quantization.zeroPoint = np.ones(1, np.float32), np.zeros(1, np.int64)  # pyright: ignore[reportAttributeAccessIssue]
                graph.tensors[number].quantization = quantization
        graph.operators = operators


def _multiply_behind(model, graph, dense, scale):
    """Make a dense layer return values without their scale; return the MUL that applies it."""
    if len(dense.inputs) > 2 and dense.inputs[2] >= 0:  # -1: no bias
        bias = np.frombuffer(bytes(model.buffers[graph.tensors[dense.inputs[2]].buffer].data), np.float32)
        bias = append_constant(model, graph, "bias_without_scale", bias / scale)
        dense.inputs = [*dense.inputs[:2], bias]
    without_scale = copy.copy(graph.tensors[dense.outputs[0]])
    without_scale.name = f"dense_without_scale_{len(graph.tensors)}"
    graph.tensors.append(without_scale)
    multiply = schema.OperatorT()
    multiply.inputs = [len(graph.tensors) - 1, append_constant(model, graph, "dense_scale", scale)]
    multiply.outputs, dense.outputs = dense.outputs, multiply.inputs[:1]
    # A code of its own: versions are those of codes, and a quantized MUL of the model has a higher one.
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MUL
    code.version, multiply.opcodeIndex = 1, len(model.operatorCodes)
    model.operatorCodes.append(code)
    # A fused activation has to see the scaled values.
    multiply.builtinOptionsType, multiply.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
    multiply.builtinOptions.fusedActivationFunction = dense.builtinOptions.fusedActivationFunction
    dense.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.NONE
    return multiply
