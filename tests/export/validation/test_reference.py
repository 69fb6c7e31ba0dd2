"""The question whether a model takes pixels 0..255, asked where it does not know the validation images."""

import functools

import keras
import numpy as np
import pytest

from keras_convmixer.export import ValidationError
from keras_convmixer.export.runtime.decision import MULTI, Decision
from keras_convmixer.export.validation.reference import _at_most, check_reference
from keras_convmixer.outputs.classifier import as_classifier, predict

RANDOM = np.random.default_rng(0)
classifier_of = functools.cache(as_classifier)  # once for each model: Keras traces every one anew


@functools.cache
def brightness(*layers, classes=4, activation="softmax"):
    """A model that tells bands of brightness apart, after these layers; it takes 0..1, or what they turn into it."""
    images = keras.Input((4, 4, 3))
    x = images
    for layer in layers:
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    # The distance to each band's middle, as logits: 2 * x * m - m * m, steep.
    middles = (np.arange(classes) + 0.5) / classes
    dense = keras.layers.Dense(classes, activation)
    model = keras.Model(images, dense(x))
    dense.set_weights([300 * np.tile(2 * middles / 3, (3, 1)), -300 * middles**2])
    return model


def banded(count, classes=4, seed=0):
    """Images of one grey each, and the band that it lies in."""
    labels = np.random.default_rng(seed).permutation(np.arange(count) % classes)
    greys = (255 * (labels + 0.5) / classes).astype(np.uint8)
    return np.tile(greys[:, None, None, None], (1, 4, 4, 3)), labels


def check(model, images, labels, expected=None):
    classifier = classifier_of(model)
    return check_reference(classifier, Decision(), images, predict(classifier, images), labels, expected)


def test_a_model_of_pixels_0_to_255_passes():
    images, labels = banded(80)
    assert check(brightness(keras.layers.Rescaling(1 / 255)), images, labels, 1.0) == []


@pytest.mark.parametrize("count", [20, 80, 400])
@pytest.mark.parametrize(
    ("layers", "remedy"),
    [
        ((), r"Put keras.layers.Rescaling\(1 / 255\) in front"),
        ((keras.layers.Rescaling(0.5, 0.5),), r"Put keras.layers.Rescaling\(1 / 127.5, offset=-1\) in front"),
    ],
)
def test_another_range_is_measured_and_named(count, layers, remedy):
    with pytest.raises(
        ValidationError, match=rf"right on 25.0% of {count} .*: does it take pixels 0..255\? .*{remedy}"
    ):
        check(brightness(*layers), *banded(count))


def test_another_range_is_named_though_the_model_is_better_than_guessing():
    """As a fifth of ten classes is, which no test of guessing would stop."""
    images, labels = banded(400, 10)
    images[labels == 0] = 0  # black in every range
    with pytest.raises(
        ValidationError, match=r"right on 20.0% of 400 .* and on many more in another range: .*100.0% in 0"
    ):
        check(brightness(classes=10), images, labels)


