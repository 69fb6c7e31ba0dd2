import errno
import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_convmixer.export import Classifier, ValidationError, formats, read_manifest
from keras_convmixer.export.serving import artifact as serving_artifact
from keras_convmixer.export.serving.saved_model import write_saved_model
from keras_convmixer.export.tflite import artifact as litert_artifact
from keras_convmixer.export.tflite import conversion as conversions

RED = (255, 0, 0)


def files_of(bundle):
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def convert_another(monkeypatch, name, model):
    """Make a format of another model than the one that is exported."""
    convert = formats.FORMATS[name].convert

    def convert_it(_, images):
        with conversions.Conversion(model) as conversion:
            return convert(conversion, images)

    monkeypatch.setitem(formats.FORMATS, name, formats.Format("", convert_it))


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


@pytest.fixture
def former(toy_bundle, tmp_path):
    """A bundle that is there before; whatever fails must leave it, and nothing else beside it."""
    out = shutil.copytree(toy_bundle, tmp_path / "bundle")
    before = files_of(out)
    yield out
    assert files_of(out) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


@pytest.fixture
def no_former(tmp_path):
    """A folder with no bundle; whatever fails must leave none."""
    yield tmp_path / "bundle"
    assert list(tmp_path.iterdir()) == []


def with_weights(model, change):
    copy = keras.models.clone_model(model)
    copy.set_weights(change(model.get_weights()))
    return copy


def rejection(manifest, name):
    """The entry of a format that was not published; nothing of it may be in the bundle."""
    assert name not in [artifact["name"] for artifact in manifest["artifacts"]]
    assert not [file for file in manifest["files"] if name in file]
    (entry,) = (entry for entry in manifest["rejected"] if entry["name"] == name)
    return entry


def swap_classes(weights):
    return [*weights[:-2], weights[-2][:, ::-1], weights[-1][::-1]]


def raise_from_converter(model, images):
    raise RuntimeError("tensorflow/lite/kernels/conv.cc:351 bias type mismatch\nNode number 3 failed to prepare.")


def broken_file(model, images):
    return b"no flatbuffer"


def run_out_of_memory(model, images):
    raise MemoryError


@pytest.fixture(scope="module")
def failing(toy, tmp_path_factory):
    """A bundle in the making of which every format but float32 went wrong, each in another way; and its manifest."""
    out = tmp_path_factory.mktemp("failing") / "bundle"
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
        return out, toy.republish(out, formats=("int8", "int16x8", "weight_int8", "float16", "float32"))


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


@pytest.mark.slow
def test_the_target_decides_how_files_of_8_bits_are_deployed(toy, tmp_path):
    pixels = keras.Input((8, 8, 3))
    wide = keras.layers.DepthwiseConv2D(7, padding="same", use_bias=False)  # 49 taps: over what XNNPACK has
    model = keras.Model(pixels, toy.model(wide(pixels)))
    wide.set_weights([np.eye(7)[3][:, None, None, None] * np.eye(7)[3][None, :, None, None] * np.ones((1, 1, 3, 1))])
    manifest = toy.export(tmp_path / "b", model=model, formats=("float32", "dynamic", "int8"), target="litert_int8")
    assert manifest["rejected"] == []
    _, float32, *of_8_bits = manifest["artifacts"]
    assert float32["target"] == "litert"
    assert "TRANSPOSE" not in float32["ops"]
    for artifact in of_8_bits:
        assert artifact["target"] == "litert_int8"
        assert artifact["ops"]["TRANSPOSE"] > 0  # of the blocks
        assert artifact["validation"]["accuracy"] == 1.0


