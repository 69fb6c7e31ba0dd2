"""Manifests that were damaged or made to mislead: each is refused in a sentence, whoever signed it."""

import copy
import json
import os
import random
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_convmixer.export import Classifier, read_manifest
from keras_convmixer.export.manifest import NAME, UNSIGNED, _digest, sha256


def sign(bundle, content):
    """Write a manifest as it stands, with its right checksum."""
    text = json.dumps({**content, "sha256": UNSIGNED})
    (bundle / NAME).write_text(text.replace(UNSIGNED, _digest(text)))


@pytest.fixture(scope="module")
def bundle(toy_bundle, tmp_path_factory):
    folder = shutil.copytree(toy_bundle, tmp_path_factory.mktemp("damaged") / "bundle")
    (folder.parent / "outside.txt").write_text("red\ngreen\nblue\n")
    return folder


@pytest.fixture(scope="module")
def manifest(toy_bundle):
    return read_manifest(toy_bundle)


def rename(content, former, name):
    content["files"][name] = content["files"].pop(former)
    if former == content["labels"]:
        content["labels"] = name
    for artifact in content["artifacts"]:
        if artifact["path"] == former:
            artifact["path"] = name


FAULTS = {
    "above": (lambda c: rename(c, "labels.txt", "../outside.txt"), "'../outside.txt', which is not inside the bundle"),
    "absolute": (lambda c: rename(c, "litert/float32.tflite", "/etc/passwd"), "'/etc/passwd', which is not inside"),
    "through": (lambda c: rename(c, "labels.txt", "litert/../../outside.txt"), "which is not inside the bundle"),
    "windows": (lambda c: rename(c, "labels.txt", "C:\\labels.txt"), "which is not inside the bundle"),
    "saved_model": (lambda c: c["artifacts"][0].update(path="../saved_model"), "which is not inside the bundle"),
    "empty": (lambda c: rename(c, "labels.txt", ""), "which is not inside the bundle"),
    "unlisted": (lambda c: c["files"].pop("labels.txt"), "'labels.txt' and has no checksum of it"),
    "size": (lambda c: c["files"]["labels.txt"].update(size=3), "labels.txt was changed"),
    "height": (
        lambda c: c["artifacts"][1]["preprocessing"].update(height=16),
        r"takes images \[8, 8, 3\], and the manifest prepares \[16, 8, 3\]",
    ),
    "channels": (lambda c: c["artifacts"][1]["preprocessing"].update(channels=1), r"prepares \[8, 8, 1\]"),
    "crop": (
        lambda c: c["artifacts"][1]["preprocessing"].update(crop_fraction=0),
        "artifacts/1/preprocessing/crop_fra",
    ),
    "float": (lambda c: c["artifacts"][1]["preprocessing"].update(height=8.0), "8.0 is not of type 'integer'"),
    "enlarged": (
        lambda c: c["artifacts"][1]["preprocessing"].update(crop_fraction=1e-6),
        "preprocessing/crop_fraction",
    ),
    "immense": (lambda c: c["files"]["labels.txt"].update(size=10**13), "labels.txt was changed"),
    "pixels": (lambda c: c["artifacts"][1]["preprocessing"].update(max_pixels=10**12), "preprocessing/max_pixels"),
    "outputs": (lambda c: c.pop("outputs"), "'outputs' is a required property"),
    "binary": (lambda c: c["outputs"].update(kind="binary", threshold=0.5), "3 labels of a binary model"),
    "threshold": (
        lambda c: c["outputs"].update(kind="multi-label", threshold=None),
        "threshold=None: give more",
    ),
    "number": (lambda c: c.update(reference_accuracy=float("nan")), "NaN is not a JSON number"),
    "text": (lambda c: c.update(artifacts="none"), "artifacts: 'none' is not of type 'array'"),
    "schema": (lambda c: c.update(schema="9" * 10**5), "has schema '9999999"),
}


