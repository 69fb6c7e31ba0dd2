import keras
import numpy as np
import pytest

from keras_convmixer import deploy
from keras_convmixer.export import read_manifest
from keras_convmixer.export.tflite.conversion import Conversion
from keras_convmixer.export.tflite.layer_errors import layer_errors
from keras_convmixer.export.tflite.quantize import convert_int8
from keras_convmixer.export.validation.requirements import CLIPPED


@pytest.fixture(scope="module")
def deployed(toy):
    return deploy(toy.model, "litert", verified=False)


def errors_of(deployed, toy, toy_bundle, format):
    content = (toy_bundle / f"litert/{format}.tflite").read_bytes()
    return {found["layer"]: found["error"] for found in layer_errors(deployed, content, toy.test_images)}


def test_every_layer_but_the_last_is_found_in_order(deployed, toy, toy_bundle):
    for format in ("float32", "dynamic", "int8"):
        found = list(errors_of(deployed, toy, toy_bundle, format))
        assert sorted(found) == sorted(layer.name for layer in deployed.layers[1:-1])
        assert found.index("block_0_depthwise_conv") < found.index("block_1_depthwise_conv")


def test_float32_has_none_and_int8_has_more(deployed, toy, toy_bundle):
    assert max(errors_of(deployed, toy, toy_bundle, "float32").values()) < 1e-5
    int8 = errors_of(deployed, toy, toy_bundle, "int8")
    assert 1e-3 < int8["head_pool"] < 0.3


def test_the_layer_that_hurts_is_seen(deployed, toy, toy_bundle):
    """A file whose model differs in one layer's weights departs there, and not before."""
    copy = keras.models.clone_model(deployed)
    copy.set_weights(deployed.get_weights())
    layer = copy.get_layer("block_1_depthwise_conv")
    layer.set_weights([weight * 1.5 for weight in layer.get_weights()])
    found = errors_of(copy, toy, toy_bundle, "float32")
    names = list(found)
    assert max(found[name] for name in names[: names.index("block_1_depthwise_conv")]) < 1e-5
    assert found["block_1_depthwise_conv"] == pytest.approx(1 / 3, rel=1e-3)


@pytest.mark.parametrize(("unlike", "counts"), [(1, False), (3, False), (6, True)])
def test_values_beyond_the_range_count_where_half_of_the_images_have_any(deployed, toy, unlike, counts):
    """A range covers the calibration images; each other one may exceed it, in a layer of few values by a percent."""
    dark = toy.train_images.copy()
    dark[:, 1:-1] = np.minimum(dark[:, 1:-1], 20)
    with Conversion(deployed) as conversion:
        content = convert_int8(conversion, dark)
    images = np.concatenate([dark[: 8 - unlike], toy.test_images[:unlike]])
    clipped = [layer["clipped"] for layer in layer_errors(deployed, content, images)]
    assert (max(clipped) > CLIPPED) == counts


def test_the_manifest_has_those_of_the_worst_file(toy_bundle):
    found = read_manifest(toy_bundle)["layer_errors"]
    assert found["format"] == "int8"
    assert found["images"] == 8
    assert all(np.isfinite(layer["error"]) for layer in found["layers"])
