"""Let OpenVINO read files with quantized weights, as LiteRT reads them already."""

from __future__ import annotations

import copy
import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ..flatbuffer import append_constant
from ..operators import operator_name

NEWER = 127
"""In an operator code's older field: the operator's number is only in the newer one."""


def let_openvino_read(model: schema.ModelT) -> None:
    """Fill in the older field of operator codes, and store int4 weights of convolutions in three dimensions.

    litert-quantizer writes the operators that it adds into the newer field alone, and leaves 0, which is ADD, in the
    older one. OpenVINO 2026.4 reads the older one, takes DEQUANTIZE for an ADD and misses its options.

    OpenVINO transposes weights, and int4 ones of three dimensions at most. So weights `[out, height, width, in]` become
    `[out, 1, height * width * in]`, with a RESHAPE behind the DEQUANTIZE. In two dimensions OpenVINO would transpose
    square matrices wrongly. It costs a copy of the weights in float32 for each inference: no engine that takes int4
    weights of convolutions runs this file faster, see `engines/`.

    Example:
        ```python
        model = read_model(content)
        let_openvino_read(model)
        content = write_model(model)
        ```
    """
    for code in model.operatorCodes:
        code.deprecatedBuiltinCode = min(code.builtinCode, NEWER)
    for graph in model.subgraphs:
        operators = []
        for operator in graph.operators:
            operators.append(operator)
            if operator_name(model, operator) == "DEQUANTIZE":
                weights, reals = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
                if weights.type == schema.TensorType.INT4 and len(reals.shape) == 4:
                    operators.append(_reshape_behind(model, graph, operator, weights, reals))
        graph.operators = operators


def _reshape_behind(model, graph, dequantize, weights, reals):
    """Store `weights` in three dimensions; return the RESHAPE that gives `reals`, dequantized, their four again."""
    shape = [int(side) for side in reals.shape]
    weights.shape = [shape[0], 1, math.prod(shape[1:])]  # quantized along the first dimension, which stays
    flat = copy.copy(reals)
    flat.name, flat.shape = f"flat_weights_{len(graph.tensors)}", weights.shape
    graph.tensors.append(flat)
    reshape = schema.OperatorT()
    reshape.outputs, dequantize.outputs = dequantize.outputs, [len(graph.tensors) - 1]
    sides = append_constant(model, graph, "shape", np.array(shape, np.int32), schema.TensorType.INT32)
    reshape.inputs = [*dequantize.outputs, sides]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    code.version, reshape.opcodeIndex = 1, len(model.operatorCodes)
    model.operatorCodes.append(code)
    return reshape
