"""PyTorch, timm and the reference's own code, which the model is compared with where they are installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

JAX_COMPILES_QUICKLY = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
"""Environment in which JAX compiles for a CPU in two thirds of the time; the results are the same."""


def require_jax():
    """Skip the test where JAX is not installed."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is a peer: make test-peers")


def import_torch():
    """Return PyTorch; skip the test where it is not installed."""
    return pytest.importorskip("torch", reason="PyTorch is a peer: make test-peers")


def run_timm(function, **arguments):
    """Run a function of timm_peer.py in a process of its own; skip the test where timm is not installed.

    Of its own, as torchvision crashes where TensorFlow is loaded already.
    """
    if not all(importlib.util.find_spec(name) for name in ("torch", "timm", "torchvision")):
        pytest.skip("timm is a peer: make test-peers")
    code = "import sys, json, timm_peer; getattr(timm_peer, sys.argv[1])(**json.loads(sys.argv[2]))"
    subprocess.run(
        [sys.executable, "-c", code, function, json.dumps(arguments, default=str)],
        cwd=Path(__file__).parent,
        check=True,
        capture_output=True,
        text=True,
    )


def reference_convmixer(dim, depth, kernel_size, patch_size, classes=1000, seed=0):
    """Return the model of the reference's convmixer.py (appendix D of the paper), randomized likewise."""
    nn = import_torch().nn

    class Residual(nn.Module):
        def __init__(self, fn):
            super().__init__()
            self.fn = fn

        def forward(self, x):
            return self.fn(x) + x

    def build():
        return nn.Sequential(
            nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size),
            nn.GELU(),
            nn.BatchNorm2d(dim),
            *[
                nn.Sequential(
                    Residual(
                        nn.Sequential(
                            nn.Conv2d(dim, dim, kernel_size, groups=dim, padding="same"), nn.GELU(), nn.BatchNorm2d(dim)
                        )
                    ),
                    nn.Conv2d(dim, dim, kernel_size=1),
                    nn.GELU(),
                    nn.BatchNorm2d(dim),
                )
                for _ in range(depth)
            ],
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Flatten(),
            nn.Linear(dim, classes),
        )

    return randomized(build, seed)


def randomized(build, seed):
    """Build a PyTorch model for evaluation whose normalizations are not at their starting values."""
    torch = import_torch()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = build().eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                # Small variances, as PyTorch's own start shrinks what passes by half in each layer.
                for tensor, low, high in (
                    *((module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5)),
                    *((module.running_mean, -0.3, 0.3), (module.running_var, 0.1, 0.5)),
                ):
                    tensor.uniform_(low, high)
    return model


def images_of(height, width):
    """Return what both sides are given: float32 `[2, height, width, 3]`.

    Coarse squares under noise: of noise alone, every average is the same, and so would be the logits.
    """
    random = np.random.RandomState(0)  # not default_rng: NumPy promises that its numbers stay
    squares = random.normal(size=(2, 4, 4, 3))[:, np.arange(height) * 4 // height][:, :, np.arange(width) * 4 // width]
    return (squares + 0.3 * random.normal(size=(2, height, width, 3))).astype("float32")


def logits_of(peer, images):
    """Run a PyTorch model on `[batch, height, width, channels]`."""
    torch = import_torch()
    with torch.no_grad():
        return peer(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
