import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from keras_convmixer import Preprocessing
from keras_convmixer.training import load_dataset, load_images
from keras_convmixer.training.runs.folder import write_damaged_list

NATIVE = Preprocessing(8, 8)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", NATIVE)


def test_digits_are_scikit_learns(digits):
    _, everything, *_ = load_images("digits", NATIVE)
    source = load_digits()
    assert everything.images.dtype == np.uint8
    np.testing.assert_array_equal(everything.labels, source.target)
    for channel in range(3):
        np.testing.assert_allclose(everything.images[..., channel], source.images * 255 / 16, atol=0.5)
    assert digits.class_names == tuple("0123456789")


def test_splits_are_disjoint_and_complete(digits):
    splits = (digits.train, digits.validation, digits.test)
    assert [len(split) for split in splits] == [1257, 180, 360]
    _, everything, *_ = load_images("digits", NATIVE)

    def rows(*chosen):
        return sorted((*split.images.reshape(len(split), -1).tolist(),) for split in chosen)

    assert sorted(sum(rows(*splits), ())) == sorted(everything.images.reshape(1797, -1).tolist())


def test_splits_have_every_label_alike(digits):
    for split in (digits.train, digits.validation, digits.test):
        share = np.bincount(split.labels) / len(split)
        assert share.min() > 0.09
        assert share.max() < 0.11


def test_the_split_is_the_same_for_ever(digits):
    # Whoever compares two models' test accuracy compares them on these images.
    test = hashlib.sha256(digits.test.images.tobytes() + digits.test.labels.tobytes()).hexdigest()
    assert test[:16] == "e61346609b6b015f"


@pytest.fixture
def folder(tmp_path):
    for label, (value, count) in {"cat": (10, 10), "dog": (200, 20)}.items():
        (tmp_path / label / "more").mkdir(parents=True)
        for index in range(count):
            place = tmp_path / label / ("more" if index % 2 else "")
            Image.new("RGB", (9, 12), (value,) * 3).save(place / f"{index}.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image, and not named as one")
    return tmp_path


def test_a_folders_subfolders_are_its_labels(folder):
    class_names, split, *_ = load_images(str(folder), NATIVE)
    assert class_names == ("cat", "dog")
    assert split.images.shape == (30, 8, 8, 3)
    np.testing.assert_array_equal(split.images[:, 4, 4, 0], np.where(split.labels == 0, 10, 200))
    dataset = load_dataset(folder, NATIVE)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [21, 3, 6]
    assert all(set(s.labels) == {0, 1} for s in (dataset.train, dataset.validation, dataset.test))


def test_names_may_hold_any_characters_and_labels_any_but_ends_of_lines(folder, tmp_path):
    place = tmp_path / "named"
    shutil.copytree(folder, place)
    label = sorted(entry.name for entry in place.iterdir())[0]
    for name in ("not utf-8 \udce9", "\x1b[2J[bold]:smile:"):
        shutil.copy(next((place / label).iterdir()), place / label / f"{name}.png")
    (place / label).rename(place / "0 \x1b[1m")
    dataset = load_dataset(str(place), NATIVE)
    assert dataset.class_names[0] == "0 \x1b[1m"
    assert 0 <= dataset.fingerprint < 2**32
    write_damaged_list(dataclasses.replace(dataset, damaged=("\udcff: \x1b[2J",)), tmp_path / "damaged.txt", False)
    assert (tmp_path / "damaged.txt").read_text() == r"\udcff: \x1b[2J" + "\n"
    for name in ("a\nb", "not utf-8 \udce9", "a\u2028b"):
        (place / "0 \x1b[1m").rename(place / name)
        for load in (load_dataset, load_images):
            with pytest.raises(ValueError, match="rename it, as a label must be one line of UTF-8 text"):
                load(str(place), NATIVE)
        (place / name).rename(place / "0 \x1b[1m")


def test_a_models_labels_decide_the_numbers(folder):
    class_names, split, *_ = load_images(str(folder), NATIVE, class_names=("dog", "bird", "cat"))
    assert class_names == ("dog", "bird", "cat")
    np.testing.assert_array_equal(split.images[:, 4, 4, 0], np.where(split.labels == 2, 10, 200))
    with pytest.raises(ValueError, match=r"not labels of the model \(dog\)"):
        load_images(str(folder), NATIVE, class_names=("cat", "bird"))


