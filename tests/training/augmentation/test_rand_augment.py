"""RandAugment's operations against Pillow's, which timm and torchvision call."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from keras_convmixer.training.augmentation.rand_augment import OPERATIONS, SPACES, TIMM, TORCHVISION, RandAugment, apply


def random_images(count=4, size=33, seed=0):
    random = np.random.default_rng(seed)
    coarse = random.integers(20, 230, (count, 5, 5, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size))) for image in coarse])


def applied(name, strength, sign=1.0, space=TIMM, images=None):
    images = random_images() if images is None else images
    count = len(images)
    return apply(
        tf.constant(images),
        tf.fill([count], OPERATIONS.index(name)),
        tf.fill([count], float(strength)),
        tf.fill([count], float(sign)),
        space,
    ).numpy()


def by_pillow(function, images=None):
    images = random_images() if images is None else images
    return np.stack([np.asarray(function(Image.fromarray(image))) for image in images])


ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("strength", [0.0, 4.0, 9.3, 10.0])
@pytest.mark.parametrize("name", ENHANCERS)
def test_enhancements_are_pillows(name, strength, sign):
    expected = by_pillow(lambda image: ENHANCERS[name](image).enhance(max(0.1, 1 + sign * strength * 0.09)))
    difference = np.abs(applied(name, strength, sign).astype(int) - expected)
    assert difference.max() <= 1  # float32 at a boundary of whole numbers
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("strength", [0.0, 3.7, 9.0, 10.0])
def test_tables_are_pillows(strength):
    level = strength / 10
    for name, expected in (
        ("invert", ImageOps.invert),
        (
            "posterize",
            lambda image: ImageOps.posterize(image, 4 - int(level * 4)) if level < 1 else Image.new("RGB", image.size),
        ),
        ("solarize", lambda image: ImageOps.solarize(image, 256 - int(level * 256))),
        ("auto_contrast", ImageOps.autocontrast),
        ("equalize", ImageOps.equalize),
    ):
        np.testing.assert_array_equal(applied(name, strength), by_pillow(expected), err_msg=name)
    added = min(128, int(level * 110))
    table = [min(255, value + added) if value < 128 else value for value in range(256)] * 3
    np.testing.assert_array_equal(applied("solarize_add", strength), by_pillow(lambda image: image.point(table)))
    bits, threshold = 8 - round(level * 4), 255 * (1 - level)
    for name, expected in (
        ("posterize", lambda image: ImageOps.posterize(image, bits)),
        ("solarize", lambda image: ImageOps.solarize(image, threshold)),
    ):
        np.testing.assert_array_equal(applied(name, strength, space=TORCHVISION), by_pillow(expected), err_msg=name)


def test_flat_images_stay_as_they_are():
    flat = np.full((2, 9, 9, 3), 77, np.uint8)
    for name in ("auto_contrast", "equalize"):
        np.testing.assert_array_equal(applied(name, 5, images=flat), flat)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_geometry_is_pillows(name, sign):
    size, amount = 33, sign * 0.6
    matrices = {
        "shear_x": (1, amount * 0.3, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount * 0.3, 1, 0),
        "translate_x": (1, 0, amount * 0.45 * size, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, amount * 0.45 * size),
    }

    def transform(image):
        fill = tuple(map(int, TIMM.fill))
        if name == "rotate":  # clockwise where TensorFlow's goes the other way: the sign is drawn anyway
            return image.rotate(amount * 30, Image.Resampling.BILINEAR, fillcolor=fill)
        arguments = {"resample": Image.Resampling.BILINEAR, "fillcolor": fill}
        return image.transform(image.size, Image.Transform.AFFINE, matrices[name], **arguments)

    signs = (sign, -sign) if name == "rotate" else (sign,)
    expected = by_pillow(transform)
    difference = min(
        (np.abs(applied(name, 6, each).astype(int) - expected)[:, 1:-1, 1:-1] for each in signs),
        key=lambda found: found.mean(),
    )
    assert (difference > 2).mean() < 0.04  # where the filled border is blended with the image
    assert difference.mean() < 2
    assert np.abs(applied(name, 6, sign).astype(int) - random_images()).mean() > 5


@pytest.mark.parametrize("name", SPACES)
def test_every_image_draws_its_own_and_the_same_draws_give_the_same(name):
    space = SPACES[name]
    augment = RandAugment(space, layers=2, magnitude=4.0)
    images = np.repeat(random_images(1), 200, axis=0)
    draws = np.random.default_rng(0).uniform(size=(200, 10)).astype("float32")
    found = augment(tf.constant(images), tf.constant(draws)).numpy()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, augment(tf.constant(images), tf.constant(draws)).numpy())
    np.testing.assert_array_equal(found[50:60], augment(tf.constant(images[50:60]), tf.constant(draws[50:60])).numpy())
    unchanged = (found == images).all((1, 2, 3)).mean()
    # Twice none of the operations: 1/4 where half are applied, 1/14 squared where one of 14 does nothing; some more
    # change nothing on one image.
    least = 0.25 if space.probability == 0.5 else 0.0
    assert least - 0.1 < unchanged < least + 0.15
    assert len({image.tobytes() for image in found}) > 100
