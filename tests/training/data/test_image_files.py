"""Images that are decoded when they are needed against the same ones in memory."""

import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from processes import run_python

from keras_convmixer import Preprocessing
from keras_convmixer.training import RECIPES, Split, load_dataset, train
from keras_convmixer.training import trainer as loop
from keras_convmixer.training.data import dataset as data
from keras_convmixer.training.data import lazy_images
from keras_convmixer.training.data.batches import InputPipeline
from keras_convmixer.training.devices.replicas import Replicas
from keras_convmixer.training.evaluation import evaluate

NATIVE = Preprocessing(8, 8)
ONE = Replicas(tf.distribute.get_strategy(), "one_device")
RECIPE = RECIPES["digits"].replace(
    **{"name": "photos", "image_size": 8, "dim": 8, "depth": 1, "epochs": 2, "batch_size": 16, "flip": True},
    **{"rand_augment": "timm", "rand_augment_num_ops": 1, "erasing_probability": 0.5, "mixup_alpha": 0.3},
)


def save(folder, count=40, size=(8, 8), **options):
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            image = Image.fromarray(random.integers(0, 256, (*size, 3)).astype(np.uint8))
            image.save(folder / label / f"{index:03}.png", **options)
    return str(folder)


@pytest.fixture
def beyond_memory(monkeypatch):
    monkeypatch.setattr(data, "_fits", lambda *arguments: False)


def batches(split, start=0, **changes):
    recipe = RECIPE.replace(**changes)
    pipeline = InputPipeline(split, 2, recipe.augmentation, recipe.optimization.batch_size, recipe.seed)
    return [[tensor.numpy() for tensor in batch] for batch in pipeline.batches(ONE, start, 6)]


@pytest.mark.slow
def test_a_stream_is_what_memory_would_give(tmp_path, monkeypatch):
    folder = save(tmp_path)
    held = load_dataset(folder, NATIVE)
    monkeypatch.setattr(data, "_fits", lambda *arguments: False)
    streamed = load_dataset(folder, NATIVE)
    assert isinstance(held.train.images, np.ndarray)
    for split in ("train", "validation", "test"):
        one, other = getattr(held, split), getattr(streamed, split)
        assert isinstance(other.images, lazy_images.LazyImages)
        assert other.images.shape == one.images.shape
        np.testing.assert_array_equal(other.images[:], one.images)
        np.testing.assert_array_equal(other.images[np.array([2, 1])], one.images[[2, 1]])
        np.testing.assert_array_equal(other.images[3], one.images[3])
        np.testing.assert_array_equal(other.labels, one.labels)
    for one, other in zip(batches(held.train), batches(streamed.train), strict=True):
        for expected, found in zip(one, other, strict=True):
            np.testing.assert_array_equal(expected, found)


