"""What XNNPACK takes, LiteRT's engine for CPUs.

Source: the cases of `VisitNode` and the sections of README.md of LiteRT's XNNPACK delegate. Where they disagree with
ai-edge-litert 2.3.0, the list follows that: README.md says 2 to 4 inputs of CONCATENATION, and it takes 5. A test
compares the list with what LiteRT delegates on this machine.
"""

from __future__ import annotations

from .engine import Engine, Rule, one_of, without_strides
from .nodes import Node

FLOAT = one_of("FLOAT32")
_BITS = one_of("FLOAT32", "INT8")
UNPACKED = ("FLOAT16", "INT8")
"""Dtypes of weights of which XNNPACK makes float32 ones when it loads a file; of int4 ones it does not."""


def _weighted(*pairs: tuple[str, str]) -> Rule:
    """Return the rule of a layer with weights, for these dtypes of (input, weights)."""

    def rule(node):
        for tensor in node.inputs[1:3]:
            if not tensor.constant and tensor.unpacked_from not in UNPACKED:
                return f"weights unpacked from {tensor.unpacked_from}" if tensor.unpacked_from else "computed weights"
        pair = node.inputs[0].dtype, node.inputs[1].dtype
        return None if pair in pairs else f"{pair[0]} with weights of {pair[1]}"

    return rule


def _concatenation(node: Node) -> str | None:
    return None if 2 <= len(node.inputs) <= 5 else f"{len(node.inputs)} inputs, and it takes 2 to 5"


def _split(node: Node) -> str | None:
    return None if 2 <= len(node.outputs) <= 4 else f"{len(node.outputs)} outputs, and it takes 2 to 4"


def _quantize(node: Node) -> str | None:
    given, made = node.inputs[0].dtype, node.outputs[0].dtype
    return None if made == "INT8" and given in ("FLOAT32", made) else f"from {given} to {made}"


def _dequantize(node: Node) -> str | None:
    given = node.inputs[0]
    taken = given.dtype == "INT8" or (given.constant and given.dtype in UNPACKED)
    return None if taken else f"from {given.dtype}"


def _general(node: Node) -> str | None:
    # QUANTIZE and DEQUANTIZE have rules of their own.
    return None if node.name in ("QUANTIZE", "DEQUANTIZE") else _BITS(node)


XNNPACK = Engine(
    name="XNNPACK",
    source="google-ai-edge/LiteRT, tflite/delegates/xnnpack/xnnpack_delegate.cc at 038d2a2, and README.md at 3a653aa",
    compared=True,
    general=_general,
    operators={
        "ADD": None,
        "CONCATENATION": _concatenation,
        "CONV_2D": _weighted(("FLOAT32", "FLOAT32"), ("FLOAT32", "INT8"), ("INT8", "INT8")),
        "DEPTHWISE_CONV_2D": _weighted(("FLOAT32", "FLOAT32"), ("INT8", "INT8")),
        "DEPTH_TO_SPACE": None,
        "DEQUANTIZE": _dequantize,
        "FULLY_CONNECTED": _weighted(("FLOAT32", "FLOAT32"), ("FLOAT32", "INT8"), ("INT8", "INT8")),
        "LEAKY_RELU": None,
        "LOGISTIC": None,
        "MAX_POOL_2D": None,
        "MEAN": None,
        "MUL": None,
        "PAD": None,
        "QUANTIZE": _quantize,
        "REDUCE_MAX": None,
        "RESHAPE": None,
        "RESIZE_BILINEAR": None,
        "SLICE": None,
        "SPACE_TO_DEPTH": None,
        "SPLIT": _split,
        "STRIDED_SLICE": without_strides,
        "SUB": None,
        "SUM": None,
        "TANH": None,
        "TRANSPOSE": None,
        "TRANSPOSE_CONV": None,
        **dict.fromkeys(
            (
                *("ABS", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CEIL", "COS", "DIV", "ELU", "EXP", "FLOOR"),
                *("GELU", "HARD_SWISH", "LOG", "MAXIMUM", "MINIMUM", "NEG", "RELU", "RELU6", "RSQRT", "SIN"),
                *("SOFTMAX", "SQRT", "SQUARE", "SQUARED_DIFFERENCE"),
            ),
            FLOAT,
        ),
    },
)
