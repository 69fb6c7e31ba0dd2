"""What LiteRT's plugins for the NPUs of Qualcomm and MediaTek take, by their lists. Neither NPU was run.

The lists name operators; the maker's compiler then refuses single ones, by their dtypes too. MediaTek's compiler for
MDLA 2.0 takes depthwise kernels up to 8x8 (NeuroPilot's MDLA guidelines).
"""

from __future__ import annotations

from .engine import Engine, one_of
from .nodes import Node

LARGEST_ON_MDLA = 8
_quantized_and_floats = ("FLOAT32", "FLOAT16", "INT32", "INT16", "INT8", "UINT8", "INT4", "BOOL")


def _one_scale_for_int16(node: Node) -> str | None:
    several = any(tensor.dtype == "INT16" and tensor.per_channel for tensor in (*node.inputs, *node.outputs))
    return "INT16 with a scale for each channel" if several else one_of(*_quantized_and_floats)(node)


def _kernel_on_mdla(node: Node) -> str | None:
    height, width = node.inputs[1].shape[1:3]  # of weights [1, height, width, channels]
    side = max(height, width)
    return f"a kernel of {height}x{width}, and MDLA 2.0 takes 8x8" if side > LARGEST_ON_MDLA else None


QUALCOMM = Engine(
    name="Qualcomm",
    source="google-ai-edge/LiteRT, litert/vendors/qualcomm/compiler/Qualcomm_QNN_Compiler.md at 08c8bf6",
    compared=False,
    general=one_of(*_quantized_and_floats, "INT64", "UINT16", "UINT32"),
    operators=dict.fromkeys(
        (
            *("ABS", "ADD", "ARG_MAX", "ARG_MIN", "AVERAGE_POOL_2D", "BATCH_MATMUL", "BROADCAST_TO", "CAST"),
            *("CEIL", "CONCATENATION", "CONV_2D", "CONV_3D", "COS", "CUMSUM", "DEPTH_TO_SPACE"),
            *("DEPTHWISE_CONV_2D", "DEQUANTIZE", "DIV", "DYNAMIC_UPDATE_SLICE", "ELU", "EMBEDDING_LOOKUP"),
            *("EQUAL", "EXP", "FLOOR", "FLOOR_DIV", "FULLY_CONNECTED", "GATHER", "GATHER_ND", "GELU"),
            *("GREATER", "GREATER_EQUAL", "HARD_SWISH", "L2_NORMALIZATION", "L2_POOL_2D", "LEAKY_RELU", "LESS"),
            *("LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR", "LOGISTIC", "MAXIMUM"),
            *("MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL", "PACK", "PAD"),
            *("PADV2", "POW", "PRELU", "QUANTIZE", "REDUCE_ALL", "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN"),
            *("RELU", "RELU_0_TO_1", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR"),
            *("RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "ROUND", "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN"),
            *("SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUARE", "SQUARED_DIFFERENCE", "SQRT"),
            *("STRIDED_SLICE", "SUB", "SUM", "TANH", "TILE", "TOPK_V2", "TRANSPOSE", "TRANSPOSE_CONV"),
            "UNPACK",
        )
    ),
)
MEDIATEK = Engine(
    name="MediaTek",
    source="google-ai-edge/LiteRT, litert/vendors/mediatek/compiler/compiler_plugin.cc at 07d751e",
    compared=False,
    general=_one_scale_for_int16,
    operators={
        **dict.fromkeys(
            (
                *("ABS", "ADD", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CONCATENATION", "CONV_2D"),
                *("DEQUANTIZE", "DIV", "FULLY_CONNECTED", "GELU", "GREATER", "HARD_SWISH", "L2_NORMALIZATION"),
                *("LEAKY_RELU", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MUL", "PAD", "PADV2"),
                *("PRELU", "QUANTIZE", "REDUCE_MAX", "RELU", "RESHAPE", "RESIZE_BILINEAR"),
                *("RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SOFTMAX", "SPLIT", "SQRT"),
                *("SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TILE", "TRANSPOSE"),
                *("TRANSPOSE_CONV", "UNPACK"),
            )
        ),
        "DEPTHWISE_CONV_2D": _kernel_on_mdla,
    },
)
