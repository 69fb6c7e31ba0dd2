"""Check the Keras model itself before artifacts are compared with it: does it take pixels 0..255?

A model that was trained on pixels 0..1 and gets 0..255 answers, but badly, and every artifact would agree with it.
Statistical tests tell a model that is wrong for this reason from one that is wrong by chance.
"""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_convmixer.model.imagenet import DEVIATION, MEAN
from keras_convmixer.outputs.classifier import NotFinite, predict
from keras_convmixer.outputs.kind import spread

from ..runtime.decision import Decision
from .validate import ValidationError

IMAGES = 64
"""Number of images on which other ranges of pixels are tried."""
GOOD = 0.9
"""At this accuracy or above no other range is tried: the model sees what it was trained on."""
SIGNIFICANCE = 1e-3
"""Significance level of the tests: the probability of stopping the export of a model without a fault."""
GUESSING = 0.1
"""A model is guessing if randomly permuted labels are right as often with more than this probability."""
KNOWING = 0.01
"""A model is not guessing if randomly permuted labels are right as often with less than this probability."""
USABLE = 0.4
"""Lowest accuracy of a usable model, on a scale from chance, 0, to perfection, 1."""
PERMUTATIONS = 1000
"""Random permutations of the labels, for the distribution of the accuracy by chance."""
FEWEST = 8
"""Fewest images for the warning that all of them get the same class."""
QUESTION = "does it take pixels 0..255?"
REMEDY = (
    "If not, build it with include_preprocessing=True, or put a layer such as keras.layers.Rescaling(1 / 255) in front"
)
RANGES = {
    "0..1": (lambda pixels: pixels / 255, "keras.layers.Rescaling(1 / 255)"),
    "-1..1": (lambda pixels: pixels / 127.5 - 1, "keras.layers.Rescaling(1 / 127.5, offset=-1)"),
}
"""Usual input ranges of models without preprocessing: a function of pixels 0..255, and the layer that computes it."""


def check_reference(
    classifier: keras.Model,
    decision: Decision,
    images: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray | None = None,
    expected_accuracy: float | None = None,
) -> list[str]:
    """Check that a Keras classifier recognizes the validation images; return warnings, one sentence each.

    The export stops in three cases:

    - The model is right on far more of the images if they are scaled to 0..1, to -1..1 or by ImageNet's mean and
      deviation: a sign test on up to 64 images.
    - The model is right no more often than by chance, and significantly worse than a usable model. Chance is the
      accuracy with randomly permuted labels (a permutation test), which accounts for how common each class is; a
      binomial test compares with a usable model. With few images or many classes this stops nothing.
    - The model has lost more than half of the distance from chance to `expected_accuracy`: a binomial test.

    For example, a model of 10 classes that was trained on pixels 0..1 is right on 17 % of images with pixels 0..255 and
    on 97 % of those with pixels 0..1: the first test stops its export.

    Args:
        classifier: a view of `as_classifier`.
        decision: how its probabilities become labels.
        images: uint8 `[count, height, width, channels]`.
        reference: its probabilities for the images, float32 `[count, classes]`.
        labels: as `checked_labels` returns them. Without labels there are only warnings.
        expected_accuracy: the accuracy that training measured, 0..1.

    Raises:
        ValidationError: the export has to stop; the message asks whether the model takes pixels 0..255.
    """
    same = len(reference) >= FEWEST and len(np.unique(decision(reference), axis=0)) == 1
    if labels is None or len(np.unique(labels, axis=0)) == 1:
        # If all images have one label, permuting the labels changes nothing, and there is no test.
        return [_doubt_of_one_class(classifier, decision, images)] if same and labels is None else []
    right = decision.right(reference, labels)
    accuracy = float(right.mean())
    if accuracy >= GOOD and (expected_accuracy is None or accuracy >= expected_accuracy - 0.1):
        return []
    chance, better = _chance(decision, reference, labels, int(right.sum()))
    usable = chance + USABLE * (1 - chance)
    guesses = better > GUESSING and _at_most(int(right.sum()), len(right), usable) < SIGNIFICANCE
    far_below = False
    if expected_accuracy is not None:
        halfway = (chance + expected_accuracy) / 2
        far_below = accuracy < halfway and _at_most(int(right.sum()), len(right), expected_accuracy) < SIGNIFICANCE
    accuracies, winner = _in_other_ranges(classifier, decision, images, labels, right)
    if not (guesses or far_below or winner):
        return []
    if far_below:
        what = f"and was on {expected_accuracy:.1%} when it was trained"
    elif guesses:
        what = f"no better than guessing, {chance:.1%}"
    else:
        what = "and on many more in another range"
    tried = ", ".join(f"{share:.1%} in {name}" for name, share in accuracies.items())
    remedy = f"Put {winner} in front" if winner else REMEDY
    raise ValidationError(
        f"the Keras model is right on {accuracy:.1%} of {len(right)} validation images, {what}: {QUESTION} "
        f"With the pixels scaled it is right on {tried} (of {len(spread(right, IMAGES))} images). {remedy}; "
        "otherwise compare class_names and the labels' order with those of the training"
    )


