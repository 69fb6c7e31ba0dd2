import hashlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from keras_convmixer import Preprocessing
from keras_convmixer.training import load_dataset, load_images

NATIVE = Preprocessing(8, 8)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", NATIVE)


def test_digits_are_scikit_learns(digits):
    _, everything = load_images("digits", NATIVE)
    source = load_digits()
    assert everything.images.dtype == np.uint8
    np.testing.assert_array_equal(everything.labels, source.target)
    for channel in range(3):
        np.testing.assert_allclose(everything.images[..., channel], source.images * 255 / 16, atol=0.5)
    assert digits.class_names == tuple("0123456789")


def test_splits_are_disjoint_and_complete(digits):
    splits = (digits.train, digits.validation, digits.test)
    assert [len(split) for split in splits] == [1257, 180, 360]
    _, everything = load_images("digits", NATIVE)

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
    (tmp_path / "cat" / "notes.txt").write_text("not a picture, and not named as one")
    return tmp_path


def test_a_folders_subfolders_are_its_labels(folder):
    class_names, split = load_images(str(folder), NATIVE)
    assert class_names == ("cat", "dog")
    assert split.images.shape == (30, 8, 8, 3)
    np.testing.assert_array_equal(split.images[:, 4, 4, 0], np.where(split.labels == 0, 10, 200))
    dataset = load_dataset(str(folder), NATIVE)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [21, 3, 6]
    assert all(set(s.labels) == {0, 1} for s in (dataset.train, dataset.validation, dataset.test))


def test_a_models_labels_decide_the_numbers(folder):
    class_names, split = load_images(str(folder), NATIVE, class_names=("dog", "bird", "cat"))
    assert class_names == ("dog", "bird", "cat")
    np.testing.assert_array_equal(split.images[:, 4, 4, 0], np.where(split.labels == 2, 10, 200))
    with pytest.raises(ValueError, match=r"no label of the model \(dog\)"):
        load_images(str(folder), NATIVE, class_names=("cat", "bird"))


def test_what_is_wrong_with_a_folder(folder, tmp_path):
    with pytest.raises(ValueError, match="no data set 'nowhere'"):
        load_images("nowhere", NATIVE)
    (folder / "eel").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in eel: .*\.png"):
        load_images(str(folder), NATIVE)
    with pytest.raises(ValueError, match="has no subfolders"):
        load_images(str(folder / "eel"), NATIVE)
    with pytest.raises(ValueError, match="pictures of one label only"):
        load_dataset(str(folder / "cat"), NATIVE)
    Image.new("RGB", (8, 8)).save(folder / "eel" / "1.tif")
    assert len(load_images(str(folder), NATIVE)[1]) == 31
    with pytest.raises(ValueError, match="fewer than ten pictures of eel"):
        load_dataset(str(folder), NATIVE)
    with pytest.raises(ValueError, match="the model has a, b: name other data"):
        load_images("digits", NATIVE, class_names=("a", "b"))
    (folder / "eel" / "1.tif").unlink()
    (folder / "eel").rename(folder / ".ipynb_checkpoints")
    assert len(load_images(str(folder), NATIVE)[1]) == 30
    (folder / "dog" / "0.png").write_text("broken")
    with pytest.raises(ValueError, match=r"dog.0\.png is not a picture"):
        load_images(str(folder), NATIVE)
