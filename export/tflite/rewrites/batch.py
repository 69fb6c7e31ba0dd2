"""Let a .tflite file that was converted for one image take batches too, and refuse images of another size."""

from __future__ import annotations

import copy

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ..flatbuffer import append_constant
from ..operators import code_name, operator_name

BATCH_LEADS = {
    "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL", "AVERAGE_POOL_2D", "MAX_POOL_2D",
    "ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW",
    "RELU", "RELU6", "LEAKY_RELU", "PRELU", "ELU", "GELU", "HARD_SWISH", "LOGISTIC", "TANH", "EXP", "RSQRT", "SQRT",
    "SOFTMAX", "QUANTIZE", "DEQUANTIZE", "CAST", "PAD", "PADV2", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR",
    "RESHAPE", "SLICE", "STRIDED_SLICE", "TRANSPOSE", "CONCATENATION", "SPLIT", "MEAN", "SUM", "REDUCE_MAX",
}  # fmt: skip
"""Operators that treat each image by itself. PAD, PADV2 and those from RESHAPE on do so only if they leave the first
axis, which counts the images, alone; `_Editor.keeps_images_apart` looks at their arguments."""


def take_batches(model: schema.ModelT) -> None:
    """Rewrite a model of input `[1, height, width, channels]` so that the interpreter may resize it to any batch.

    The converter writes the batch of 1 into the shapes of RESHAPE and SLICE; here it becomes -1, which fits any
    length: RESHAPE to [1, 512] becomes RESHAPE to [-1, 512]. As -1 would also take one image of twice the height for
    two images, two additions of zeros of shapes `[1, height, 1, 1]` and `[1, 1, width, channels]` come first: LiteRT
    refuses other sizes there, and they change no value. A model that mixes images, or moves the batch axis, stays as it
    is.

    Example:
        ```python
        model = read_model(content)
        take_batches(model)
        interpreter = Interpreter(model_content=write_model(model))
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], [4, 224, 224, 3])
        ```
    """
    if len(model.subgraphs) != 1:
        return
    (graph,) = model.subgraphs
    if len(graph.inputs) != 1 or not _is_one_image(graph.tensors[graph.inputs[0]]):
        return
    editor = _Editor(model, graph)
    if all(editor.keeps_images_apart(operator) for operator in graph.operators):
        for operator in graph.operators:
            editor.free_batch(operator)
        editor.refuse_other_sizes()


def _is_one_image(tensor):
    return tensor.shape is not None and len(tensor.shape) == 4 and tensor.shape[0] == 1 and min(tensor.shape) > 0