@pytest.fixture(scope="module")
def falling_short(toy, tmp_path_factory):
    """A bundle for which every .tflite file but dynamic was made of something else; and its manifest."""
    out = tmp_path_factory.mktemp("falling_short") / "bundle"
    with pytest.MonkeyPatch.context() as patched:
        for name, change in (
            ("float32", lambda weights: [*weights[:-2], 0.5 * weights[-2], 0.5 * weights[-1]]),
            ("float16", lambda weights: [*weights[:-1], weights[-1] * np.nan]),
            ("weight_int8", swap_classes),
        ):
            convert_another(patched, name, with_weights(toy.model, change))
        patched.setitem(formats.FORMATS, "int8", formats.Format("", conversions.convert_float32))
        return out, toy.republish(out, formats=("float32", "float16", "int8", "weight_int8", "dynamic"))


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
    name, convert = "int8", conversions.convert_int8
    with conversions.Conversion(toy.model) as conversion:
        (tensor,) = Interpreter(model_content=convert(conversion, images)).get_input_details()
    assert tensor["quantization"] == pytest.approx((1.0, 0)), name


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


def test_nan_weights_are_named(toy, former):
    model = with_weights(toy.model, lambda weights: [weights[0] * np.nan, *weights[1:]])
    with pytest.raises(ValueError, match="stem_conv/kernel are NaN or infinite"):
        toy.export(former, model=model)


def test_a_model_that_overflows_is_named(toy, no_former):
    model = with_weights(toy.model, lambda weights: [*weights[:-2], weights[-2] * 1e38, weights[-1]])
    with pytest.raises(ValueError, match="returns NaN or infinity"):
        toy.export(no_former, model=model)


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": ("red", "green")}, "2 labels"),
        ({"calibration_images": np.zeros((3, 8, 8, 3))}, "calibration_images is float64"),
        ({"calibration_images": np.zeros((0, 8, 8, 3), np.uint8)}, "at least one"),
        ({"validation_images": np.zeros((3, 9, 8, 3), np.uint8)}, r"validation_images is uint8 \(3, 9, 8, 3\)"),
        ({"crop_fraction": 2}, "crop_fraction=2"),
        ({"formats": ("float32", "int9")}, "formats has int9: there are float32, float16, dynamic, int8"),
        ({"target": "tensorflow"}, "target='tensorflow': choose 'litert' or 'litert_int8'"),
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


def test_models_that_are_no_image_classifier_are_named(toy, no_former):
    images, more = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    pool, dense = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")
    with pytest.raises(ValueError, match="a classifier takes one image"):
        toy.export(no_former, model=keras.Model([images, more], dense(pool(images + more))))
    anything = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match=r"takes images \(None, None, 3\)"):
        toy.export(no_former, model=keras.Model(anything, dense(pool(anything))))
    with pytest.raises(ValueError, match=r"returns \[\(None, 8, 8, 3\)\]"):
        toy.export(no_former, model=keras.Model(images, images * 2))
    with pytest.raises(ValueError, match="computes in bfloat16"):
        half = keras.layers.Dense(4, dtype="bfloat16")(pool(images))
        toy.export(no_former, model=keras.Model(images, keras.layers.Dense(3, dtype="float32")(half)))


def test_another_backend_is_refused(toy, no_former, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match="export needs Keras on TensorFlow, and it runs on torch"):
        toy.export(no_former)


def test_an_output_that_is_a_file_or_somebody_elses_folder(toy, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="file is a file: name a folder"):
        toy.export(tmp_path / "file")
    with pytest.raises(FileExistsError, match="holds other things than a bundle"):
        toy.export(tmp_path)
    for name, content in (("app/manifest.json", '{"name": "somebody else\'s"}'), ("app/src.js", "precious")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(FileExistsError, match=r"app holds other things than a bundle \(manifest\.json, src\.js\)"):
        toy.export(tmp_path / "app")
    with pytest.raises(ValueError, match="where TensorFlow cannot load a SavedModel"):
        toy.export(tmp_path / "bundle [1]")
    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "app/src.js").read_text() == "precious"


def test_a_file_put_into_a_bundle_is_not_lost(toy, toy_bundle, tmp_path):
    out = tmp_path / "bundle"
    shutil.copytree(toy_bundle, out)
    (out / "NOTES.md").write_text("precious")
    with pytest.raises(FileExistsError, match=r"other things than a bundle \(NOTES\.md\)"):
        toy.export(out)
    assert (out / "NOTES.md").read_text() == "precious"


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
