"""A format that cannot be made or falls short is left out with the reason; a wrong SavedModel ends the export."""

import errno
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from bundles import rejection, with_weights

from keras_convmixer.export import Classifier, ValidationError, formats, read_manifest
from keras_convmixer.export.serving import artifact as serving_artifact
from keras_convmixer.export.serving.saved_model import write_saved_model
from keras_convmixer.export.tflite import artifact as litert_artifact
from keras_convmixer.export.tflite import conversion as conversions


def convert_another(monkeypatch, name, model):
    """Make a format of another model than the one that is exported."""
    convert = formats.FORMATS[name].convert

    def convert_it(_, images):
        with conversions.Conversion(model) as conversion:
            return convert(conversion, images)

    monkeypatch.setitem(formats.FORMATS, name, formats.Format("", convert_it))


def swap_classes(weights):
    return [*weights[:-2], weights[-2][:, ::-1], weights[-1][::-1]]


def raise_from_converter(model, images):
    raise RuntimeError("tensorflow/lite/kernels/conv.cc:351 bias type mismatch\nNode number 3 failed to prepare.")


def broken_file(model, images):
    return b"no flatbuffer"


def run_out_of_memory(model, images):
    raise MemoryError


@pytest.fixture(scope="module")
def failing(toy, once):
    """A bundle in the making of which every format but float32 went wrong, each in another way; and its manifest."""
    original = litert_artifact.add_metadata

    def fail_once(content, name, description, *arguments):
        if description == formats.FORMATS["float16"].scheme:
            raise KeyError(5)
        return original(content, name, description, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(litert_artifact, "add_metadata", fail_once)
        for name, convert, calibrated in (
            ("int8", raise_from_converter, False),
            ("int16x8", run_out_of_memory, False),
            ("weight_int8", broken_file, True),
        ):
            patched.setitem(formats.FORMATS, name, formats.Format("", convert, calibrated=calibrated))
        names = ("int8", "int16x8", "weight_int8", "float16", "float32")
        out = once("failing", lambda folder: toy.republish(folder / "bundle", formats=names)) / "bundle"
    return out, read_manifest(out)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("int8", "RuntimeError", "int8 was not made: RuntimeError: tensorflow/lite/kernels/conv.cc:351"),
        ("int16x8", "MemoryError", "int16x8 was not made: MemoryError"),
        ("weight_int8", None, "weight_int8 was not made: "),
        ("float16", "KeyError", "float16 was not made: KeyError: 5$"),  # of the writer of metadata
    ],
)
def test_whatever_goes_wrong_with_one_format_the_others_are_published(failing, name, error, words):
    out, manifest = failing
    entry = rejection(manifest, name)
    assert re.match(words, entry["reason"])
    assert "\n" not in entry["reason"]
    assert entry["validation"] is None
    assert error in (None, entry["error"])
    assert [artifact["name"] for artifact in manifest["artifacts"]] == ["saved_model", "float32"]
    assert [path.name for path in (out / "litert").iterdir()] == ["float32.tflite"]
    assert Classifier.load(out).labels == ("red", "green", "blue")


def test_a_full_disk_is_no_formats_fault(toy, former, monkeypatch):
    def convert(model, images):
        raise OSError(errno.ENOSPC, "no space is left on the device: free some", "/tmp")

    monkeypatch.setitem(formats.FORMATS, "int8", formats.Format("", convert))
    with pytest.raises(OSError, match="no space is left"):
        toy.republish(former, formats=("float32", "int8"))


@pytest.fixture(scope="module")
def falling_short(toy, once):
    """A bundle for which every .tflite file but dynamic was made of something else; and its manifest."""
    with pytest.MonkeyPatch.context() as patched:
        for name, change in (
            ("float32", lambda weights: [*weights[:-2], 0.5 * weights[-2], 0.5 * weights[-1]]),
            ("float16", lambda weights: [*weights[:-1], weights[-1] * np.nan]),
            ("weight_int8", swap_classes),
        ):
            convert_another(patched, name, with_weights(toy.model, change))
        patched.setitem(formats.FORMATS, "int8", formats.Format("", conversions.convert_float32))
        names = ("float32", "float16", "int8", "weight_int8", "dynamic")
        out = once("falling_short", lambda folder: toy.republish(folder / "bundle", formats=names)) / "bundle"
    return out, read_manifest(out)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("float32", "float32 differs from the Keras model by up to"),
        ("float16", "float16 returns NaN"),
        ("int8", "int8's input is float32, and must be uint8$"),
        ("weight_int8", "weight_int8 agrees with the Keras model on 33.33% of 60 images"),
    ],
)
def test_a_file_that_falls_short_is_left_out(falling_short, name, words):
    out, manifest = falling_short
    entry = rejection(manifest, name)
    assert entry["error"] == "ValidationError"
    assert re.match(words, entry["reason"])
    assert [artifact["name"] for artifact in manifest["artifacts"]] == ["saved_model", "dynamic"]
    assert [path.name for path in (out / "litert").iterdir()] == ["dynamic.tflite"]


