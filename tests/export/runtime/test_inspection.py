import json

import pytest
from processes import convmixer

from keras_convmixer.export import inspect
from keras_convmixer.export.tflite.operators import read_operators


def multiplications(dim, depth, kernel, patch, size, classes):
    """Of a ConvMixer, by the paper's layers."""
    positions = (size // patch) ** 2
    return {
        "CONV_2D": positions * dim * (3 * patch**2 + depth * dim),
        "DEPTHWISE_CONV_2D": positions * dim * depth * kernel**2,
        "FULLY_CONNECTED": dim * classes,
    }


@pytest.mark.parametrize("format", ["float32", "float16", "dynamic", "int8"])
def test_counts_are_the_models(toy_bundle, format):
    path = toy_bundle / f"litert/{format}.tflite"
    found = inspect(path)
    assert found.operators == read_operators(path.read_bytes()).counts
    assert found.size == path.stat().st_size
    assert found.labels == ("red", "green", "blue")
    expected = multiplications(dim=8, depth=2, kernel=3, patch=2, size=8, classes=3)
    expected["DEPTHWISE_CONV_2D"] += 4 * 16 * 8  # normalizations as 1x1 ones
    assert found.multiplications == expected


def test_dynamic_runs_inside_xnnpack_whole(toy_bundle):
    found = inspect(toy_bundle / "litert/dynamic.tflite")
    assert found.delegated == found.operators
    assert found.delegated["DEPTHWISE_CONV_2D"] == 6


def test_what_xnnpack_lacks_is_left_to_litert(toy_bundle):
    found = inspect(toy_bundle / "litert/int8.tflite")
    assert found.operators["GELU"] == 5
    assert "GELU" not in found.delegated  # XNNPACK has float GELU only
    assert found.delegated["DEPTHWISE_CONV_2D"] == found.operators["DEPTHWISE_CONV_2D"]


def test_tensors_and_weights(toy_bundle):
    found = inspect(toy_bundle / "litert/int8.tflite")
    assert found.inputs[0].items() >= {"shape": [1, 8, 8, 3], "dtype": "uint8"}.items()
    assert found.inputs[0]["quantization"] == {"scale": pytest.approx(1.0), "zero_point": 0}
    assert set(found.weights) == {"int8", "int32"}
    # Patch embedding, two layers' depthwise and pointwise kernels, four normalizations, classifier; zeros that
    # check the image's height and width.
    assert found.weights["int8"] == 12 * 8 + 2 * (9 * 8 + 64) + 4 * 8 + 24 + 8 + 8 * 3
    assert inspect(toy_bundle / "litert/float32.tflite").inputs[0]["quantization"] is None


def test_the_command_needs_no_tensorflow(toy_bundle):
    process = convmixer("inspect", toy_bundle / "litert/int8.tflite", blocked=("tensorflow", "keras"))
    assert process.returncode == 0, process.stderr
    for words in ("red, green, blue", "DEPTHWISE_CONV_2D", "uint8 [1, 8, 8, 3]"):
        assert words in process.stdout
    process = convmixer("inspect", toy_bundle / "litert/int8.tflite", "--json")
    assert json.loads(process.stdout)["labels"] == ["red", "green", "blue"]


def test_what_is_no_tflite_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.tflite: there is no such file"):
        inspect(tmp_path / "none.tflite")
    (tmp_path / "text.tflite").write_text("not a model")
    process = convmixer("inspect", tmp_path / "text.tflite")
    assert process.returncode == 1
    assert "text.tflite is not a .tflite file that LiteRT can run" in process.stderr


def test_the_command_shows_a_table_of_a_bundles_files(toy_bundle):
    process = convmixer("inspect", toy_bundle, blocked=("tensorflow", "keras"))
    assert process.returncode == 0, process.stderr
    names = ("float32", "float16", "dynamic", "int8")
    for name in names:
        assert f"│ {name} " in process.stdout
    assert f"convmixer inspect {toy_bundle}/litert/float32.tflite" in process.stdout
    found = json.loads(convmixer("inspect", toy_bundle, "--json").stdout)
    assert list(found) == [f"{toy_bundle}/litert/{name}.tflite" for name in names]
    assert found[f"{toy_bundle}/litert/int8.tflite"]["inputs"][0]["dtype"] == "uint8"
    process = convmixer("inspect", toy_bundle.parent)
    assert process.returncode == 1
    assert "is not a bundle" in process.stderr
