"""Models, images, arguments and places that no bundle can be made of or in are named."""

import shutil

import keras
import numpy as np
import pytest
from bundles import files_of, with_weights


def test_nan_weights_are_named(toy, former):
    model = with_weights(toy.model, lambda weights: [weights[0] * np.nan, *weights[1:]])
    with pytest.raises(ValueError, match="stem_conv/kernel are NaN or infinite"):
        toy.export(former, model=model)


def test_a_model_that_overflows_is_named(toy, no_former):
    model = with_weights(toy.model, lambda weights: [*weights[:-2], weights[-2] * 1e38, weights[-1]])
    with pytest.raises(ValueError, match="returns NaN or infinity"):
        toy.export(no_former, model=model)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": ("red", "green")}, "2 labels"),
        ({"calibration_images": np.zeros((3, 8, 8, 3))}, "calibration_images is float64"),
        ({"calibration_images": np.zeros((0, 8, 8, 3), np.uint8)}, "at least one"),
        ({"validation_images": np.zeros((3, 9, 8, 3), np.uint8)}, r"validation_images is uint8 \(3, 9, 8, 3\)"),
        ({"crop_fraction": 2}, "crop_fraction=2"),
        ({"formats": ("float32", "int9")}, "formats has int9: there are float32, float16, dynamic, int8"),
        ({"target": "tensorflow"}, "target='tensorflow': choose one of 'litert', 'litert_int8', 'litert_gpu'"),
        ({"validation_labels": np.zeros(59, int)}, r"validation_labels has shape \(59,\)"),
        ({"validation_labels": np.zeros((60, 1), int)}, r"validation_labels has shape \(60, 1\)"),
        ({"class_names": ("red", "green", "red")}, "no two the same"),
        ({"class_names": ("re\nd", "green", "blue")}, "one line each"),
        ({"class_names": ("re\u2028d", "green", "blue")}, "one line each"),
        ({"class_names": ("red", "", "blue")}, "one line each"),
        ({"class_names": "rgb"}, "give strings"),
        ({"class_names": (0, 1, 2)}, "give strings"),
    ],
)
def test_wrong_arguments_are_named(toy, no_former, changes, words):
    with pytest.raises(ValueError, match=words):
        toy.export(no_former, **changes)


def classify(features):
    return keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling2D()(features))


def two_inputs():
    images, more = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    return keras.Model([images, more], classify(images + more))


def images_of_any_size():
    images = keras.Input((None, None, 3))
    return keras.Model(images, classify(images))


def images_as_output():
    images = keras.Input((8, 8, 3))
    return keras.Model(images, images * 2)


def computes_in_bfloat16():
    images = keras.Input((8, 8, 3))
    return keras.Model(images, classify(keras.layers.Dense(4, dtype="bfloat16")(images)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (two_inputs, "a classifier takes one image"),
        (images_of_any_size, r"takes images \(None, None, 3\)"),
        (images_as_output, r"returns \[\(None, 8, 8, 3\)\]"),
        (computes_in_bfloat16, "computes in bfloat16"),
    ],
)
def test_models_that_do_not_classify_images_are_named(toy, no_former, build, words):
    with pytest.raises(ValueError, match=words):
        toy.export(no_former, model=build())


def test_another_backend_is_refused(toy, no_former, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match="export needs Keras on TensorFlow, and it runs on torch"):
        toy.export(no_former)


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        ("file", FileExistsError, "file is a file: name a folder"),
        (".", FileExistsError, "holds other things than a bundle"),
        ("app", FileExistsError, r"app holds other things than a bundle \(manifest\.json, src\.js\)"),
        ("bundle [1]", ValueError, "where TensorFlow cannot load a SavedModel"),
    ],
)
def test_a_file_or_another_folder_is_left_as_it_is(toy, tmp_path, out, error, words):
    (tmp_path / "app").mkdir()
    files = {"file": "precious", "app/manifest.json": '{"name": "somebody else\'s"}', "app/src.js": "precious"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=words):
        toy.export(tmp_path / out)
    assert {name: content.decode() for name, content in files_of(tmp_path).items()} == files


def test_a_file_put_into_a_bundle_is_not_lost(toy, toy_bundle, tmp_path):
    out = tmp_path / "bundle"
    shutil.copytree(toy_bundle, out)
    (out / "NOTES.md").write_text("precious")
    with pytest.raises(FileExistsError, match=r"other things than a bundle \(NOTES\.md\)"):
        toy.export(out)
    assert (out / "NOTES.md").read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "two\nlines"}, r"name='two\\nlines': give one line of text"),
        ({"name": " "}, "name=' ': give one line of text"),
        ({"training_data": ""}, "training_data='': give one line of text"),
        ({"license": "apache 2"}, "license='apache 2': give an SPDX identifier, such as apache-2.0"),
    ],
)
def test_a_name_or_license_that_cannot_be_is_refused(toy, no_former, change, words):
    with pytest.raises(ValueError, match=words):
        toy.export(no_former, **change)
