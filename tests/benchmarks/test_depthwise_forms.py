"""Each form of on_gpu/depthwise.py and its gradients equal Keras's layer: on TensorFlow here, on JAX as a peer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peers import JAX_COMPILES_QUICKLY, require_jax

ON_GPU = Path(__file__).parents[2] / "benchmarks/on_gpu"
# Kernel's side, height, width: odd and even kernels; sizes that no block of rows divides, and smaller than the kernel;
# those of ConvMixer-1536/20.
SIZES = ((3, 7, 7), (4, 7, 6), (9, 11, 13), (2, 5, 8), (1, 3, 4), (7, 8, 8), (9, 4, 5), (9, 32, 32))
# In bfloat16 a rounding changes a value by at most 2^-9 of it. Against the float32 layer of the same rounded inputs,
# the forms round a result once, and pieces, or a tap's products, once more before a sum in float32; their terms may be
# larger than the sum by what cancels, about a factor of 2 in norm: 2^-9 + 2 * 2^-9, below 2^-7.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2**-7}
CHANNELS, BATCH = 3, 2


def differences(dtype: str) -> dict[str, float]:
    """Return by form and size the largest difference from DepthwiseConv2D of output and gradients, over their norm."""
    import keras

    sys.path.insert(0, str(ON_GPU))
    from depthwise import FORMS, layout

    found = {}
    for size, height, width in SIZES:
        random = np.random.default_rng(size)
        shapes = ((BATCH, height, width, CHANNELS), (size, size, CHANNELS), (BATCH, height, width, CHANNELS))
        # The reference computes in float32 on numbers that the dtype holds.
        values = [
            np.array(keras.ops.cast(keras.ops.cast(random.normal(size=shape), dtype), "float32")) for shape in shapes
        ]
        layer = keras.layers.DepthwiseConv2D(size, padding="same", use_bias=False, dtype="float32")
        layer.build(shapes[0])

        def reference(x, kernel, layer=layer):
            variables = [kernel[..., None]]
            return layer.stateless_call(variables, [], x)[0]

        expected = values_and_gradients(reference, *values, "float32")
        for form, function in FORMS.items():
            x, kernel, upstream = values
            channel_major = layout(form) == "channel-major"
            if channel_major:
                x, upstream = (a.transpose(3, 0, 1, 2) for a in (x, upstream))
            y, dx, dk = values_and_gradients(function, x, kernel, upstream, dtype)
            if channel_major:
                y, dx = (a.transpose(1, 2, 3, 0) for a in (y, dx))
            pairs = zip((y, dx, dk), expected, strict=True)
            worst = max(
                float(np.linalg.norm(a - e) / np.linalg.norm(e)) if a.shape == e.shape else np.inf for a, e in pairs
            )
            found[f"{form}, {size}x{size} on {height}x{width}"] = worst
    return found


def values_and_gradients(function, x, kernel, upstream, dtype):
    """Return output and both gradients as float32 arrays, on the backend at hand."""
    import keras

    x, kernel, upstream = (keras.ops.cast(a, dtype) for a in (x, kernel, upstream))
    if keras.backend.backend() == "jax":
        import jax

        def forward_and_backward(x, kernel, upstream):
            y, gradient = jax.vjp(function, x, kernel)
            return y, *gradient(upstream)

        outputs = jax.jit(forward_and_backward)(x, kernel, upstream)  # operation by operation takes minutes
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            y = function(x, kernel)
        outputs = (y, *tape.gradient(y, (x, kernel), upstream))
    assert all(o.dtype == x.dtype for o in outputs)
    return [np.array(keras.ops.cast(o, "float32")) for o in outputs]


def assert_small(found: dict, dtype: str) -> None:
    assert len(found) >= 11 * len(SIZES)
    assert {name: value for name, value in found.items() if not value < TOLERANCES[dtype]} == {}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_form_equals_keras_layer_on_tensorflow(dtype):
    assert_small(differences(dtype), dtype)


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_form_equals_keras_layer_on_jax(dtype):
    require_jax()
    code = "import json, sys, test_depthwise_forms as t; print(json.dumps(t.differences(sys.argv[1])))"
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **JAX_COMPILES_QUICKLY,
    }
    command = [sys.executable, "-c", code, dtype]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, check=True, capture_output=True, text=True
    )
    assert_small(json.loads(done.stdout.splitlines()[-1]), dtype)


def test_paper_cost_counts_the_matrix_products_shapes():
    """The multiplications on paper are those of the products that a form computes, and of a convolution."""
    sys.path.insert(0, str(ON_GPU))
    from depthwise import cost

    assert cost("keras", 64, 32, 32, 1536, 9)["multiplications"] == 64 * 32 * 32 * 1536 * 81
    # 8 blocks of 4 rows an image: [512, 12 * 32] times [12 * 32, 4 * 32] for each channel
    assert cost("banded 4", 64, 32, 32, 1536, 9)["multiplications"] == 1536 * (64 * 8) * (12 * 32) * (4 * 32)
    # read, windows written and read, matrix written and read, result written; 2 bytes a number
    windows, matrix, image = 512 * 384, 384 * 128, 64 * 32 * 32
    assert cost("banded 4", 64, 32, 32, 1536, 9)["bytes"] == 2 * 1536 * (2 * image + 2 * windows + 2 * matrix)
