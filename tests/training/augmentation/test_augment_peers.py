"""What is drawn for each image against what timm draws, over many draws."""

import json
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from peers import run_timm

from keras_convmixer.training import RECIPES
from keras_convmixer.training.augmentation import rand_augment
from keras_convmixer.training.augmentation.augment import Augmentation

pytestmark = pytest.mark.peer
COUNT, SIZE, CROP = 6400, (80, 50), 32
NAMES = {
    **{"AutoContrast": "auto_contrast", "Equalize": "equalize", "Invert": "invert", "Rotate": "rotate"},
    **{"PosterizeIncreasing": "posterize", "SolarizeIncreasing": "solarize", "SolarizeAdd": "solarize_add"},
    **{"ColorIncreasing": "color", "ContrastIncreasing": "contrast", "BrightnessIncreasing": "brightness"},
    **{"SharpnessIncreasing": "sharpness", "ShearX": "shear_x", "ShearY": "shear_y"},
    **{"TranslateXRel": "translate_x", "TranslateYRel": "translate_y"},
}


@pytest.fixture(scope="module")
def timm(tmp_path_factory):
    path = tmp_path_factory.mktemp("timm") / "augmentation.json"
    run_timm("write_augmentation", path=path, count=COUNT, size=SIZE, crop=CROP)
    return json.loads(path.read_text())


def ours(**changes):
    recipe = RECIPES["imagenet_1536_20"].replace(**changes)
    return Augmentation(recipe.augmentation, 10, 64, recipe.seed, tf.range(64))


def each_step(function):
    return np.concatenate([function(tf.constant(step)) for step in range(COUNT // 64)])


def test_boxes(timm):
    width, height = SIZE
    boxes = each_step(lambda step: ours().boxes(step, tf.fill([64], height), tf.fill([64], width)))
    for column in range(4):
        quantiles = [
            np.quantile(np.array(each)[:, column], [0.1, 0.3, 0.5, 0.7, 0.9]) for each in (boxes, timm["boxes"])
        ]
        np.testing.assert_allclose(*quantiles, atol=2)


def test_operations_and_strengths(timm, monkeypatch):
    operations, strengths = Counter(), []

    def record(images, chosen, drawn, signs, space):
        operations.update(rand_augment.OPERATIONS[number] for number in chosen.numpy())
        strengths.extend(drawn.numpy())
        return images

    monkeypatch.setattr(rand_augment, "apply", record)
    empty = tf.zeros((64, 4, 4, 3), tf.uint8)
    each_step(lambda step: ours(flip=False).flip_and_recolor(step, empty))
    theirs = {NAMES[name]: count for name, count in timm["operations"].items()}
    assert set(theirs) == set(NAMES.values()) == set(operations) - {"identity"}
    assert operations["identity"] == pytest.approx(COUNT, rel=0.05)  # half of two each
    for name, count in theirs.items():
        assert operations[name] == pytest.approx(count, rel=0.25)  # about 430 each
    assert np.mean(strengths) == pytest.approx(np.mean(timm["strengths"]), abs=0.05)
    assert np.std(strengths) == pytest.approx(np.std(timm["strengths"]), abs=0.05)


def test_erased_shares(timm):
    grey = tf.fill((64, CROP, CROP, 3), 100.0)
    erased = each_step(
        lambda step: tf.reduce_mean(tf.cast(tf.reduce_any(ours().erase(step, grey) != 100, -1), tf.float32), (1, 2))
    )
    theirs = np.array(timm["erased"])
    assert (erased > 0).mean() == pytest.approx((theirs > 0).mean(), abs=0.02)
    quantiles = [np.quantile(each[each > 0], [0.1, 0.3, 0.5, 0.7, 0.9]) for each in (erased, theirs)]
    np.testing.assert_allclose(*quantiles, atol=0.02)