@pytest.mark.parametrize(("damage", "sentence"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_is_said_in_a_sentence(bundle, manifest, damage, sentence):
    content = copy.deepcopy(manifest)
    damage(content)
    sign(bundle, content)
    with pytest.raises(ValueError, match=sentence) as error:
        Classifier.load(bundle)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("digest", ["", "0", "a" * 63, "A" * 64, 64, None])
def test_only_a_checksum_is_compared(bundle, manifest, digest):
    (bundle / NAME).write_text(json.dumps({**manifest, "sha256": digest}))
    with pytest.raises(ValueError, match=r"manifest\.json was changed"):
        read_manifest(bundle)


def test_a_manifest_that_nests_without_end_is_damaged(bundle):
    (bundle / NAME).write_text("[" * 10**5)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        read_manifest(bundle)


@pytest.mark.parametrize("labels", [b"red\ngreen\n", b"red\ngreen\nblue\nviolet\n", b"red\n\xff\nblue\n"])
def test_labels_must_be_as_many_as_the_classes(bundle, toy_bundle, manifest, labels):
    content = copy.deepcopy(manifest)
    (bundle / "labels.txt").write_bytes(labels)
    content["files"]["labels.txt"] = {"size": len(labels), "sha256": sha256(bundle / "labels.txt")}
    sign(bundle, content)
    with pytest.raises(ValueError, match=r"labels\.txt (has \d labels of a single-label model|is not UTF-8 text)"):
        Classifier.load(bundle)
    shutil.copy(toy_bundle / "labels.txt", bundle)


def test_a_manifest_or_file_that_is_a_pipe_is_never_waited_for(bundle, manifest, toy_bundle):
    sign(bundle, manifest)
    (bundle / "labels.txt").unlink()
    os.mkfifo(bundle / "labels.txt")
    with pytest.raises(ValueError, match=r"labels\.txt is a pipe"):
        Classifier.load(bundle)
    (bundle / "labels.txt").unlink()
    shutil.copy(toy_bundle / "labels.txt", bundle)
    (bundle / NAME).unlink()
    os.mkfifo(bundle / NAME)
    with pytest.raises(ValueError, match=r"manifest\.json is a pipe"):
        Classifier.load(bundle)
    (bundle / NAME).unlink()


JUNK = (
    *(None, True, -1, 0, 1, 2, 10**13, 10**30, 1.5, 8.0, 16.0, 1e-6, 1e-300),
    *("", "x", "..", "/", "a/../../b", "\0", [], {}, [[]], {"": ""}, "litert"),
)


def mutate(value, chance):
    """Replace, remove or repeat something at a random place of a JSON document."""
    place, key = None, None
    while isinstance(value, dict | list) and value and chance.random() < 0.9:
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        place, value = value, value[key]
    if place is None:
        return
    how = chance.randrange(3)
    if how == 0:
        del place[key]
    elif how == 1 or not isinstance(place, list):
        place[key] = copy.deepcopy(chance.choice(JUNK))
    else:
        place.insert(key, copy.deepcopy(value))


def test_500_fuzzed_manifests_are_read_or_refused_in_a_sentence(bundle, manifest, tmp_path):
    Image.new("RGB", (20, 20), "green").save(tmp_path / "green.png")
    chance = random.Random(0)
    answered, sentences = 0, []
    for _ in range(500):
        content = copy.deepcopy(manifest)
        for _ in range(chance.choice((1, 1, 2, 4))):
            mutate(content, chance)
        sign(bundle, content)
        try:
            best = Classifier.load(bundle, "float32")(tmp_path / "green.png")
        except ValueError as error:
            sentences.append(str(error))
            continue
        assert {prediction.label for prediction in best} <= {"red", "green", "blue"}
        answered += 1
    assert not [sentence for sentence in sentences if "\n" in sentence or len(sentence) > 600]
    assert 0 < answered < 400  # what is not used for a prediction may be anything that the schema allows


@pytest.mark.parametrize(("value", "sentence"), [(np.nan, "nan to nan"), (7.0, "7 to 7"), (-1.0, "-1 to -1")])
def test_what_is_no_probability_is_an_error(toy_bundle, tmp_path, value, sentence):
    Image.new("RGB", (20, 20), "green").save(tmp_path / "green.png")
    classify = Classifier.load(toy_bundle)
    classify.model = lambda images: np.full((1, 3), value, np.float32)
    with pytest.raises(ValueError, match=rf"green\.png: the model returns {sentence}, which are not probabilities"):
        classify(tmp_path / "green.png")