def _doubt_of_one_class(classifier, decision, images):
    counts = []
    for name, (scale, _) in _ranges(images).items():
        answers = decision(_run(classifier, scale(spread(images, IMAGES).astype("float32"))))
        counts.append(f"{len(np.unique(answers, axis=0))} in {name}")
    return (
        f"the model gives all {len(images)} validation images the same labels: {QUESTION} The number of "
        f"different labels with scaled pixels: {', '.join(counts)}. {REMEDY}; with validation_labels export measures it"
    )


def _ranges(images):
    if images.shape[-1] != 3:
        return RANGES
    scale = (lambda pixels: (pixels / 255 - np.float32(MEAN)) / np.float32(DEVIATION)), "include_preprocessing=True"
    return {**RANGES, "ImageNet's scale": scale}


def _run(classifier, pixels):
    with keras.device("cpu"):
        try:
            return predict(classifier, pixels.astype("float32"))
        except NotFinite:
            return np.zeros((len(pixels), classifier.output_shape[-1]), np.float32)


def _in_other_ranges(classifier, decision, images, labels, right):
    """Return the accuracy in each other range, and the layer that brings a far better one; None if there is none."""
    images, labels, right = (spread(array, IMAGES) for array in (images, labels, right))
    accuracies, best, winner = {}, 0.0, None
    for name, (scale, layer) in _ranges(images).items():
        probabilities = _run(classifier, scale(images.astype("float32")))
        right_then = decision.right(probabilities, labels)  # bool [images]
        accuracies[name] = float(right_then.mean())
        gained, lost = int((right_then & ~right).sum()), int((right & ~right_then).sum())
        # Of the images that are judged otherwise, half would be lost by chance. Divided by the three ranges tried.
        is_better = _at_most(lost, gained + lost, 0.5) < SIGNIFICANCE / 3
        # With labels in a wrong order, mere guessing may be far better, too.
        knows = _chance(decision, probabilities, labels, int(right_then.sum()))[1] < KNOWING
        if is_better and knows and accuracies[name] >= right.mean() + 0.2 and accuracies[name] > best:
            best, winner = accuracies[name], layer
    if winner == "include_preprocessing=True":
        winner = "ImageNet's scaling (include_preprocessing=True)"
    return accuracies, winner


def _chance(decision, reference, labels, right):
    """Return the accuracy with randomly permuted labels, and the probability that they are right on `right` images."""
    random = np.random.default_rng(0)
    counts = np.array([decision.right(reference, random.permutation(labels)).sum() for _ in range(PERMUTATIONS)])
    # The order that was given counts as one of the permutations, so that the probability is never 0.
    return float(counts.mean() / len(labels)), float((1 + (counts >= right).sum()) / (1 + PERMUTATIONS))


def _at_most(count, trials, share):
    """Return the probability of at most `count` successes in `trials`, each with probability `share` (binomial)."""
    if not 0 < share < 1:
        return 1.0 if count >= trials or share <= 0 else 0.0
    # In logarithms, as a binomial coefficient of 2,000 trials exceeds a float; lgamma(n + 1) is log(n!).
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(share)
        + (trials - k) * math.log1p(-share)
        for k in range(count + 1)
    ]
    return float(sum(map(math.exp, logs)))
