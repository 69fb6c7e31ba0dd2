import numpy as np
import pytest
import tensorflow as tf

from keras_convmixer.training import RECIPES
from keras_convmixer.training.augmentation.augment import Augmentation

PLAIN = RECIPES["digits"]


def augmentation(classes=10, positions=range(64), **changes):
    return Augmentation(PLAIN.replace(**changes).augmentation, classes, 64, PLAIN.seed, tf.constant(list(positions)))


def images(count=64, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def step(number=3):
    return tf.constant(number)


def test_what_a_recipe_does_not_ask_for_does_not_happen():
    pixels, labels = augmentation().batch(step(), tf.constant(images()), tf.constant([1] * 64))
    np.testing.assert_array_equal(pixels, images())
    np.testing.assert_array_equal(labels, np.eye(10)[[1] * 64])


def test_an_image_is_augmented_alike_in_any_share_of_the_batch():
    everything = {
        "flip": True,
        "color_jitter": 0.3,
        "rand_augment": "timm",
        "erasing_probability": 0.5,
        "crop_scale": 0.3,
    }
    everything |= {"mixup_alpha": 0.4, "cutmix_alpha": 0.6, "crop_ratio": 4 / 3}

    def run(positions, number=3):
        positions = list(positions)
        chosen = augmentation(positions=positions, **everything)
        cropped = chosen.crop(step(number), tf.constant(images()[positions]))
        return chosen.batch(step(number), cropped, tf.constant(np.arange(64)[positions] % 10))

    pixels, labels = run(range(64))
    for share in (range(32, 64), [*range(8), *range(16, 24)]):
        again, labels_again = run(share)
        np.testing.assert_array_equal(again, pixels.numpy()[list(share)])
        np.testing.assert_array_equal(labels_again, labels.numpy()[list(share)])
    assert np.abs(run(range(64), 4)[0] - pixels).mean() > 10  # another step, other draws


def test_half_are_mirrored():
    found = augmentation(flip=True).flip_and_recolor(step(), tf.constant(images())).numpy()
    mirrored = [(one == other[:, ::-1]).all() for one, other in zip(found, images(), strict=True)]
    same = [(one == other).all() for one, other in zip(found, images(), strict=True)]
    assert 20 < sum(mirrored) < 44
    assert sum(mirrored) + sum(same) == 64


def test_boxes_are_shares_of_the_area_and_lie_inside():
    chosen = augmentation(crop_scale=0.08, crop_ratio=4 / 3)
    boxes = np.concatenate([chosen.boxes(step(n), tf.fill([64], 50), tf.fill([64], 80)) for n in range(40)])
    top, left, high, wide = boxes.T
    assert (np.minimum(top, left) >= 0).all()
    assert (top + high <= 50).all()
    assert (left + wide <= 80).all()
    share, ratio = high * wide / (50 * 80), wide / high
    assert 0.07 < share.min() < 0.1
    assert share.max() > 0.8  # as high as the image, and 4/3 as wide
    assert 0.7 < ratio.min() < 0.8
    assert 1.27 < ratio.max() < 1.4
    assert np.median(np.log(ratio)) == pytest.approx(0, abs=0.07)  # wide ones fit more often


def test_a_crop_shows_what_its_box_says():
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None] * 10, (64, 16, 16, 3))
    chosen = augmentation(crop_scale=0.2)
    left, wide = chosen.boxes(step(), tf.fill([64], 16), tf.fill([64], 16)).numpy()[:, [1, 3]].T
    seen = chosen.crop(step(), tf.constant(ramp)).numpy()[:, 8, :, 0]
    centres = left[:, None] + (np.arange(16) + 0.5) * wide[:, None] / 16 - 0.5
    np.testing.assert_allclose(seen, np.clip(centres, 0, 15) * 10, atol=5)


def test_erased_rectangles_are_noise_of_the_images_statistics():
    grey = np.full((64, 16, 16, 3), 100.0, "float32")
    found = np.concatenate(
        [augmentation(erasing_probability=0.25).erase(step(n), tf.constant(grey)).numpy() for n in range(20)]
    )
    changed = (found != 100).any(-1)
    assert changed.any((1, 2)).mean() == pytest.approx(0.25, abs=0.04)
    for image in changed[changed.any((1, 2))]:
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        assert image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0 < image.mean() < 0.45
    noise = found[changed]
    np.testing.assert_allclose(noise.mean(0), [123.7, 116.3, 103.5], atol=2)
    np.testing.assert_allclose(noise.std(0), [58.4, 57.1, 57.4], atol=2)


def test_cutmix_labels_are_the_shares_of_pixels_and_mixup_blends():
    values = np.repeat(np.arange(64, dtype="float32"), 16 * 16 * 3).reshape(64, 16, 16, 3)
    labels = np.eye(64, dtype="float32")
    kinds, shares = {"cutmix": 0, "mixup": 0}, []
    for number in range(40):
        chosen = augmentation(64, mixup_alpha=0.5, cutmix_alpha=0.5)
        mixed, targets = (x.numpy() for x in chosen.mix(step(number), tf.constant(values), tf.constant(labels)))
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        for index in (0, 1, 40):
            partner = index ^ 1
            share = targets[index, index]
            assert targets[index, partner] == pytest.approx(1 - share, abs=1e-6)
            if np.isin(mixed[index], (index, partner)).all():
                assert (mixed[index] == index).mean() == pytest.approx(share, abs=1e-6)
            else:
                np.testing.assert_allclose(mixed[index], index * share + partner * (1 - share), atol=1e-4)
        kinds["cutmix" if np.isin(mixed[40], (40, 41)).all() else "mixup"] += 1
        shares.append(targets[0, 0])
    assert min(kinds.values()) > 8
    assert np.std(shares) > 0.2  # beta(0.5, 0.5) has 0.35


def test_labels_are_smoothed():
    smoothed = augmentation(5, label_smoothing=0.1).labels(tf.constant([2])).numpy()
    np.testing.assert_allclose(smoothed, [[0.02, 0.02, 0.92, 0.02, 0.02]], atol=1e-6)


def test_jitter_varies_brightness_contrast_and_saturation():
    one = np.repeat(images(1), 64, axis=0)
    found = augmentation(color_jitter=0.4).flip_and_recolor(step(), tf.constant(one)).numpy().astype(float)
    assert found.mean((1, 2, 3)).std() > 5
    assert found.std((1, 2, 3)).std() > 3
    assert (found.max(-1) - found.min(-1)).mean((1, 2)).std() > 5