def test_the_numbers_of_a_file_that_falls_short_are_kept(falling_short):
    rejected = rejection(falling_short[1], "weight_int8")
    assert rejected["validation"]["agreement"] == pytest.approx(1 / 3)
    assert rejected["validation"]["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [(swap_classes, "saved_model agrees"), (lambda w: [*w[:-1], 0.9 * w[-1]], "saved_model differs")],
)
def test_a_saved_model_that_is_another_fails_the_export(toy, no_former, monkeypatch, change, words):
    original = serving_artifact.write_serving_model
    other = with_weights(toy.model, change)
    monkeypatch.setattr(serving_artifact, "write_serving_model", lambda model, *arguments: original(other, *arguments))
    with pytest.raises(ValidationError, match=words):
        toy.export(no_former)


def test_a_saved_model_with_another_input_fails_the_export(toy, no_former, monkeypatch):
    def of_float32(model, path, *arguments):
        write_saved_model(toy.model, path, dtype="float32")

    monkeypatch.setattr(serving_artifact, "write_serving_model", of_float32)
    with pytest.raises(ValidationError, match="saved_model's input is float32, and must be uint8"):
        toy.export(no_former)


@pytest.mark.slow
def test_float_operators_between_integer_ends_are_rejected(toy, tmp_path, monkeypatch):
    def convert(conversion, images):
        def configure(converter):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[None].astype("float32")] for image in images)
            converter.inference_input_type = converter.inference_output_type = tf.uint8

        return conversion.run(configure)

    pixels = toy.model.input
    strange = keras.Model(pixels, toy.model(pixels + 1e-3 * keras.ops.sin(pixels)))  # LiteRT's SIN is float only
    monkeypatch.setitem(formats.FORMATS, "int8", formats.Format("", convert))
    entry = rejection(toy.export(tmp_path / "bundle", model=strange, formats=("int8",)), "int8")
    assert entry["reason"] == "int8 has FLOAT32 tensors, and must have none"


@pytest.mark.slow
def test_of_a_model_that_litert_lacks_operators_for_the_saved_model_is_published(toy, tmp_path):
    pixels = toy.model.input
    strange = keras.Model(pixels, toy.model(pixels + 1e-3 * keras.ops.erfinv(pixels / 1000)))
    manifest = toy.export(tmp_path / "bundle", model=strange)
    assert [artifact["name"] for artifact in manifest["artifacts"]] == ["saved_model"]
    assert [entry["name"] for entry in manifest["rejected"]] == ["float32", "float16", "dynamic", "int8"]
    for entry in manifest["rejected"]:
        assert "cannot be converted: LiteRT lacks Erfinv" in entry["reason"]


@pytest.mark.slow
def test_images_that_do_not_span_the_pixels_are_named(toy, tmp_path):
    dim = np.minimum(toy.train_images, 100)
    entry = rejection(toy.republish(tmp_path / "bundle", formats=("int8",), calibration_images=dim), "int8")
    assert "pixels 0..100 instead of 0..255: calibrate with images" in entry["reason"]


@pytest.mark.slow
def test_calibration_images_unlike_those_to_come_are_named(toy, tmp_path):
    dark = np.zeros_like(toy.train_images)
    dark[:, 0, 0] = 255  # so that the pixels' own range is right
    entry = rejection(toy.republish(tmp_path / "bundle", formats=("float32", "int8"), calibration_images=dark), "int8")
    assert re.match(r"int8 cuts off .*% of the values in layer .*: the calibration", entry["reason"])
    assert entry["validation"]["images"] == 60
