"""Files of one operator each, or of few, in float32 and in int8, to ask engines what they take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

_random = np.random.default_rng(0)
_KERNELS = _random.normal(size=(3, 3, 4, 4)).astype(np.float32)

OPERATORS = {
    "ABS": tf.abs,
    "ADD": lambda x: x + x[:, :1],
    "AVERAGE_POOL_2D": lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME"),
    "BATCH_MATMUL": lambda x: tf.matmul(tf.reshape(x, [4, 8, 8]), tf.reshape(x, [4, 8, 8])),
    "CEIL": tf.math.ceil,
    "CONCATENATION of 2": lambda x: tf.concat([x] * 2, 3),
    "CONCATENATION of 5": lambda x: tf.concat([x] * 5, 3),
    "CONCATENATION of 6": lambda x: tf.concat([x] * 6, 3),
    "CONV_2D": lambda x: tf.nn.conv2d(x, _KERNELS, 1, "SAME"),
    "CONV_2D in groups": lambda x: tf.nn.conv2d(x, _KERNELS[:, :, :2], 1, "SAME"),
    "COS": tf.cos,
    "DEPTHWISE_CONV_2D": lambda x: tf.nn.depthwise_conv2d(x, _KERNELS[..., :1], [1, 1, 1, 1], "SAME"),
    "DEPTHWISE_CONV_2D with multiplier": lambda x: tf.nn.depthwise_conv2d(x, _KERNELS, [1, 1, 1, 1], "SAME"),
    "DEPTH_TO_SPACE": lambda x: tf.nn.depth_to_space(x, 2),
    "DIV": lambda x: x / (tf.abs(x) + 1),
    "ELU": tf.nn.elu,
    "EXP": tf.exp,
    "FLOOR": tf.floor,
    "FULLY_CONNECTED": lambda x: tf.reshape(x, [1, 256]) @ np.ones((256, 3), np.float32),
    "GATHER": lambda x: tf.gather(x, [1, 0], axis=1),
    "GELU": lambda x: tf.nn.gelu(x, approximate=False),
    "GELU by tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "HARD_SWISH": lambda x: x * tf.nn.relu6(x + 3) / 6,
    "L2_NORMALIZATION": lambda x: tf.math.l2_normalize(x, 3),
    "LEAKY_RELU": tf.nn.leaky_relu,
    "LOG": lambda x: tf.math.log(tf.abs(x) + 1),
    "LOGISTIC": tf.sigmoid,
    "MAXIMUM": lambda x: tf.maximum(x, x[:, :1]),
    "MAX_POOL_2D": lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"),
    "MEAN of pixels": lambda x: tf.reduce_mean(x, [1, 2]),
    "MEAN of channels": lambda x: tf.reduce_mean(x, [3], keepdims=True),
    "MINIMUM": lambda x: tf.minimum(x, x[:, :1]),
    "MUL": lambda x: x * x[:, :1],
    "NEG": lambda x: -x,
    "PACK": lambda x: tf.stack([x[:, 0], x[:, 1]], 1),
    "PAD": lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]),
    "PADV2": lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-1.0),
    "POW": lambda x: tf.pow(tf.abs(x), 2.5),
    "REDUCE_MAX": lambda x: tf.reduce_max(x, [1, 2]),
    "RESHAPE": lambda x: tf.reshape(x, [1, 4, 16, 4]),
    "RESHAPE to 5 dimensions": lambda x: tf.reshape(tf.reshape(x, [1, 2, 4, 8, 4]) * 2, [1, 8, 8, 4]),
    "RESIZE_BILINEAR": lambda x: tf.image.resize(x, [16, 16]),
    "RESIZE_NEAREST_NEIGHBOR": lambda x: tf.image.resize(x, [16, 16], "nearest"),
    "RSQRT": lambda x: tf.math.rsqrt(tf.abs(x) + 1),
    "SELECT": lambda x: tf.where(x > 0, x, x * 2),
    "SIN": tf.sin,
    "SLICE": lambda x: tf.slice(x, [0, 1, 1, 0], [1, 4, 4, 4]),
    "SOFTMAX": tf.nn.softmax,
    "SPACE_TO_DEPTH": lambda x: tf.nn.space_to_depth(x, 2),
    "SPLIT": lambda x: tf.concat(tf.split(x, 2, 1)[::-1], 1),
    "SQRT": lambda x: tf.sqrt(tf.abs(x)),
    "SQUARE": tf.square,
    "SQUARED_DIFFERENCE": lambda x: tf.math.squared_difference(x, x[:, :1]),
    "STRIDED_SLICE": lambda x: x[:, 1:5, 1:5],
    "STRIDED_SLICE with strides": lambda x: x[:, ::2, ::2],
    "SUB": lambda x: x - x[:, :1],
    "SUM": lambda x: tf.reduce_sum(x, [1, 2]),
    "TANH": tf.tanh,
    "TRANSPOSE": lambda x: tf.transpose(x, [0, 2, 1, 3]),
    "TRANSPOSE of 5 dimensions": lambda x: tf.reshape(
        tf.transpose(tf.reshape(x, [1, 4, 2, 8, 4]), [0, 2, 1, 3, 4]), [1, 8, 8, 4]
    ),
    "TRANSPOSE_CONV": lambda x: tf.nn.conv2d_transpose(x, _KERNELS, [1, 16, 16, 4], 2, "SAME"),
}
"""Functions of an image [1, 8, 8, 4], by the operator that they become, with a word on its use."""


def write_single_operators(folder: Path) -> None:
    """Write NAME-float32.tflite and NAME-int8.tflite for each of `OPERATORS`: some 30 seconds."""
    for name, function in OPERATORS.items():
        image = tf.TensorSpec((1, 8, 8, 4), tf.float32, name="x")
        traced = tf.function(function, input_signature=[image]).get_concrete_function()
        for dtype in ("float32", "int8"):
            converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], tf.Module())
            if dtype == "int8":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = _images
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.inference_input_type = converter.inference_output_type = tf.int8
            (folder / f"{name}-{dtype}.tflite").write_bytes(converter.convert())


def _images():
    return ([_random.normal(size=(1, 8, 8, 4)).astype(np.float32)] for _ in range(8))
