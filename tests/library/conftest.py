"""A small model with logits, and a file of weights that fits it."""

import frozen
import keras
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def file(tmp_path):
    """Weights of `model`, as timm would have saved them."""
    path = tmp_path / "model.safetensors"
    save_file(frozen.tensors("odd_gelu"), path)
    return path


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return frozen.model()
