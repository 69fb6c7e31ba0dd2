"""Move the scales of int8 dense layers into a multiplication, for runtimes that read only one scale of such a layer."""

from __future__ import annotations

import copy

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .operators import operator_name


def scale_behind_dense_layers(model: schema.ModelT) -> None:
    """Give int8 weights of dense layers that take float32 the scale 1, and multiply the results by each row's scale.

    `y = s * (q @ x) + b` becomes `s * (q @ x + b / s)`: the same to float32's rounding. A FULLY_CONNECTED with a scale
    for each row is version 12, which runtimes have since TensorFlow 2.17; with one scale it is version 3. The cost is
    one MUL of the layer's output. Weights with one scale stay as they are.

    Example:
        model = read_model(content)
        scale_behind_dense_layers(model)
        content = write_model(model)
    """
    for graph in model.subgraphs:
        scales, operators = {}, []
        for operator in graph.operators:
            operators.append(operator)
            weights = graph.tensors[operator.inputs[1]] if len(operator.inputs) > 1 else None
            if operator_name(model.operatorCodes[operator.opcodeIndex]) != "FULLY_CONNECTED":
                continue
            if weights.type == schema.TensorType.INT8 and graph.tensors[operator.inputs[0]].type == 0:
                scale = scales.setdefault(int(operator.inputs[1]), np.array(weights.quantization.scale, np.float32))
                if len(scale) > 1:
                    operators.append(_multiplication(model, graph, operator, scale))
        for number, scale in scales.items():
            if len(scale) > 1:
                quantization = schema.QuantizationParametersT()
                quantization.scale, quantization.zeroPoint = np.ones(1, np.float32), np.zeros(1, np.int64)
                graph.tensors[number].quantization = quantization
        graph.operators = operators


def _multiplication(model, graph, dense, scale):
    """Make a dense layer return values without their scale; return the MUL that applies it."""
    if len(dense.inputs) > 2 and dense.inputs[2] >= 0:
        bias = model.buffers[graph.tensors[dense.inputs[2]].buffer].data
        bias = _constant(model, graph, "bias_without_scale", np.frombuffer(bytes(bias), np.float32) / scale)
        dense.inputs = [*dense.inputs[:2], bias]
    result = copy.copy(graph.tensors[dense.outputs[0]])
    result.name = f"dense_without_scale_{len(graph.tensors)}"
    operator = schema.OperatorT()
    operator.inputs = [len(graph.tensors), len(graph.tensors) + 1]
    graph.tensors.append(result)
    _constant(model, graph, "dense_scale", scale)
    operator.outputs, dense.outputs = dense.outputs, operator.inputs[:1]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MUL
    code.version, operator.opcodeIndex = 1, len(model.operatorCodes)
    model.operatorCodes.append(code)
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
    operator.builtinOptions.fusedActivationFunction = dense.builtinOptions.fusedActivationFunction
    dense.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.NONE
    return operator


def _constant(model, graph, name, values):
    held, tensor = schema.BufferT(), schema.TensorT()
    held.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
    model.buffers.append(held)
    tensor.name, tensor.type, tensor.shape = (
        f"{name}_{len(graph.tensors)}",
        schema.TensorType.FLOAT32,
        list(values.shape),
    )
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
