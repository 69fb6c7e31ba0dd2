"""The operators of a .tflite file, with the dtypes, shapes, constants and options by which engines take them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..tflite.flatbuffer import read_model
from ..tflite.operators import DTYPES, code_name


@dataclass(frozen=True)
class Tensor:
    """An input or output of an operator."""

    dtype: str
    """By the schema's name, such as INT8."""
    shape: tuple[int, ...]
    constant: bool
    per_channel: bool
    """Quantized with a scale for each channel."""
    integers: tuple[int, ...] | None = None
    """The values of a constant of int32, such as axes or strides; None for other tensors."""
    unpacked_from: str | None = None
    """Dtype of the constant that a DEQUANTIZE makes this tensor of; None for other tensors."""


@dataclass(frozen=True)
class Node:
    """An operator of a file."""

    name: str
    """By the schema, such as CONV_2D; a custom operator's own name."""
    version: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    options: Any
    """The schema's object of this operator's options, such as `Conv2DOptionsT`; None without options."""

    @property
    def computed(self) -> tuple[Tensor, ...]:
        """The inputs and outputs that are not constants, nor unpacked from one."""
        every = (*self.inputs, *self.outputs)
        return tuple(tensor for tensor in every if not tensor.constant and tensor.unpacked_from is None)

    def option(self, name: str, default: Any = 0) -> Any:
        """Return an option, or `default` where the file holds no options."""
        return getattr(self.options, name, default)


def read_nodes(content: bytes) -> list[Node]:
    """Read the operators of a .tflite file's bytes, in the order of computation."""
    model, nodes = read_model(content), []
    for graph in model.subgraphs:
        tensors = [_tensor(model, tensor) for tensor in graph.tensors]
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = code_name(code)
            inputs = [int(number) for number in operator.inputs if number >= 0]  # -1: left out
            outputs = [int(number) for number in operator.outputs]
            given = tensors[inputs[0]] if inputs else None
            # Of int4 weights a RESHAPE follows the DEQUANTIZE, see rewrites/openvino.py.
            if given and ((name == "DEQUANTIZE" and given.constant) or (name == "RESHAPE" and given.unpacked_from)):
                dtype = given.unpacked_from or given.dtype
                tensors[outputs[0]] = replace(tensors[outputs[0]], unpacked_from=dtype)
            nodes.append(
                Node(
                    name if name != "CUSTOM" else code.customCode.decode(),  # pyright: ignore[reportAttributeAccessIssue]
                    code.version,
                    tuple(tensors[number] for number in inputs),
                    tuple(tensors[number] for number in outputs),
                    operator.builtinOptions,
                )
            )
    return nodes


def _tensor(model, tensor):
    scales = tensor.quantization.scale if tensor.quantization else None
    dtype, data = DTYPES[tensor.type], model.buffers[tensor.buffer].data
    integers = data is not None and dtype == "INT32"
    return Tensor(
        dtype=dtype,
        shape=() if tensor.shape is None else tuple(map(int, tensor.shape)),
        constant=data is not None,
        per_channel=scales is not None and len(scales) > 1,
        integers=tuple(np.frombuffer(bytes(data), np.int32).tolist()) if integers else None,
    )
