"""Evaluation of a classifier on labeled images."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_convmixer.outputs.classifier import as_classifier, predict
from keras_convmixer.outputs.kind import BINARY, MULTI

from .data.dataset import Split
from .data.lazy_images import LazyImages


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a model on labeled images, and metrics computed from them.

    Example:
        ```python
        from keras_convmixer.training import Evaluation

        evaluation = Evaluation(np.array([[0.9, 0.1], [0.6, 0.4]], "float32"), np.array([0, 1]))
        print(evaluation.accuracy, evaluation.predicted)  # 0.5 [0 0]
        ```
    """

    probabilities: np.ndarray
    """float32 `[images, classes]`."""
    labels: np.ndarray
    """int64 `[images]`."""

    @property
    def predicted(self) -> np.ndarray:
        """Class with the largest probability, int64 `[images]`."""
        return self.probabilities.argmax(-1)

    @property
    def accuracy(self) -> float:
        """Fraction of images whose predicted class is their label, 0..1."""
        return float(np.mean(self.predicted == self.labels))

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        # The smallest probability is Keras's epsilon, as in its own cross-entropy: log(0) is infinite.
        of_labels = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(of_labels, keras.config.epsilon())).mean())

    def by_class(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """Return label, precision, recall (0..1) and number of images of each class."""
        from sklearn.metrics import precision_recall_fscore_support

        precision, recall, _, count = precision_recall_fscore_support(
            self.labels, self.predicted, labels=np.arange(len(class_names)), zero_division=0
        )
        return [
            {"label": label, "precision": float(p), "recall": float(r), "images": int(n)}
            for label, p, r, n in zip(class_names, precision, recall, count, strict=True)
        ]


def evaluate(
    model: keras.Model,
    split: Split,
    batch_size: int = 64,
    batch_done: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Evaluate a classifier on a split.

    Example:
        ```python
        from keras_convmixer.training import Split, evaluate

        evaluation = evaluate(model, Split(images, labels))
        print(f"{evaluation.accuracy:.1%}, cross-entropy {evaluation.loss:.3f} nats")
        ```

    Args:
        model: takes pixels 0..255 `[batch, height, width, channels]` and returns probabilities or logits `[batch,
            classes]`; a binary model returns the probability of class 1, `[batch, 1]`.
        split: images of the model's size with their labels.
        batch_size: images at once; it has no effect on the result.
        batch_done: called after each batch with its number of images, to show progress.

    Raises:
        ValueError: the model is not a classifier, assigns several labels to an image, takes images of another shape,
            has fewer classes than the labels, or returns NaN.
    """
    classifier = as_classifier(model)
    expected, actual = classifier.input_shape[1:], split.images.shape[1:]
    # None in the model's shape: any height, width or number of channels.
    if any(side not in (None, given) for side, given in zip(expected, actual, strict=True)):
        raise ValueError(f"the model takes images of shape {expected}, and these have {actual}")
    if classifier.returns.kind == MULTI:
        raise ValueError(
            f"the model assigns several labels, as {classifier.returns.reason}, and these images have one each: export "
            "it with validation_labels [count, labels] of 0 and 1, which evaluates it"
        )
    binary = classifier.returns.kind == BINARY
    classes = 2 if binary else classifier.output_shape[-1]
    if classes <= split.labels.max():
        raise ValueError(
            f"the model has {classes} classes, and the data {split.labels.max() + 1}: "
            "evaluate on the data that the model was trained for"
        )
    images = split.images
    if isinstance(images, LazyImages):  # decoded in threads while the model computes, as they may not fit in memory
        images = _Batches(images, batch_size)
    probabilities = predict(classifier, images, batch_size, batch_done)
    if binary:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=-1)  # [images, 2]
    return Evaluation(probabilities, split.labels)


class _Batches(keras.utils.PyDataset):
    """Batches of lazy images, decoded in threads; Keras keeps their order."""

    def __init__(self, images, size):
        super().__init__(workers=os.cpu_count(), max_queue_size=2 * os.cpu_count())
        self._images, self._size = images, size

    def __len__(self):
        return math.ceil(len(self._images) / self._size)

    def __getitem__(self, index):
        return (self._images[index * self._size : (index + 1) * self._size],)
