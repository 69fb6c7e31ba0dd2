"""What timm computed once for weights that a seed makes, so that no refactoring changes the model silently.

This needs no PyTorch. Where timm is installed, `python -c "import timm_peer; timm_peer.write_frozen()"`, run in
tests/shared/peers, computes frozen.npz anew.
"""

from pathlib import Path

import numpy as np
from peers import images_of

FILE = Path(__file__).with_name("frozen.npz")
# Odd and even kernels, a size that the patch does not divide, one that is not square, both activations.
CASES = {
    "odd_gelu": {"dim": 16, "depth": 3, "kernel_size": 9, "patch_size": 7, "activation": "gelu", "size": (56, 56)},
    "even_gelu": {"dim": 12, "depth": 2, "kernel_size": 8, "patch_size": 3, "activation": "gelu", "size": (32, 25)},
    "odd_relu": {"dim": 8, "depth": 4, "kernel_size": 7, "patch_size": 2, "activation": "relu", "size": (17, 30)},
}
CLASSES = 11


def arguments(case):
    return {name: value for name, value in CASES[case].items() if name != "size"}


def images(case):
    return images_of(*CASES[case]["size"])


def tensors(case):
    """Make weights by timm's names, in an order and of spreads that are part of the frozen outputs."""
    dim, depth, kernel_size, patch_size = (CASES[case][n] for n in ("dim", "depth", "kernel_size", "patch_size"))
    random = np.random.RandomState(0)
    result = {}

    def convolution(name, *shape):
        fan_in = np.prod(shape[1:])
        result[f"{name}.weight"] = random.normal(size=shape) / np.sqrt(fan_in)
        result[f"{name}.bias"] = random.uniform(-0.3, 0.3, shape[0])

    def normalization(name):
        for part, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.5, 0.5),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.2, 1),
        ):
            result[f"{name}.{part}"] = random.uniform(low, high, dim)

    convolution("stem.0", dim, 3, patch_size, patch_size)
    normalization("stem.2")
    for block in range(depth):
        convolution(f"blocks.{block}.0.fn.0", dim, 1, kernel_size, kernel_size)
        normalization(f"blocks.{block}.0.fn.2")
        convolution(f"blocks.{block}.1", dim, dim, 1, 1)
        normalization(f"blocks.{block}.3")
    convolution("head", CLASSES, dim)
    return {name: tensor.astype("float32") for name, tensor in result.items()}


def model(case="odd_gelu", **changes):
    """Build the model of a case, with logits and for images of any size."""
    from keras_convmixer import ConvMixer

    fixed = {"classes": CLASSES, "input_shape": (None, None, 3), "classifier_activation": None}
    return ConvMixer(**{**fixed, **arguments(case), **changes})
