"""Multi-label and binary models, and those that return probabilities already, through the whole of export."""

import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from manifest_schema import check
from mediapipe_peer import CLASSIFY
from PIL import Image
from processes import convmixer, run_forked

from keras_convmixer.export import Classifier, read_manifest
from keras_convmixer.training import evaluate
from keras_convmixer.training.data.dataset import Split

pytestmark = pytest.mark.slow  # the bundles alone take ten seconds each
NAMES = ("red", "not green", "blue")
QUANTIZED = ("float32", "dynamic", "int8")


def several(labels):
    """0 and 1 for each of NAMES; every image of the toy has one or two."""
    return np.stack([labels == 0, labels != 1, labels == 2], -1).astype(int)


def trained(toy, units, labels, loss="binary_crossentropy", activation="sigmoid"):
    """The toy's body with another head, trained on the toy's images."""
    keras.utils.set_random_seed(0)
    features = toy.model.layers[-2].output
    model = keras.Model(toy.model.input, keras.layers.Dense(units, activation)(features))
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile(keras.optimizers.Adam(0.3), loss, jit_compile=False)
    model.fit(toy.train_images, labels, epochs=40, verbose=0)
    return model


@pytest.fixture(scope="module")
def train_labels(toy):
    return np.arange(len(toy.train_images)) % 3


@pytest.fixture(scope="module")
def multi(toy, train_labels, once):
    """A multi-label model and its bundle."""

    def fill(folder):
        model = trained(toy, 3, several(train_labels))
        model.save(folder / "model.keras")
        labels, formats = several(toy.test_labels), ("float32", "int8")
        described = {"class_names": NAMES, "validation_labels": labels, "threshold": 0.4}
        toy.export(folder / "bundle", model=model, formats=formats, **described)

    folder = once("multi_label", fill)
    return keras.saving.load_model(folder / "model.keras"), folder / "bundle"


@pytest.fixture(scope="module")
def binary(toy, train_labels, once):
    """A binary model, which returns a logit, and its bundle."""

    def fill(folder):
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model = trained(toy, 1, (train_labels == 2)[:, None].astype(int), loss, None)
        model.save(folder / "model.keras")
        labels, formats = (toy.test_labels == 2).astype(int), ("float32", "int8")
        described = {"class_names": ("other", "blue"), "validation_labels": labels}
        toy.export(folder / "bundle", model=model, formats=formats, **described)

    folder = once("binary", fill)
    return keras.saving.load_model(folder / "model.keras"), folder / "bundle"


@pytest.fixture
def pictures(toy, tmp_path):
    """A red, a green and a blue image."""
    paths = [tmp_path / f"{name}.png" for name in ("red", "green", "blue")]
    for path, image in zip(paths, toy.test_images, strict=False):
        Image.fromarray(image).save(path)
    return paths


def test_a_multi_label_bundle(toy, multi):
    manifest = read_manifest(multi[1])
    check(manifest)
    outputs = manifest["outputs"]
    assert (outputs["kind"], outputs["threshold"], outputs["added"]) == ("multi-label", 0.4, None)
    assert "sigmoid" in outputs["reason"]
    assert manifest["reference_accuracy"] == 1.0
    assert [artifact["name"] for artifact in manifest["artifacts"]] == ["saved_model", "float32", "int8"]
    for artifact in manifest["artifacts"]:
        assert artifact["validation"]["agreement"] == artifact["validation"]["accuracy"] == 1.0
    # A sigmoid's scale, which loses nothing at either end.
    assert manifest["artifacts"][-1]["quantization"]["output"] == {"scale": 1 / 256, "zero_point": 0}
    card = (multi[1] / "README.md").read_text()
    assert "A multi-label image classifier" in card
    assert "a label is given at 0.4 or more" in card
    assert "exactly the labels that the Keras model gives" in card
    report = (multi[1] / "report.html").read_text()
    assert "A multi-label image classifier" in report
    assert "probability of 0.4 or more" in report