def save_black_image(path):
    Image.new("RGB", (8, 8)).save(path)


def make_a_label(folder, images=0):
    (folder / "eel").mkdir()
    for index in range(images):
        save_black_image(folder / "eel" / f"{index}.tif")


def damage_an_image(folder):
    (folder / "dog" / "0.png").write_text("broken")


@pytest.mark.parametrize(
    ("load", "change", "name", "words"),
    [
        (load_images, None, "nowhere", "no data set 'nowhere'"),
        (load_images, make_a_label, ".", r"no images in eel: .*\.png"),
        (load_images, make_a_label, "eel", "has no subfolders"),
        (load_dataset, None, "cat", "images of one label only"),
        (load_dataset, lambda folder: make_a_label(folder, images=1), ".", "fewer than ten images of eel"),
        (
            load_images,
            damage_an_image,
            ".",
            r"1 of 30 images are damaged, more than 1%: .*dog.0\.png is not an image",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(folder, monkeypatch, load, change, name, words):
    monkeypatch.chdir(folder)
    if change:
        change(folder)
    with pytest.raises(ValueError, match=words):
        load(name, NATIVE)


def test_a_label_may_have_one_image_and_hidden_folders_are_none(folder):
    make_a_label(folder, images=1)
    assert len(load_images(str(folder), NATIVE).split) == 31
    (folder / "eel").rename(folder / ".ipynb_checkpoints")
    assert len(load_images(str(folder), NATIVE).split) == 30


def test_digits_for_a_model_with_other_labels_are_refused():
    with pytest.raises(ValueError, match="the model has a, b: name other data"):
        load_images("digits", NATIVE, class_names=("a", "b"))


def colour_images(count, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return images, np.arange(count) % 3


def prepare(folder, counts, file_format):
    """Write a data set of images of three colours as tensorflow-datasets keeps it, so many in each split."""
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["red", "green", "blue"]),
        }
    )

    def split(count, seed):
        images, labels = colour_images(count, seed)
        pairs = zip(images, labels, strict=True)
        return [(key, {"image": image, "label": label}) for key, (image, label) in enumerate(pairs)]

    tfds.dataset_builders.store_as_tfds_dataset(
        "colours",
        version="1.0.0",
        features=features,
        split_datasets={name: split(count, seed) for seed, (name, count) in enumerate(counts.items())},
        data_dir=folder,
        disable_shuffling=True,
        file_format=file_format,
    )
    # Without which tensorflow-datasets does not know which feature is the label.
    information = next(folder.rglob("dataset_info.json"))
    content = json.loads(information.read_text())
    content["supervisedKeys"] = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    information.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def prepared(request, tmp_path_factory):
    """A data set of 100 training images and 12 test images."""
    return prepare(tmp_path_factory.mktemp("tfds"), {"train": 100, "test": 12}, request.param)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_data_set_of_one_split_is_divided_as_a_folder(tmp_path, split):
    """As tf_flowers and most others of the catalog."""
    folder = prepare(tmp_path / "tfds", {split: 60}, "tfrecord")
    images, labels = colour_images(60, 0)
    photos = tmp_path / "photos"
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        (photos / f"{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(photos / f"{label}/{index:02}.png")
    ours, divided = (load_dataset(name, NATIVE, data_dir=str(folder)) for name in ("colours", str(photos)))
    assert ours.class_names == ("red", "green", "blue")
    parts = [getattr(ours, part) for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [42, 6, 12]
    for part, same in zip(parts, (divided.train, divided.validation, divided.test), strict=True):
        np.testing.assert_array_equal(np.bincount(part.labels), np.bincount(same.labels))
    together = np.concatenate([part.images for part in parts]).reshape(60, -1)
    assert sorted(map(tuple, together)) == sorted(map(tuple, images.reshape(60, -1)))
    again = load_dataset("colours", NATIVE, data_dir=str(folder))
    np.testing.assert_array_equal(again.test.images, ours.test.images)
    assert again.fingerprint == ours.fingerprint


def test_a_data_set_of_one_split_needs_ten_images_of_each_label(tmp_path):
    folder = prepare(tmp_path, {"train": 29}, "tfrecord")
    with pytest.raises(ValueError, match="colours has fewer than ten images of blue: to split it"):
        load_dataset("colours", NATIVE, data_dir=str(folder))


def test_several_splits_without_one_to_test_with_are_named(tmp_path):
    folder = prepare(tmp_path, {"train": 30, "extra": 30}, "tfrecord")
    with pytest.raises(ValueError, match="has the splits train, extra: name one with train and test"):
        load_dataset("colours", NATIVE, data_dir=str(folder))


def test_a_data_set_of_tensorflow_datasets(prepared):
    dataset = load_dataset("colours", Preprocessing(8, 8), data_dir=str(prepared))
    assert dataset.class_names == ("red", "green", "blue")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (90, 10, 12)
    images, labels = colour_images(100, 0)
    held = np.arange(9, 100, 10)
    np.testing.assert_array_equal(dataset.train.images, np.delete(images, held, 0))
    np.testing.assert_array_equal(dataset.validation.labels, labels[held])
    np.testing.assert_array_equal(dataset.test.images, colour_images(12, 1)[0])
    larger = load_dataset("colours", Preprocessing(16, 16), data_dir=str(prepared))
    assert larger.test.images.shape == (12, 16, 16, 3)
    with pytest.raises(ValueError, match="colours has the labels red, green, blue, which are not the model's"):
        load_dataset("colours", Preprocessing(8, 8), ("a", "b", "c"), data_dir=str(prepared))


def test_a_data_set_that_is_not_prepared_is_named_with_the_command(tmp_path):
    with pytest.raises(
        ValueError, match=r"the data set mnist is not in .*: get it with `python -c .*builder\('mnist', data_dir='"
    ):
        load_dataset("mnist", Preprocessing(8, 8), data_dir=tmp_path)


@pytest.mark.parametrize("as_given", [str, Path])
def test_a_folder_that_is_missing_is_named(tmp_path, as_given):
    for load in (load_dataset, load_images):
        with pytest.raises(ValueError, match=r"^no data set '.*/missing': give 'digits', "):
            load(as_given(tmp_path / "missing"), NATIVE)


@pytest.fixture
def split_folder(tmp_path):
    """Folders train and val, with 30 and 3 images of each of two labels, no two of the same grey."""
    for split, count in (("train", 30), ("val", 3)):
        for label, value in (("cat", 10), ("dog", 200)):
            (tmp_path / split / label).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (value + index,) * 3).save(tmp_path / split / label / f"{index:02}.png")
    return tmp_path


def test_without_a_test_folder_val_is_for_testing_and_a_tenth_of_train_for_validation(split_folder):
    dataset = load_dataset(str(split_folder), NATIVE)
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (54, 6, 6)
    assert sorted(dataset.validation.images[:, 0, 0, 0]) == [19, 29, 39, 209, 219, 229]
    np.testing.assert_array_equal(dataset.test.images[:, 0, 0, 0], [10, 11, 12, 200, 201, 202])


@pytest.fixture
def three_split_folder(split_folder):
    """Folders train, validation and test."""
    (split_folder / "val").rename(split_folder / "test")
    shutil.copytree(split_folder / "train", split_folder / "validation")
    return split_folder


def test_three_split_folders_are_kept(three_split_folder):
    dataset = load_dataset(str(three_split_folder), NATIVE)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (60, 60, 6)


def add_a_label_to_test(folder):
    (folder / "test/eel").mkdir()
    save_black_image(folder / "test/eel/1.png")


def remove_a_label(folder, *splits):
    for split in splits:
        shutil.rmtree(folder / split / "dog")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add_a_label_to_test, r"test has subfolders that are not labels of the model \(eel\)"),
        (
            lambda folder: (folder / "holdout").mkdir(),
            "has the subfolders holdout, test, train, validation: beside a train",
        ),
        (lambda folder: remove_a_label(folder, "train"), r"not labels of the model \(dog\)"),
        (lambda folder: remove_a_label(folder, "train", "validation", "test"), "images of one label only"),
    ],
)
def test_what_is_wrong_with_split_folders_is_named(three_split_folder, change, words):
    change(three_split_folder)
    with pytest.raises(ValueError, match=words):
        load_dataset(str(three_split_folder), NATIVE)


def test_a_label_may_be_called_train(tmp_path):
    for label in ("bus", "train", "test"):
        (tmp_path / label).mkdir()
        for index in range(10):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / label / f"{index}.png")
    assert load_dataset(str(tmp_path), NATIVE).class_names == ("bus", "test", "train")
