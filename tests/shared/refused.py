"""What every test of a refused file of weights asserts."""

import numpy as np
import pytest

import keras_convmixer as kc


def assert_refused(model, path, *words, error=ValueError):
    """Loading fails with one sentence that has these words, and the model is as it was."""
    before = model.get_weights()
    with pytest.raises(error) as caught:
        kc.load_weights(model, path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
