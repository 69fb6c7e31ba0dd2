"""What LiteRT's GPU engine takes, ML Drift.

Source: the cases of `IsNodeSupported`. Where that file disagrees with ai-edge-litert 2.3.0, the list follows that: it
takes four dimensions, and the file says five for a few operators. The engine runs the largest connected part of the
operators that it takes: a file that is not taken whole may lose a few more to the CPU.
"""

from __future__ import annotations

from .engine import Engine, one_of
from .nodes import Node

DIMENSIONS = 4
NEWEST_DEQUANTIZE = 3
"""Version of DEQUANTIZE; later ones are those of a scale for each channel and of int4."""
NEWEST_STRIDED_SLICE = 2
"""Version of STRIDED_SLICE; later ones are those of int16 and of more dimensions."""
_DTYPES = ("FLOAT32", "FLOAT16", "INT8", "UINT8", "INT32", "BOOL")
_IN_INT16 = {"ADD", "CONCATENATION", "PAD", "RESHAPE"}
"""Operators that it was seen to take on INT16 too."""


def _general(node: Node) -> str | None:
    most = max((len(tensor.shape) for tensor in node.computed), default=0)
    if most > DIMENSIONS:
        return f"{most} dimensions, and it takes {DIMENSIONS}"
    return one_of(*_DTYPES, "INT16" if node.name in _IN_INT16 else "")(node)


def _dequantize(node: Node) -> str | None:
    if node.version <= NEWEST_DEQUANTIZE:
        return None
    return "int4 weights" if node.inputs[0].dtype == "INT4" else "weights with a scale for each channel"


def _strided_slice(node: Node) -> str | None:
    if node.version > NEWEST_STRIDED_SLICE:
        return f"version {node.version}, and it takes {NEWEST_STRIDED_SLICE}"
    return "with dropped dimensions" if node.option("shrinkAxisMask") else None


GPU = Engine(
    name="GPU",
    source="google-ai-edge/LiteRT, ml_drift_delegate/tflite/support/support.cc at 0be9b89",
    compared=True,
    general=_general,
    operators={
        **dict.fromkeys(
            (
                *("ABS", "ADD", "ARG_MAX", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CEIL", "CONCATENATION"),
                *("CONV_2D", "COS", "CUMSUM", "DEPTH_TO_SPACE", "DEPTHWISE_CONV_2D", "DIV", "ELU", "EQUAL"),
                *("EXP", "FLOOR", "FLOOR_DIV", "FLOOR_MOD", "FULLY_CONNECTED", "GATHER", "GELU", "GREATER"),
                *("GREATER_EQUAL", "HARD_SWISH", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND"),
                *("LOGICAL_NOT", "LOGICAL_OR", "LOGISTIC", "MAX_POOL_2D", "MAXIMUM", "MEAN", "MINIMUM"),
                *("MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL", "ONE_HOT", "PACK", "PAD", "PADV2", "POW", "PRELU"),
                *("QUANTIZE", "REDUCE_ALL", "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RELU"),
                *("RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
                *("REVERSE_V2", "ROUND", "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN", "SLICE", "SOFTMAX"),
                *("SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "SUM"),
                *("TANH", "TILE", "TOPK_V2", "TRANSPOSE", "TRANSPOSE_CONV", "UNPACK"),
            )
        ),
        "DEQUANTIZE": _dequantize,
        "STRIDED_SLICE": _strided_slice,
    },
)
