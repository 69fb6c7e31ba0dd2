"""Weights for RGB images in a model for images of other channels."""

import frozen
import numpy as np
import peers
import pytest
from safetensors.numpy import save_file


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_rgb_weights_are_adapted_to_other_channels(file, caplog, channels):
    model = frozen.model(input_shape=(None, None, channels), weights=file)
    kernel = frozen.tensors("odd_gelu")["stem.0.weight"].transpose(2, 3, 1, 0)
    ours = np.asarray(model.get_layer("stem_conv").kernel)
    if channels == 1:
        np.testing.assert_array_equal(ours[:, :, 0], kernel.sum(2))
        grey = frozen.images("odd_gelu")[..., :1]
        expected = frozen.model(weights=file)(np.repeat(grey, 3, -1))
        np.testing.assert_allclose(model(grey, training=False), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    else:
        expected = np.tile(kernel, (1, 1, 3, 1))[:, :, :channels] * np.float32(3 / channels)
        np.testing.assert_array_equal(ours, expected)
    assert f"weights of the patch embedding for {channels} channels are" in caplog.text


@pytest.mark.peer
def test_timm_adapts_channels_the_same_way(tmp_path):
    cases = {channels: tmp_path / f"{channels}.npy" for channels in (1, 2, 4, 5)}
    tensors = frozen.tensors("odd_gelu")
    save_file(tensors, tmp_path / "a.safetensors")
    np.save(tmp_path / "kernel.npy", tensors["stem.0.weight"])
    peers.run_timm("write_adapted_kernels", kernel=tmp_path / "kernel.npy", cases=cases)
    for channels, path in cases.items():
        model = frozen.model(input_shape=(None, None, channels), weights=tmp_path / "a.safetensors")
        ours = np.asarray(model.get_layer("stem_conv").kernel).transpose(3, 2, 0, 1)
        np.testing.assert_allclose(ours, np.load(path), rtol=1e-6)


def test_only_rgb_is_adapted_and_only_where_the_rest_fits(tmp_path, file):
    grey = {**frozen.tensors("odd_gelu")}
    grey["stem.0.weight"] = grey["stem.0.weight"].sum(1, keepdims=True)
    save_file(grey, tmp_path / "grey.safetensors")
    with pytest.raises(ValueError, match=r"stem.0.weight \[16, 1, 7, 7\], not \[16, 3, 7, 7\]"):
        frozen.model(weights=tmp_path / "grey.safetensors")
    with pytest.raises(ValueError, match=r"stem.0.weight \[16, 3, 7, 7\], not \[16, 1, 5, 5\]"):
        frozen.model(weights=file, patch_size=5, input_shape=(None, None, 1))
