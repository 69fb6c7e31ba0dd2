"""An image may be a path, a file's content, an array or a Pillow image, alone or in a batch."""

import re

import numpy as np
import pytest
from PIL import Image

import keras_convmixer as kc
from keras_convmixer.images.decoding import read_image

PREPROCESSING = kc.Preprocessing(16, 24)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture
def path(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def sources(path, pixels):
    return [path, str(path), path.read_bytes(), pixels, Image.fromarray(pixels), Image.open(path)]


def test_every_kind_of_source_gives_the_same_pixels(path, pixels):
    expected = PREPROCESSING.apply(Image.fromarray(pixels))
    for source in sources(path, pixels):
        np.testing.assert_array_equal(PREPROCESSING.load(source), expected)
    np.testing.assert_array_equal(PREPROCESSING.apply(pixels), expected)


def test_a_batch_mixes_kinds_and_an_array_is_a_batch(path, pixels):
    expected = PREPROCESSING.load(path)
    batch = PREPROCESSING.batch(sources(path, pixels))
    assert (batch.shape, batch.dtype) == ((6, 16, 24, 3), np.uint8)
    assert all((image == expected).all() for image in batch)
    np.testing.assert_array_equal(PREPROCESSING.batch(np.stack([pixels] * 6)), batch)
    assert PREPROCESSING.batch([]).shape == (0, 16, 24, 3)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1)])
def test_grey_arrays(pixels, shape):
    grey = pixels[..., 0].reshape(shape)
    np.testing.assert_array_equal(kc.Preprocessing(40, 50, channels=1).load(grey)[..., 0], pixels[..., 0])
    np.testing.assert_array_equal(kc.Preprocessing(40, 50).load(grey), np.stack([pixels[..., 0]] * 3, -1))


def test_tensors_are_arrays(pixels):
    import tensorflow as tf

    np.testing.assert_array_equal(PREPROCESSING.load(tf.constant(pixels)), PREPROCESSING.load(pixels))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_a_pillow_image_is_read_as_its_file_would_be(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.arange(0, 65536, 512, dtype=np.uint16).reshape(8, 16))
    else:
        image = Image.new("RGBA", (16, 8), (90, 90, 90, 0)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "photo.png", exif=exif)
    opened = Image.open(tmp_path / "photo.png")
    before = (opened.size, opened.mode)
    np.testing.assert_array_equal(read_image(opened), read_image(tmp_path / "photo.png"))
    assert (opened.size, opened.mode) == before
    assert read_image(opened).size == (8, 16)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.zeros((8, 8, 3)), "the image is an array [8, 8, 3] of float64: give uint8 pixels 0..255, [height, width"),
        (np.zeros((8, 8, 4), np.uint8), "the image is an array [8, 8, 4] of uint8: give uint8 pixels"),
        (np.zeros((3, 8, 8), np.uint8), "the image is an array [3, 8, 8] of uint8: give uint8 pixels"),
        (np.zeros((5, 8, 8, 3), np.uint8), "[5, 8, 8, 3] of uint8, which goes to batch: give uint8 pixels"),
        (np.zeros((1, 8, 3), np.uint8), "the image is 8x1 pixels, too small to show anything"),
        (["a.png", "b.png"], "the image is a list: give a path, the content of a file, an array or a Pillow image"),
        (None, "the image is a NoneType: give a path"),
        (Image.new("F", (8, 8)), "the image has 32-bit pixels"),
        (Image.new("RGB", (1, 8)), "the image is 1x8 pixels, too small"),
        (b"text", "the image is not an image that Pillow can read"),
    ],
)
def test_what_is_wrong_with_a_source_is_one_sentence(source, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        PREPROCESSING.load(source)


def test_the_limit_of_pixels_holds_for_arrays_too(pixels):
    small = kc.Preprocessing(16, 24, max_pixels=1999)
    for source in (pixels, Image.fromarray(pixels)):
        with pytest.raises(ValueError, match=r"is too large \(50x40 pixels, and the limit is 0\.001999 million"):
            small.load(source)
