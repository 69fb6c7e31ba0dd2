"""Write into a .tflite file the operator versions that it uses, and find the oldest runtime that has them all.

An operator's version in a file says which of its kernels a runtime needs: CONV_2D 3, for example, is that on int8. What
decides the version are the dtypes of inputs and outputs and a few properties (`Use`); `VERSIONS` has a rule for each
operator, `SINCE` the release that brought each version.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ..flatbuffer import append_metadata, read_model
from ..operators import DTYPES, operator_name

QUANTIZED = {"INT8", "UINT8", "INT16", "INT4"}
METADATA = b"min_runtime_version"
METADATA_BYTES = 16
"""Bytes of the entry, filled up with zeros, as TensorFlow's converter writes it."""
FIRST = "1.5.0"
"""TensorFlow version from which on runtimes have the operators that `SINCE` does not name."""
RUNTIMES = {
    "tflite-runtime 2.14.0": "2.14.0",
    "ai-edge-litert 1.0.1": "2.18.0",
    "ai-edge-litert 1.2.0": "2.19.0",
    "ai-edge-litert 1.4.0": "2.20.0",
}
"""Runtimes on which every format was run (tests/export/tflite/test_runtimes.py), oldest first, each with the TensorFlow
version whose operators it has."""


@dataclass(frozen=True)
class Use:
    """The properties of an operator in a file that its version depends on; dtypes by the schema's names."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rank: int
    """Number of dimensions of the first input."""
    per_channel: bool
    """A tensor with a scale for each channel is among the first two inputs or the outputs."""
    grouped: bool
    """A grouped CONV_2D: the weights have fewer input channels than the input."""
    asymmetric: bool
    """A hybrid kernel (float32 input, int8 weights) quantizes its input with a zero point."""


Rule = Callable[[Use], int | None]
"""From an operator's use to its version; None where no kernel, or none that is known, takes these dtypes."""


def _by_dtype(int8: int, int16: int | None = None, deep: int = 1) -> Rule:
    """Return a rule by the dtype of the first input; at least version `deep` if that has over 4 dimensions."""

    def version(use):
        dtype = next((dtype for dtype in use.inputs if dtype != "INT32"), "")  # SPLIT's first input is its axis
        number = {"INT8": int8, "UINT8": 1, "INT16": int16}.get(dtype)
        return number and max(number, deep if use.rank > 4 else 1)

    return version


def _by_weights(*, hybrid: int, hybrid_per_channel: int, int8: int, int4: int, int16: int) -> Rule:
    """Return a convolution's rule, by the dtypes of input and weights; hybrid is float32 input with int8 weights."""

    def version(use):
        number = {
            ("FLOAT32", "INT8"): hybrid_per_channel if use.per_channel else hybrid,
            ("INT8", "INT8"): int8,
            ("INT8", "INT4"): int4,
            ("INT16", "INT8"): int16,
        }.get(use.inputs[:2])
        return number and max(number, 6 if use.grouped else 1)

    return version


def _fully_connected(use):
    hybrid = 12 if use.per_channel else 9 if use.asymmetric else 3
    return {("FLOAT32", "INT8"): hybrid, ("INT8", "INT8"): 4, ("INT8", "INT4"): 10, ("INT16", "INT8"): 7}.get(
        use.inputs[:2]
    )


def _dequantize(use):
    return {"INT8": 5 if use.per_channel else 2, "UINT8": 1, "INT16": 3, "INT4": 6}.get(use.inputs[0])


def _quantize(use):
    return 3 if use.per_channel else {"INT16": 2, "INT8": 1, "UINT8": 1}.get(use.outputs[0])


