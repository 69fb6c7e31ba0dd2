"""A bundle holds what its manifest says, and its files compute what the Keras model does."""

import json
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from bundles import files_of

from keras_convmixer.export import Classifier, read_manifest
from keras_convmixer.export.tflite import conversion as conversions
from keras_convmixer.export.tflite import quantize


def test_the_manifest_says_what_is_there(toy, toy_bundle):
    manifest = json.loads((toy_bundle / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert set(files_of(toy_bundle)) == {*manifest["files"], "manifest.json"}
    assert [artifact["path"] for artifact in manifest["artifacts"]] == [
        "saved_model/1",
        *(f"litert/{name}.tflite" for name in ("float32", "float16", "dynamic", "int8")),
    ]
    assert manifest["model"]["parameters"] == toy.model.count_params()
    assert (toy_bundle / manifest["labels"]).read_text() == "red\ngreen\nblue\n"
    assert manifest["calibration"] == {"images": 100, "source": None, "seed": None, "skipped": []}
    for artifact in manifest["artifacts"]:
        preprocessing = {"height": 8, "width": 8, "channels": 3, "crop_fraction": 1.0}
        assert artifact["preprocessing"].items() > preprocessing.items()
        assert artifact["input"]["range"] == [0, 255]
        assert artifact["output"]["range"] == [0, 1]
        assert artifact["validation"]["images"] == 60
        assert artifact["validation"]["accuracy"] == 1.0
        assert artifact["validation"]["agreement"] == 1.0
        assert artifact["ops"]


def test_sizes_and_checksums_are_what_the_systems_tools_find(toy_bundle):
    manifest = read_manifest(toy_bundle)
    for name, facts in manifest["files"].items():
        printed = subprocess.run(["sha256sum", toy_bundle / name], capture_output=True, text=True, check=True).stdout
        assert printed.split()[0] == facts["sha256"]
        assert (toy_bundle / name).stat().st_size == facts["size"]
    saved_model, float32, *_ = manifest["artifacts"]
    assert float32["sha256"] == manifest["files"][float32["path"]]["sha256"]
    script = "find . -type f -printf '%P\\n' | sort | xargs sha256sum | sort | sha256sum"
    printed = subprocess.run(script, shell=True, cwd=toy_bundle / "saved_model/1", capture_output=True, text=True)
    assert printed.stdout.split()[0] == saved_model["sha256"]


@pytest.mark.parametrize(("name", "dtype"), [("float32", "float32"), ("int8", "uint8")])
def test_tflite_files_hold_what_the_manifest_says(toy, toy_bundle, name, dtype):
    artifact = next(a for a in read_manifest(toy_bundle)["artifacts"] if a["name"] == name)
    interpreter = Interpreter(str(toy_bundle / artifact["path"]))
    classify = interpreter.get_signature_runner("serving_default")
    for side, details in (("input", classify.get_input_details()), ("output", classify.get_output_details())):
        (tensor,) = details.values()
        assert list(details) == [artifact[side]["name"]]
        assert np.dtype(tensor["dtype"]).name == artifact[side]["dtype"] == dtype
        assert tensor["shape"].tolist() == artifact[side]["shape"]
        if dtype == "uint8":
            assert tensor["quantization"] == pytest.approx(tuple(artifact["quantization"][side].values()))
    wrong = 0
    for image, label in zip(toy.test_images, toy.test_labels, strict=True):
        wrong += np.argmax(classify(images=image[None].astype(dtype))["probabilities"]) != label
    assert wrong == 0


def test_int8_is_integer_throughout(toy_bundle):
    interpreter = Interpreter(str(toy_bundle / "litert/int8.tflite"))
    interpreter.allocate_tensors()
    assert {np.dtype(t["dtype"]).name for t in interpreter.get_tensor_details()} <= {"int8", "uint8", "int32"}


def test_float_forms_equal_the_keras_model(toy, toy_bundle):
    expected = toy.model(toy.test_images.astype("float32"), training=False).numpy()
    classify = tf.saved_model.load(str(toy_bundle / "saved_model/1")).signatures["serving_default"]
    np.testing.assert_allclose(classify(images=tf.constant(toy.test_images))["probabilities"], expected, atol=1e-5)
    interpreter = Interpreter(str(toy_bundle / "litert/float32.tflite")).get_signature_runner()
    for image, probabilities in zip(toy.test_images, expected, strict=True):
        actual = interpreter(images=image[None].astype("float32"))["probabilities"]
        np.testing.assert_allclose(actual[0], probabilities, atol=1e-5)


@pytest.mark.slow
def test_logits_are_exported_as_probabilities(toy, tmp_path):
    head = toy.model.layers[-1]
    logits = keras.layers.Dense(3, name="logits")
    model = keras.Model(toy.model.input, logits(toy.model.layers[-2].output))
    logits.set_weights(head.get_weights())
    toy.export(tmp_path / "bundle", model=model, formats=("float32",))
    classify = tf.saved_model.load(str(tmp_path / "bundle/saved_model/1")).signatures["serving_default"]
    actual = classify(images=tf.constant(toy.test_images))["probabilities"]
    np.testing.assert_allclose(actual, toy.model(toy.test_images.astype("float32"), training=False), atol=1e-5)


@pytest.mark.slow
def test_the_target_decides_how_files_of_8_bits_are_deployed(toy, tmp_path):
    pixels = keras.Input((8, 8, 3))
    wide = keras.layers.DepthwiseConv2D(7, padding="same", use_bias=False)  # 49 taps: over what XNNPACK has
    model = keras.Model(pixels, toy.model(wide(pixels)))
    wide.set_weights([np.eye(7)[3][:, None, None, None] * np.eye(7)[3][None, :, None, None] * np.ones((1, 1, 3, 1))])
    formats = ("float32", "float16", "dynamic", "int8")
    manifest = toy.export(tmp_path / "b", model=model, formats=formats, target="litert_int8")
    assert manifest["rejected"] == []
    _, float32, float16, *of_8_bits = manifest["artifacts"]
    assert float32["target"] == "litert"
    assert "TRANSPOSE" not in float32["ops"]
    assert float16["target"] == "litert_gpu"
    assert float16["ops"]["DEPTHWISE_CONV_2D"] < float32["ops"]["DEPTHWISE_CONV_2D"]  # not in pieces
    for artifact in of_8_bits:
        assert artifact["target"] == "litert_int8"
        assert artifact["ops"]["TRANSPOSE"] > 0  # of the blocks
        assert artifact["validation"]["accuracy"] == 1.0
    manifest = toy.export(tmp_path / "b", model=model, formats=("float32", "int8"), target="litert_gpu")
    for artifact in manifest["artifacts"][1:]:
        assert artifact["target"] == "litert_gpu"
        assert artifact["ops"]["DEPTHWISE_CONV_2D"] == float16["ops"]["DEPTHWISE_CONV_2D"]


@pytest.mark.slow
def test_crop_accuracy_and_formats_are_what_was_asked(toy, tmp_path):
    wrong = np.where(np.arange(60) < 15, (toy.test_labels + 1) % 3, toy.test_labels)
    manifest = toy.republish(tmp_path / "b", crop_fraction=0.5, formats=("float32",), validation_labels=wrong)
    assert [artifact["name"] for artifact in manifest["artifacts"]] == ["saved_model", "float32"]
    assert manifest["reference_accuracy"] == 0.75
    assert {artifact["validation"]["accuracy"] for artifact in manifest["artifacts"]} == {0.75}
    assert {artifact["preprocessing"]["crop_fraction"] for artifact in manifest["artifacts"]} == {0.5}
    assert Classifier.load(tmp_path / "b").preprocessing.crop_fraction == 0.5
    manifest = toy.republish(tmp_path / "b", validation_labels=None, formats=())
    assert manifest["reference_accuracy"] is manifest["artifacts"][0]["validation"]["accuracy"] is None


def test_every_calibration_image_counts(toy, tmp_path):
    images = np.minimum(toy.train_images, 100)
    images[-1] = toy.train_images[-1]  # the only one that spans the pixels
    name, convert = "int8", quantize.convert_int8
    with conversions.Conversion(toy.model) as conversion:
        (tensor,) = Interpreter(model_content=convert(conversion, images)).get_input_details()
    assert tensor["quantization"] == pytest.approx((1.0, 0)), name


def test_name_license_and_data_are_where_others_read_them(toy, tmp_path):
    out = tmp_path / "b"
    manifest = toy.republish(
        out, name="My flowers", license="cc-by-4.0", training_data="my own photos, CC BY 4.0", formats=("float32",)
    )
    expected = {"name": "My flowers", "license": "cc-by-4.0", "training_data": "my own photos, CC BY 4.0"}
    assert manifest["model"].items() > expected.items()
    assert "# My flowers" in (out / "README.md").read_text()
    assert b"My flowers" in (out / "litert/float32.tflite").read_bytes()
    assert 'name: "My_flowers"' in (out / "serving/models.config").read_text()