def test_a_binary_bundle(binary):
    manifest = read_manifest(binary[1])
    check(manifest)
    outputs = manifest["outputs"]
    assert (outputs["kind"], outputs["threshold"], outputs["added"]) == ("binary", 0.5, "sigmoid")
    assert manifest["artifacts"][0]["output"]["shape"] == [None, 1]
    for artifact in manifest["artifacts"]:
        assert artifact["validation"]["agreement"] == artifact["validation"]["accuracy"] == 1.0
    assert manifest["artifacts"][-1]["quantization"]["output"] == {"scale": 1 / 256, "zero_point": 0}
    assert (binary[1] / "labels.txt").read_text() == "other\nblue\n"
    assert "the probability of blue, which is given at 0.5 or more, else other" in (binary[1] / "README.md").read_text()


def test_the_card_of_a_binary_bundle_has_python_that_decides_as_predict(binary, pictures, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(binary[1], bundle)
    _, alone, _ = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.DOTALL)
    classify = Classifier.load(bundle)
    for image in pictures:
        shutil.copy(image, bundle / "photo.jpg")
        process = run_forked(alone, blocked=("tensorflow", "keras", "keras_convmixer"), cwd=bundle)
        label, *_, probability = process.stdout.split()
        best, other = classify(image)
        assert label == best.label
        expected = best.probability if best.label == "blue" else other.probability
        assert float(probability) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("format", ["float32", "int8"])
def test_predict_gives_the_labels_over_the_threshold(multi, binary, pictures, format):
    classify = Classifier.load(multi[1], format)
    for picture, expected in zip(pictures, ({"red", "not green"}, set(), {"blue", "not green"}), strict=True):
        found = classify(picture, top=1)
        if expected:  # all of them, though one was asked for
            assert {prediction.label for prediction in found} == expected
            assert all(prediction.present and prediction.probability >= 0.4 for prediction in found)
        else:
            (best,) = found
            assert not best.present
            assert best.probability < 0.4
    classify = Classifier.load(binary[1], format)
    for picture, label in zip(pictures, ("other", "other", "blue"), strict=True):
        first, second = classify(picture)
        assert (first.label, first.present, second.present) == (label, True, False)
        assert first.probability + second.probability == pytest.approx(1)
        assert [prediction.label for prediction in classify(picture, top=1)] == [label]


def test_the_command_prints_what_is_present(multi, pictures):
    process = convmixer("predict", multi[1], *pictures, "--json", blocked=("tensorflow", "keras"))
    red, green, _ = (json.loads(line)["predictions"] for line in process.stdout.splitlines())
    assert [prediction["present"] for prediction in red] == [True, True]
    assert [prediction["present"] for prediction in green] == [False, False, False]
    table = convmixer("predict", multi[1], *pictures, blocked=("tensorflow", "keras")).stdout
    assert "present" in table.splitlines()[1]


def test_signatures_of_a_multi_label_model(toy, multi):
    model, out = multi
    loaded = tf.saved_model.load(str(out / "saved_model/1"))
    answer = loaded.signatures["serving_default"](images=tf.constant(toy.test_images))
    expected = model(toy.test_images.astype("float32"), training=False).numpy()
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(answer["present"], several(toy.test_labels).astype(bool))
    assert answer["names"].shape == answer["classes"].shape == (60, 3)
    damaged = loaded.signatures["encoded"](images=tf.constant([b"damaged"]))
    assert not damaged["present"].numpy().any()
    assert (damaged["classes"].numpy() == -1).all()


def test_signatures_of_a_binary_model(toy, binary):
    loaded = tf.saved_model.load(str(binary[1] / "saved_model/1"))
    answer = loaded.signatures["serving_default"](images=tf.constant(toy.test_images))
    blue = toy.test_labels == 2
    assert answer["probabilities"].shape == (60, 1)
    np.testing.assert_array_equal(answer["classes"].numpy()[:, 0], blue.astype(int))
    np.testing.assert_array_equal(answer["names"].numpy()[:, 0], np.where(blue, b"blue", b"other").astype(object))
    assert "present" not in answer
    assert loaded.signatures["encoded"](images=tf.constant([b"damaged"]))["names"].numpy()[0, 0] == b""


def test_evaluate(toy, multi, binary):
    split = Split(toy.test_images, (toy.test_labels == 2).astype(int))
    result = evaluate(binary[0], split)
    assert result.accuracy == 1.0
    assert [row["images"] for row in result.by_class(("other", "blue"))] == [40, 20]
    with pytest.raises(ValueError, match=r"the model assigns several labels, .* export it with validation_labels"):
        evaluate(multi[0], split)