@functools.cache
def guessing(classes=4):
    """A model that knows nothing: noise in, noise out."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(classes, "softmax")], name="guessing"
    )


def noise(count, classes=4, shares=None):
    return (
        RANDOM.integers(0, 256, (count, 4, 4, 3), np.uint8),
        np.random.default_rng(1).choice(classes, count, p=shares),
    )


def test_a_model_that_guesses_is_stopped():
    with pytest.raises(ValidationError, match=r"no better than guessing, .*include_preprocessing=True, or put a layer"):
        check(guessing(), *noise(200))


@pytest.mark.parametrize("count", [1, 4, 10])
def test_few_images_stop_nothing(count):
    assert check(guessing(), *noise(count)) == []
    assert check(guessing(100), *noise(count, 100)) == []


class Noisy:
    """Answers like those of a model that is right with some probability, without the model."""

    def __new__(cls, labels, share, classes, seed=0):
        random = np.random.default_rng(seed)
        said = np.where(random.random(len(labels)) < share, labels, random.integers(0, classes, len(labels)))
        return np.eye(classes, dtype="float32")[said]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("share", "classes", "count"), [(0.15, 10, 500), (0.1, 1000, 300), (0.3, 2, 400), (0.3, 3, 60)]
)
def test_weak_models_that_know_something_pass(share, classes, count, seed):
    """Far from good, and still no reason to stop."""
    labels = np.random.default_rng(seed).integers(0, classes, count)
    images = np.zeros((count, 4, 4, 3), np.uint8)
    classifier = classifier_of(guessing(classes))
    assert check_reference(classifier, Decision(), images, Noisy(labels, share, classes, seed), labels) == []


def test_the_majority_is_not_knowledge_and_less_than_it_may_be():
    """95 % of one class: who says it always guesses; who is right on 85 %, of both classes alike, knows something."""
    labels = (np.arange(2000) % 20 == 0).astype(int)
    images = np.zeros((2000, 4, 4, 3), np.uint8)
    classifier = classifier_of(guessing(2))
    said = np.where(np.arange(2000) % 20 == 1, 1 - labels, labels)
    said[np.arange(2000) % 7 == 3] ^= 1
    assert (said == labels).mean() < 0.9
    assert check_reference(classifier, Decision(), images, np.eye(2)[said], labels) == []
    few = (np.arange(2000) % 5 == 0).astype(int)
    with pytest.raises(ValidationError, match=r"right on 80.0% of 2000 .*, no better than guessing, 80.0%"):
        check_reference(classifier, Decision(), images, np.eye(2)[np.zeros(2000, int)], few)


def test_far_below_what_the_run_reached():
    labels = np.arange(300) % 10
    images = np.zeros((300, 4, 4, 3), np.uint8)
    classifier = classifier_of(guessing(10))
    answers = Noisy(labels, 0.3, 10)
    assert check_reference(classifier, Decision(), images, answers, labels) == []
    with pytest.raises(ValidationError, match=r"validation images, and was on 98.0% when it was trained: does it take"):
        check_reference(classifier, Decision(), images, answers, labels, 0.98)
    assert check_reference(classifier, Decision(), images, Noisy(labels, 0.75, 10), labels, 0.98) == []


def test_several_labels():
    images, labels = banded(80, 3)
    several = np.stack([labels == 0, labels >= 1, labels == 2], -1).astype(int)
    right = 0.1 + 0.8 * several.astype("float32")
    classifier = classifier_of(guessing(3))
    decision = Decision(MULTI, 0.5)
    assert check_reference(classifier, decision, images, right, several) == []
    with pytest.raises(ValidationError, match="no better than guessing"):
        check_reference(classifier, decision, images, np.full_like(right, 0.9), several)


def test_without_labels_one_class_for_all_is_warned_of():
    images, _ = banded(80)
    (warning,) = check(brightness(), images, None)
    assert "all 80 validation images the same labels: does it take pixels 0..255?" in warning
    assert "4 in 0..1" in warning
    assert check(brightness(keras.layers.Rescaling(1 / 255)), images, None) == []
    assert check(brightness(), images[:7], None) == []


def test_images_of_one_label_say_nothing():
    images, labels = banded(80)
    one = images[labels == 3]
    assert check(brightness(keras.layers.Rescaling(1 / 255)), one, np.full(len(one), 3)) == []


def test_the_binomial_distribution_is_scipys():
    from scipy.stats import binom

    for count, trials, share in ((0, 10, 0.3), (17, 360, 0.1), (50, 50, 0.99), (3, 2000, 0.004)):
        assert _at_most(count, trials, share) == pytest.approx(binom.cdf(count, trials, share))
    assert _at_most(3, 5, 1.0) == 0
    assert _at_most(0, 0, 0.5) == 1


def trained_on(images, labels):
    """A ConvMixer without preprocessing, trained on images of another range."""
    from keras_convmixer import ConvMixer

    keras.utils.set_random_seed(0)
    model = ConvMixer(8, 2, kernel_size=3, patch_size=2, input_shape=(8, 8, 3), classes=3)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.optimizer.learning_rate = 0.02
    model.fit(images, labels, epochs=10, verbose=0)
    return model


@pytest.mark.slow
def test_export_stops_and_leaves_what_was_there(toy, tmp_path):
    divisor, offset = 127.5, -1
    model = trained_on(np.float32(toy.train_images) / divisor + offset, np.arange(100) % 3)
    given = np.float32(toy.test_images) / divisor + offset
    assert (model.predict(given, verbose=0).argmax(-1) == toy.test_labels).mean() > 0.95
    with pytest.raises(ValidationError, match=r"does it take pixels 0\.\.255"):
        toy.export(tmp_path / "bundle", model=model)
    assert list(tmp_path.iterdir()) == []
    fixed = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / divisor, offset), model])
    assert toy.export(tmp_path / "bundle", model=fixed, formats=("float32",))["reference_accuracy"] > 0.95
