"""Check the Keras model itself on labeled images, before files are compared with it: does it take pixels 0..255?"""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_convmixer.imagenet import DEVIATION, MEAN
from keras_convmixer.outputs.classifier import NotFinite, predict
from keras_convmixer.outputs.kind import spread

from .runtime.decision import Decision
from .validate import ValidationError

IMAGES = 64
"""Number of images on which other ranges of pixels are tried."""
GOOD = 0.9
"""From this accuracy on no other range is tried: the model plainly sees what it was trained on."""
SIGNIFICANCE = 1e-3
"""Significance level of the tests: the probability of stopping the export of a model without a fault."""
GUESSING = 0.1
"""A model is guessing if labels dealt out at random are right as often with more than this probability."""
KNOWING = 0.01
"""A model is not guessing if labels dealt out at random are right as often with less than this probability."""
USABLE = 0.4
"""Lowest accuracy of a usable model, on a scale from chance, 0, to perfection, 1."""
PERMUTATIONS = 1000
"""Of the labels, to find out how often a model is right by chance."""
SHOWN = 8
"""Fewest images for the warning that all of them get the same class."""
QUESTION = "does it take pixels 0..255?"
REMEDY = (
    "If not, build it with include_preprocessing=True, or put a layer such as keras.layers.Rescaling(1 / 255) in front"
)
RANGES = {
    "0..1": (lambda pixels: pixels / 255, "keras.layers.Rescaling(1 / 255)"),
    "-1..1": (lambda pixels: pixels / 127.5 - 1, "keras.layers.Rescaling(1 / 127.5, offset=-1)"),
}
"""Usual ranges of models without preprocessing: a function from pixels 0..255, and the layer that does the same."""


def check_reference(
    classifier: keras.Model,
    decision: Decision,
    images: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray | None = None,
    expected_accuracy: float | None = None,
) -> list[str]:
    """Check that a Keras classifier recognizes the validation images; return warnings, one sentence each.

    The export stops where the model

    - is right on far more of the images when they are scaled to 0..1, -1..1 or by ImageNet's mean and deviation, by a
      sign test on up to 64 images;
    - is right no more often than labels dealt out at random would make it, by a permutation test, which accounts for
      how common each class is, and is significantly worse than a usable model, by a binomial test; with few images or
      many classes that stops nothing;
    - has lost more than half of the distance from chance to `expected_accuracy`, by a binomial test.

    For example: a model of 10 classes that was trained on pixels 0..1 is right on 17 % of pixels 0..255 and on 97 % of
    pixels 0..1; the first test stops its export.

    Args:
        classifier: a view of `as_classifier`.
        decision: how its probabilities become labels.
        images: uint8 `[count, height, width, channels]`.
        reference: its probabilities for them, `[count, classes]`.
        labels: as `checked_labels` returns them; without labels there are only warnings.
        expected_accuracy: the accuracy that training measured, 0..1.

    Raises:
        ValidationError: the export has to stop; the message asks whether the model takes pixels 0..255.
    """
    same = len(reference) >= SHOWN and len(np.unique(decision(reference), axis=0)) == 1
    if labels is None or len(np.unique(labels, axis=0)) == 1:
        # Images of one label say nothing about a model that gives one label.
        return [_of_one_class(classifier, decision, images)] if same and labels is None else []
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
    found, winner = _in_other_ranges(classifier, decision, images, labels, right)
    if not (guesses or far_below or winner):
        return []
    if far_below:
        what = f"and was on {expected_accuracy:.1%} when it was trained"
    elif guesses:
        what = f"no better than guessing, {chance:.1%}"
    else:
        what = "and on many more in another range"
    tried = ", ".join(f"{share:.1%} in {name}" for name, share in found.items())
    remedy = f"Put {winner} in front" if winner else REMEDY
    raise ValidationError(
        f"the Keras model is right on {accuracy:.1%} of {len(right)} validation images, {what}: {QUESTION} "
        f"With the pixels scaled it is right on {tried} (of {len(spread(right, IMAGES))} images). {remedy}; "
        "otherwise compare class_names and the labels' order with those of the training"
    )


def _of_one_class(classifier, decision, images):
    found = []
    for name, (scale, _) in _ranges(images).items():
        kinds = len(np.unique(decision(_run(classifier, scale(spread(images, IMAGES).astype("float32")))), axis=0))
        found.append(f"{kinds} in {name}")
    return (
        f"the model gives all {len(images)} validation images the same labels: {QUESTION} The pixels scaled, it gives "
        f"this many different ones: {', '.join(found)}. {REMEDY}; with validation_labels export measures it"
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
    """Return the accuracy in each other range, and the layer that makes the best far better one; None without one."""
    some, of_some, right = (spread(array, IMAGES) for array in (images, labels, right))
    found, best, winner = {}, 0.0, None
    for name, (scale, layer) in _ranges(images).items():
        probabilities = _run(classifier, scale(some.astype("float32")))
        now = decision.right(probabilities, of_some)
        found[name] = float(now.mean())
        gained, lost = int((now & ~right).sum()), int((right & ~now).sum())
        sure = _at_most(lost, gained + lost, 0.5) < SIGNIFICANCE / 3
        # Where the labels are in another order, mere guessing may be far better, too.
        knows = _chance(decision, probabilities, of_some, int(now.sum()))[1] < KNOWING
        if sure and knows and found[name] >= right.mean() + 0.2 and found[name] > best:
            best, winner = found[name], layer
    if winner == "include_preprocessing=True":
        winner = "ImageNet's scaling (include_preprocessing=True)"
    return found, winner


def _chance(decision, reference, labels, right):
    """Return the accuracy with labels dealt out at random, and the probability that it reaches `right` images."""
    random = np.random.default_rng(0)
    counts = np.array([decision.right(reference, random.permutation(labels)).sum() for _ in range(PERMUTATIONS)])
    return float(counts.mean() / len(labels)), float((1 + (counts >= right).sum()) / (1 + PERMUTATIONS))


def _at_most(count, trials, share):
    """Return the binomial probability of at most `count` successes in `trials` of success probability `share`."""
    if not 0 < share < 1:
        return 1.0 if count >= trials or share <= 0 else 0.0
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(share)
        + (trials - k) * math.log1p(-share)
        for k in range(count + 1)
    ]
    return float(sum(map(math.exp, logs)))