class _Editor:
    """Reads and rewrites the operators of a model's one graph."""

    def __init__(self, model, graph):
        self._model, self._graph = model, graph

    def keeps_images_apart(self, operator):
        """Tell whether the operator treats each entry of the first axis, an image or a part of one, by itself."""
        name = self._name(operator)
        if name not in BATCH_LEADS:
            return False
        if name in ("TRANSPOSE", "MEAN", "SUM", "REDUCE_MAX", "PAD", "PADV2", "SPLIT"):
            # The permutation, the axes, the paddings [[before, after], ...] or the axis to split.
            values = self._integers(operator.inputs[0 if name == "SPLIT" else 1])
            if values is None:  # computed when the model runs
                return False
            if name == "TRANSPOSE":
                return values[0] == 0
            if name.startswith("PAD"):
                return not values[:2].any()
            return not {0, -self._rank(operator.inputs[-1 if name == "SPLIT" else 0])} & {*values.tolist()}
        if name == "CONCATENATION":
            return operator.builtinOptions.axis not in (0, -self._rank(operator.inputs[0]))
        if name in ("SLICE", "STRIDED_SLICE"):
            constant = all(self._integers(tensor) is not None for tensor in operator.inputs[1:])
            tensors = (self._graph.tensors[tensor] for tensor in (operator.inputs[0], operator.outputs[0]))
            before, after = (tensor.shape for tensor in tensors)
            return constant and len(before) == len(after) and before[0] == after[0]
        return True

    def free_batch(self, operator):
        """Replace the first length in the operator's constants by one that fits any batch."""
        name = self._name(operator)
        shape = [int(side) for side in self._graph.tensors[operator.outputs[0]].shape]
        if name == "RESHAPE" and shape:
            free = np.array([-1, *shape[1:]], np.int32)
            operator.inputs = [
                operator.inputs[0],
                self._constant("shape", free, schema.TensorType.INT32),
            ]
            if operator.builtinOptions is not None:
                operator.builtinOptions.newShape = free
        elif name == "SLICE":
            size = self._integers(operator.inputs[2]).astype(np.int32)
            size[0] = -1  # up to the end
            begin = self._integers(operator.inputs[1]).astype(np.int32)
            constants = (self._constant("slice", values, schema.TensorType.INT32) for values in (begin, size))
            operator.inputs = [operator.inputs[0], *constants]
        elif name == "STRIDED_SLICE":
            operator.builtinOptions.beginMask |= 1  # bit 0: begin and end of the first axis do not count
            operator.builtinOptions.endMask |= 1

    def refuse_other_sizes(self):
        """Insert the additions behind the input, or behind the QUANTIZE that a uint8 input goes through first."""
        graph = self._graph
        image, start = int(graph.inputs[0]), 0
        first = graph.operators[0]
        users = [operator for operator in graph.operators if image in operator.inputs]
        if graph.tensors[image].type != schema.TensorType.FLOAT32 and users == [first] and self._is_quantize(first):
            image, start = int(first.outputs[0]), 1
        tensor = graph.tensors[image]
        zero_point = 0 if tensor.type == schema.TensorType.FLOAT32 else int(tensor.quantization.zeroPoint[0])
        dtype = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.UINT8: np.uint8}.get(tensor.type, np.int8)
        _, height, width, channels = map(int, tensor.shape)
        # Zero is the zero point of a quantized input, with the input's own scale: x + 0 is x, bit by bit.
        checked, added = image, []
        for side, shape in (("height", (1, height, 1, 1)), ("width", (1, 1, width, channels))):
            zeros = np.full(shape, zero_point, dtype)
            constant = append_constant(
                self._model, self._graph, f"zeros_of_{side}", zeros, tensor.type, tensor.quantization
            )
            result = copy.copy(tensor)
            result.name, result.buffer = f"images_of_this_{side}", 0
            graph.tensors.append(result)
            added.append(self._addition([checked, constant], len(graph.tensors) - 1))
            checked = len(graph.tensors) - 1
        for operator in graph.operators[start:]:
            operator.inputs = [checked if tensor == image else tensor for tensor in operator.inputs]
        graph.operators = [*graph.operators[:start], *added, *graph.operators[start:]]

    def _is_quantize(self, operator):
        output = self._graph.tensors[operator.outputs[0]]
        return self._name(operator) == "QUANTIZE" and output.type == schema.TensorType.INT8

    def _name(self, operator):
        return operator_name(self._model, operator)

    def _rank(self, tensor):
        return len(self._graph.tensors[tensor].shape)

    def _integers(self, tensor):
        """Return a constant of int32 in one row; None of a tensor that is computed, or of another dtype."""
        data = self._model.buffers[self._graph.tensors[tensor].buffer].data
        if data is None or self._graph.tensors[tensor].type != schema.TensorType.INT32:
            return None
        return np.frombuffer(bytes(data), np.int32)

    def _constant(self, name, values, dtype, quantization=None):
        return append_constant(self._model, self._graph, name, values, dtype, quantization)

    def _addition(self, inputs, output):
        codes = self._model.operatorCodes
        index = next((i for i, code in enumerate(codes) if code_name(code) == "ADD"), len(codes))
        if index == len(codes):
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
            code.version = 1
            codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = index, inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
        return operator