VERSIONS: dict[str, Rule] = {
    "CONV_2D": _by_weights(hybrid=2, hybrid_per_channel=5, int8=3, int4=7, int16=4),
    "DEPTHWISE_CONV_2D": _by_weights(hybrid=4, hybrid_per_channel=6, int8=3, int4=7, int16=5),
    "FULLY_CONNECTED": _fully_connected,
    "DEQUANTIZE": _dequantize,
    "QUANTIZE": _quantize,
    # The version on int8, and that on int16 where there are such kernels.
    "ADD": _by_dtype(2, 3),
    "SUB": _by_dtype(2, 5),
    "MUL": _by_dtype(3, 4),
    "AVERAGE_POOL_2D": _by_dtype(2, 3),
    "MAX_POOL_2D": _by_dtype(2, 3),
    "MEAN": _by_dtype(2, 3),
    "SUM": _by_dtype(2),
    "REDUCE_MAX": _by_dtype(2, 3),
    "SOFTMAX": _by_dtype(2, 3),
    "RELU": _by_dtype(2, 3),
    "RELU6": _by_dtype(2, 3),
    "LEAKY_RELU": _by_dtype(1, 2),
    "PRELU": _by_dtype(1),
    "LOGISTIC": _by_dtype(2, 3),
    "TANH": _by_dtype(2, 3),
    "GELU": _by_dtype(2, 2),
    "HARD_SWISH": _by_dtype(1),
    "RSQRT": _by_dtype(2, 3),
    "SQUARED_DIFFERENCE": _by_dtype(2),
    "MAXIMUM": _by_dtype(2, 4),
    "MINIMUM": _by_dtype(2, 4),
    "PAD": _by_dtype(2, 3, deep=4),
    "PADV2": _by_dtype(2, 3, deep=4),
    "CONCATENATION": _by_dtype(2, 3),
    "SPLIT": _by_dtype(2, 4),
    "PACK": _by_dtype(2, 3),
    "SLICE": _by_dtype(2, 4, deep=5),
    "STRIDED_SLICE": _by_dtype(2, 4, deep=4),
    "TRANSPOSE": _by_dtype(2, 5, deep=4),
    "RESIZE_BILINEAR": _by_dtype(3, 4),
    "RESIZE_NEAREST_NEIGHBOR": _by_dtype(3, 4),
    "BATCH_MATMUL": _by_dtype(2, 3),
    "RESHAPE": _by_dtype(1, 1),
    "SQUEEZE": _by_dtype(1, 1),
    "EXPAND_DIMS": _by_dtype(1, 1),
}
"""Version of each operator on quantized tensors.

Source: tensorflow/lite/tools/versioning/op_version.cc; where that gives version 1 to what the first kernels refuse
(int16 activations with int8 weights), the history of the kernels.
"""

SINCE = {
    "2.3.0": "AVERAGE_POOL_2D 3, MAX_POOL_2D 3, CONV_2D 4, DEPTHWISE_CONV_2D 5 6, CONCATENATION 3, FULLY_CONNECTED 7 "
    "9, LEAKY_RELU 2, LOGISTIC 3, MAXIMUM 4, MINIMUM 4, MUL 4, PACK 3, SOFTMAX 3, SPLIT 4, TANH 3, TRANSPOSE 4, "
    "BATCH_MATMUL 2, RESIZE_NEAREST_NEIGHBOR 3",
    "2.4.0": "ADD 3, CONV_2D 5, MEAN 3, PAD 3, PADV2 3, SLICE 4, SUB 5, TRANSPOSE 5, BATCH_MATMUL 3, "
    "RESIZE_NEAREST_NEIGHBOR 4",
    "2.5.0": "REDUCE_MAX 3, RELU 3, RELU6 3, RESIZE_BILINEAR 4, RSQRT 2, SQUARED_DIFFERENCE 2, SLICE 5",
    "2.6.0": "PAD 4, PADV2 4",
    "2.7.0": "DEQUANTIZE 5, QUANTIZE 3",
    "2.9.0": "CONV_2D 6, GELU 1 2",
    "2.11.0": "CONV_2D 7, DEPTHWISE_CONV_2D 7, FULLY_CONNECTED 10",
    "2.15.0": "RSQRT 3",
    "2.17.0": "FULLY_CONNECTED 12",
    "2.18.0": "DEQUANTIZE 6",
}
"""TensorFlow version from which on runtimes have an operator's versions, as "NAME VERSION VERSION, NAME VERSION".

Source: tensorflow/lite/tools/versioning/runtime_version.cc.
"""
_SINCE: dict[tuple[str, int], str] = {
    (name, int(version)): since
    for since, entries in SINCE.items()
    for name, *versions in (entry.split() for entry in entries.split(", "))
    for version in versions
}
KERNELS = {("GELU", "INT16"): "2.20.0"}
"""TensorFlow version of kernels that were added without a new operator version, by operator and dtype of the first
input. Older runtimes load such a file and fail in invoke."""


