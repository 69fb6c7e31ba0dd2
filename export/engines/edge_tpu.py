"""The operators that Coral's Edge TPU takes, by its compiler's documentation. The compiler was not run.

Source: the table of supported operations, as Axis repeats its newer state for ARTPEC-7, which has an Edge TPU, up to
RESIZE_BILINEAR; the rows behind that are those of the table's state of 2019, and later additions to them are missing.
"""

from __future__ import annotations

import math

from .engine import Engine, one_of, without_activation, without_strides
from .nodes import Node

LARGEST_SOFTMAX = 16_000
_eight_bits = one_of("INT8", "UINT8")


def _general(node: Node) -> str | None:
    # Only the innermost three dimensions may have more than one entry.
    batched = any(math.prod(tensor.shape[:-3]) > 1 for tensor in node.computed)
    return _eight_bits(node) or ("on more than 3 dimensions" if batched else None)


def _same_dilation(node: Node) -> str | None:
    factors = node.option("dilationHFactor", 1), node.option("dilationWFactor", 1)
    return None if factors[0] == factors[1] else "with a different dilation in height and width"


def _inside_an_image(node: Node) -> str | None:
    axes, rank = node.inputs[1].integers, len(node.inputs[0].shape)
    return "over the batch" if axes is None or {0, -rank} & {*axes} else None


def _pad(node: Node) -> str | None:
    paddings = node.inputs[1].integers
    return "over the batch" if paddings is None or any(paddings[:2]) else None


def _softmax(node: Node) -> str | None:
    values = math.prod(node.inputs[0].shape)
    one_row = values == max(node.inputs[0].shape, default=1)
    return None if one_row and values <= LARGEST_SOFTMAX else f"not one row of at most {LARGEST_SOFTMAX:,} values"


EDGE_TPU = Engine(
    name="Edge TPU",
    source="coral.ai/docs/edgetpu/models-intro, and developer.axis.com's supported ops of ARTPEC-7",
    compared=False,
    general=_general,
    # "The Edge TPU compiler cannot partition the model more than once."
    cuts_once=True,
    operators={
        "ADD": None,
        "AVERAGE_POOL_2D": without_activation,
        "CONCATENATION": without_activation,
        "CONV_2D": _same_dilation,
        "DEPTHWISE_CONV_2D": _same_dilation,
        "EXPAND_DIMS": None,
        "FULLY_CONNECTED": None,
        "L2_NORMALIZATION": None,
        "LOGISTIC": None,
        "MAXIMUM": None,
        "MAX_POOL_2D": without_activation,
        "MEAN": _inside_an_image,
        "MINIMUM": None,
        "MUL": None,
        "PACK": None,
        "PAD": _pad,
        "PRELU": None,
        "QUANTIZE": None,
        "REDUCE_MAX": _inside_an_image,
        "REDUCE_MIN": _inside_an_image,
        "RELU": None,
        "RELU6": None,
        "RELU_N1_TO_1": None,
        "RESHAPE": None,
        "RESIZE_BILINEAR": None,
        "RESIZE_NEAREST_NEIGHBOR": None,
        "SLICE": None,
        "SOFTMAX": _softmax,
        "SPACE_TO_DEPTH": None,
        "SPLIT": None,
        "SQUEEZE": None,
        "STRIDED_SLICE": without_strides,
        "SUB": None,
        "TANH": None,
    },
)