@pytest.mark.slow
def test_a_stream_goes_on_where_it_stopped(tmp_path):
    split = load_dataset(save(tmp_path, size=(20, 31)), NATIVE, keep_originals=True).train
    assert isinstance(split.images, lazy_images.LazyImages)
    crops = {"crop_scale": 0.3, "crop_ratio": 4 / 3}
    for one, other in zip(batches(split, **crops)[2:], batches(split, start=2, **crops), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    first, again = (batches(split, seed=seed, **crops)[0][0] for seed in (0, 1))
    assert np.abs(first - again).mean() > 10


def test_crops_are_cut_out_of_the_upright_image(tmp_path):
    (tmp_path / "cat").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    turned = Image.fromarray(np.rot90(image))
    exif = turned.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    turned.save(tmp_path / "cat/1.png", exif=exif)
    source = lazy_images.Files([tmp_path / "cat/1.png"], np.array([0]))
    upright = lazy_images.decode_and_validate(source, NATIVE, in_memory=False).images
    np.testing.assert_array_equal(upright.sizes, [[20, 30]])
    np.testing.assert_array_equal(upright.cut(0, [3, 5, 8, 8], False), image[3:11, 5:13])
    enlarged = upright.cut(0, [3, 5, 4, 6], True)
    expected = Image.fromarray(image[3:7, 5:11]).resize((8, 8), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(enlarged, np.asarray(expected))


def test_half_are_resized_bicubic(tmp_path, monkeypatch):
    split = load_dataset(save(tmp_path, size=(20, 20)), NATIVE, keep_originals=True).train
    seen = []

    def cut(self, index, box, bicubic):
        seen.append(bool(bicubic))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(lazy_images.LazyImages, "cut", cut)
    batches(split, crop_scale=0.5)
    assert len(seen) == 96
    assert 30 < sum(seen) < 66


def test_a_damaged_image_moves_no_other_one(tmp_path):
    folder = save(tmp_path / "photos", count=100)
    whole = load_dataset(folder, NATIVE)
    (tmp_path / "photos/cat/003.png").write_bytes(b"")
    damaged = load_dataset(folder, NATIVE)

    def rows(split):
        return {tuple(image.ravel()) for image in split.images}

    for name in ("train", "validation", "test"):
        assert rows(getattr(damaged, name)) <= rows(getattr(whole, name))
    assert whole.fingerprint != damaged.fingerprint
    assert whole.fingerprint == load_dataset(save(tmp_path / "again", count=100), NATIVE).fingerprint


def test_the_systems_errors_are_not_damage(tmp_path, monkeypatch):
    folder = save(tmp_path)

    def fail(*arguments, **options):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        load_dataset(folder, NATIVE)


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_images(tmp_path, monkeypatch):
    folder = save(tmp_path / "photos")
    recipe = RECIPE.replace(dataset=folder)

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "run", verbose=False)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/cat/new.png")
    with pytest.raises(FileExistsError, match=r"begun with other images than .* has now"):
        train(recipe, tmp_path / "run", verbose=False)
    assert train(recipe, tmp_path / "run", overwrite=True, verbose=False)["training_images"] == 56


@pytest.mark.usefixtures("no_figures")
@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [True, False])
def test_damaged_images_are_left_out_and_named(tmp_path, capfd, monkeypatch, in_memory):
    folder = save(tmp_path / "photos", count=75)
    whole = load_dataset(folder, NATIVE)
    content = (tmp_path / "photos/dog/007.png").read_bytes()
    (tmp_path / "photos/dog/007.png").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(data, "_fits", lambda *arguments: in_memory)
    dataset = load_dataset(folder, NATIVE)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert sum(map(len, splits)) == 149
    assert len(dataset.damaged) == 1
    assert "007.png is damaged" in dataset.damaged[0]
    images = np.concatenate([split.images[:] for split in splits]).reshape(149, -1)
    before = np.concatenate([split.images for split in (whole.train, whole.validation, whole.test)]).reshape(150, -1)
    assert {tuple(row) for row in images} < {tuple(row) for row in before}

    recipe = RECIPE.replace(dataset=folder, epochs=1)
    summary = train(recipe, tmp_path / "run")
    assert summary["damaged_images"] == 1
    assert "007.png is damaged" in (tmp_path / "run/damaged.txt").read_text()
    assert "1 image is damaged and left out, see" in capfd.readouterr().err

    (tmp_path / "photos/cat/001.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 150 images are damaged, more than 1%: .*001\.png.*007\.png"):
        load_dataset(folder, NATIVE)


@pytest.mark.slow
def test_a_streamed_run_ends_as_one_in_memory(tmp_path, monkeypatch):
    folder = save(tmp_path / "photos")
    recipe = RECIPE.replace(dataset=folder)
    one = train(recipe, tmp_path / "memory", verbose=False)
    monkeypatch.setattr(data, "_fits", lambda *arguments: False)
    other = train(recipe, tmp_path / "stream", verbose=False)
    assert (tmp_path / "memory/metrics.csv").read_text() == (tmp_path / "stream/metrics.csv").read_text()
    assert one["test_loss"] == other["test_loss"]
    assert (tmp_path / "stream/predictions.png").exists()


def test_evaluation_keeps_the_order(tmp_path, beyond_memory):
    import keras

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for index in range(23):
        Image.new("RGB", (8, 8), (index * 10,) * 3).save(tmp_path / "ab"[index % 2] / f"{index:02}.png")
    split = load_dataset(str(tmp_path), NATIVE).train
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))
    streamed = evaluate(model, split, batch_size=3)
    held = evaluate(model, Split(split.images[:], split.labels), batch_size=3)
    np.testing.assert_array_equal(streamed.probabilities, held.probabilities)


@pytest.mark.slow
def test_an_image_that_vanishes_is_named_and_the_process_ends(tmp_path):
    folder = save(tmp_path / "photos", 20, (16, 16))
    code = """
import dataclasses, pathlib, random, sys, time
from keras_convmixer.training import RECIPES, train
from keras_convmixer.training.data.batches import InputPipeline
from keras_convmixer.training.data.lazy_images import LazyImages
begun, cut = InputPipeline.batches, LazyImages.cut

def slow(*arguments):  # so that TensorFlow is calling Python when the process exits
    time.sleep(random.uniform(0, 1))
    return cut(*arguments)

LazyImages.cut = slow

def then_vanishing(*arguments):
    batches = begun(*arguments)
    for path in pathlib.Path(sys.argv[1]).glob("*/*.png"):
        path.rename(path.with_suffix(".gone"))
    return batches

InputPipeline.batches = then_vanishing
small = dict(image_size=8, dim=8, depth=1, patch_size=2, kernel_size=3, batch_size=4, weights="")
train(RECIPES["finetune"].replace(dataset=sys.argv[1], **small), pathlib.Path(sys.argv[2]))
"""
    ended = run_python(code, folder, tmp_path / "run", check=False, timeout=100)
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.rstrip().splitlines()[-1]
    assert re.fullmatch(
        r"keras_convmixer.training.data.batches.Unreadable: \S+/\d+.png: there is no such file; it could be read when "
        r"training began: put it back, and run the same command to resume",
        last,
    )