def set_versions(model: schema.ModelT, *, as_converted: bool = False) -> None:
    """Raise operator versions to those that a model uses, and `min_runtime_version` to the runtime that has them.

    Converters write versions before a quantizer changes the tensors. A runtime that lacks the right kernel would run
    another one and answer wrongly: tflite-runtime 2.14 ignores all scales but the first of an int8 dense layer. With
    the right version it refuses the file instead. Operators on floats keep the version that TensorFlow's converter
    wrote.

    Example:
        ```python
        model = read_model(content)
        set_versions(model)
        content = write_model(model)
        ```

    Args:
        model: changed in place.
        as_converted: TensorFlow's converter wrote the file, and nothing has quantized it since, so that it has the
            right versions of operators that are not in `VERSIONS`.

    Raises:
        ValueError: `VERSIONS` lacks an operator, or its dtypes, in a file that was quantized after conversion.
    """
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            used = _version(operator_name(model, operator), _use(graph, operator), as_converted)
            code.version = max(code.version, used)
    required = min_runtime_version(model)
    data = np.frombuffer(required.encode().ljust(METADATA_BYTES, b"\0"), np.uint8)
    entry = next((entry for entry in model.metadata or () if entry.name == METADATA), None)
    if entry is None:
        append_metadata(model, METADATA, data)
    else:
        model.buffers[entry.buffer].data = data  # pyright: ignore[reportAttributeAccessIssue]


def min_runtime_version(model: schema.ModelT) -> str:
    """Return the TensorFlow version, as "2.14.0", of the oldest runtime that has every kernel a model uses."""
    written = [
        bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode()
        for entry in model.metadata or ()
        if entry.name == METADATA and model.buffers[entry.buffer].data is not None
    ]
    needed = {FIRST, *filter(None, written)}
    for graph in model.subgraphs:
        for operator in graph.operators:
            version = model.operatorCodes[operator.opcodeIndex].version
            name, dtype = operator_name(model, operator), _use(graph, operator).inputs[:1]
            needed.add(_SINCE.get((name, version), FIRST))
            needed.add(KERNELS.get((name, *dtype), FIRST))
    return max(needed, key=_numbers)


def oldest_runtime(content: bytes) -> str:
    """Return the oldest of `RUNTIMES` that runs a .tflite file, as "tflite-runtime 2.14.0".

    If none of them runs it, return the installed ai-edge-litert, on which the file was validated.
    """
    required = _numbers(min_runtime_version(read_model(content)))
    fitting = (name for name, version in RUNTIMES.items() if _numbers(version) >= required)
    return next(fitting, f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}")


def _numbers(version):
    return tuple(map(int, version.split(".")))


def _version(name, use, as_converted):
    if not QUANTIZED & {*use.inputs, *use.outputs}:
        return 1
    version = VERSIONS[name](use) if name in VERSIONS else None
    if version is None and as_converted:
        return 1  # set_versions keeps what the converter wrote, as it is higher
    if version is None:
        raise ValueError(
            f"{name} of {', '.join(use.inputs)} to {', '.join(use.outputs)} is a quantized operator whose "
            "oldest runtime is not known: leave this format out, or build the model of other layers"
        )
    return version


def _use(graph, operator):
    """Return an operator's `Use`; tensor number -1 stands for an input that is left out."""

    def names(tensors):
        return tuple(DTYPES[graph.tensors[tensor].type] for tensor in tensors if tensor >= 0)

    inputs = [graph.tensors[tensor] for tensor in operator.inputs if tensor >= 0]
    outputs = [graph.tensors[tensor] for tensor in operator.outputs]
    shapes = [() if tensor.shape is None else tuple(tensor.shape) for tensor in inputs]
    return Use(
        inputs=names(operator.inputs),
        outputs=names(operator.outputs),
        rank=len(shapes[0]) if shapes else 0,
        # Not the third input, the bias, which has a scale for each channel whenever the weights do.
        per_channel=any(_scales(tensor) > 1 for tensor in (*inputs[:2], *outputs)),
        # Input [batch, height, width, channels], weights [out, height, width, channels of a group].
        grouped=len(shapes) > 1 and [len(shape) for shape in shapes[:2]] == [4, 4] and shapes[0][3] != shapes[1][3],
        asymmetric=bool(getattr(operator.builtinOptions, "asymmetricQuantizeInputs", False)),
    )


def _scales(tensor):
    scales = tensor.quantization and tensor.quantization.scale
    return 0 if scales is None else len(scales)