def test_a_binary_model_of_one_name_and_a_lone_file(toy, binary, tmp_path, pictures):
    out = tmp_path / "bundle"
    blue = (toy.test_labels == 2).astype(int)
    toy.export(out, model=binary[0], class_names=("blue",), validation_labels=blue[:, None], formats=("float32",))
    for classify in (Classifier.load(out), Classifier.load(_lone(out, tmp_path))):
        found = [classify(picture) for picture in pictures]
        assert [[prediction.present for prediction in answer] for answer in found] == [[False], [False], [True]]
    served = tf.saved_model.load(str(out / "saved_model/1")).signatures["serving_default"]
    answer = served(images=tf.constant(toy.test_images))
    np.testing.assert_array_equal(answer["present"].numpy()[:, 0], blue.astype(bool))
    assert set(answer["names"].numpy()[:, 0]) == {b"blue"}


def _lone(bundle, folder):
    (folder / "lone.tflite").write_bytes((bundle / "litert/float32.tflite").read_bytes())
    return folder / "lone.tflite"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": ("a", "b", "c")}, "one output and there are 3 labels: give the negative and the positive one"),
        ({"validation_labels": np.full(60, 2)}, r"validation_labels has 2..2: give 0 or 1"),
        ({"threshold": 1.5}, "threshold=1.5: give more than 0 and less than 1"),
        ({"expected_accuracy": 99}, "expected_accuracy=99: give a fraction"),
        ({"output_kind": "multi-label"}, "the model has 1 outputs: a binary model has 1"),
    ],
)
def test_wrong_arguments_of_a_binary_model_are_named(toy, binary, tmp_path, changes, words):
    blue = (toy.test_labels == 2).astype(int)
    given = {"model": binary[0], "class_names": ("other", "blue"), "validation_labels": blue}
    with pytest.raises(ValueError, match=words):
        toy.export(tmp_path / "bundle", **{**given, **changes})
    assert list(tmp_path.iterdir()) == []


def test_labels_of_several_make_logits_multi_label_and_contradict_a_softmax(toy, tmp_path, train_labels):
    with pytest.raises(ValueError, match=r"multi-label was stated, .* but the model is single-label"):
        toy.export(tmp_path / "bundle", validation_labels=several(toy.test_labels))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model = trained(toy, 3, several(train_labels), loss, None)
    loaded = keras.Model(model.input, model.output)  # whose loss is not known
    labels = several(toy.test_labels)
    content = toy.export(tmp_path / "bundle", model=loaded, validation_labels=labels, formats=())
    assert (content["outputs"]["kind"], content["outputs"]["added"]) == ("multi-label", "sigmoid")
    assert content["reference_accuracy"] == 1.0


def mirrored(model):
    """Test-time augmentation: the mean over an image and its mirror image."""
    images = keras.Input(model.input_shape[1:])
    return keras.Model(images, keras.layers.Average()([model(images), model(ops.flip(images, 2))]))


def of_uint8(model):
    images = keras.Input(model.input_shape[1:], dtype="uint8")
    return keras.Model(images, model(ops.cast(images, "float32")))


@pytest.mark.parametrize("change", [mirrored, of_uint8])
def test_probabilities_stay_what_they_are(toy, tmp_path, change):
    model = change(toy.model)
    manifest = toy.export(tmp_path / "bundle", model=model, formats=QUANTIZED)
    assert manifest["rejected"] == []
    assert manifest["outputs"]["added"] is None
    served = tf.saved_model.load(str(tmp_path / "bundle/saved_model/1")).signatures["serving_default"]
    actual = served(images=tf.constant(toy.test_images))["probabilities"]
    expected = model(toy.test_images.astype(model.inputs[0].dtype), training=False)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_mediapipe_reads_both_kinds(multi, binary, pictures, mediapipe):
    for out, labels in ((multi[1], NAMES), (binary[1], ("blue",))):
        command = [mediapipe, "-c", CLASSIFY, out, "float32,int8", *pictures]
        process = subprocess.run(command, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        for format, answers in json.loads(process.stdout.splitlines()[-1]).items():
            classify = Classifier.load(out, format)
            for picture, scores in zip(pictures, answers, strict=True):
                assert set(scores) == set(labels)
                for prediction in classify(picture):
                    if prediction.label in scores:
                        assert scores[prediction.label] == pytest.approx(prediction.probability, abs=1e-2)
