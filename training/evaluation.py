"""How good a trained model is."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from keras_convmixer.outputs.classifier import as_classifier, predict
from keras_convmixer.outputs.kind import BINARY, MULTI

from .data.dataset import Split
from .data.lazy_images import LazyImages


@dataclass(frozen=True)
class Evaluation:
    """What a model answered on labelled images."""

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
        """Share of images whose predicted class is their label, 0..1."""
        return float(np.mean(self.predicted == self.labels))

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        chosen = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(chosen, keras.config.epsilon())).mean())

    def by_class(self, class_names) -> list[dict]:
        """Label, precision, recall (0..1) and number of images of every class."""
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
    """Run a classifier that takes pixels 0..255, and returns probabilities or logits, over a split.

    A binary model's one probability is that of class 1, and the evaluation has both classes. After each batch
    `batch_done` is called with its number of images, to show progress.

    Raises:
        ValueError: the model is not a classifier or gives several labels, takes images of another shape, has fewer
            classes than the labels name, or returns NaN.
    """
    classifier = as_classifier(model)
    expected, actual = classifier.input_shape[1:], split.images.shape[1:]
    if any(side not in (None, given) for side, given in zip(expected, actual, strict=True)):
        raise ValueError(f"the model takes images of {expected}, and these are {actual}")
    if classifier.returns.kind == MULTI:
        raise ValueError(
            f"the model gives several labels, as {classifier.returns.reason}, and these images have one each: export "
            "it with validation_labels [count, labels] of 0 and 1, which measures it"
        )
    binary = classifier.returns.kind == BINARY
    classes = 2 if binary else classifier.output_shape[-1]
    if classes <= split.labels.max():
        raise ValueError(
            f"the model has {classes} classes, and the data {split.labels.max() + 1}: "
            "evaluate on the data that the model was trained for"
        )
    images = split.images
    if isinstance(images, LazyImages):
        images = _Batches(images, batch_size)
    probabilities = predict(classifier, images, batch_size, batch_done)
    if binary:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=-1)
    return Evaluation(probabilities, split.labels)


class _Batches(keras.utils.PyDataset):
    """Pictures by the batch, read in threads, whose order Keras keeps."""

    def __init__(self, pictures, size):
        super().__init__(workers=os.cpu_count(), max_queue_size=2 * os.cpu_count())
        self._pictures, self._size = pictures, size

    def __len__(self):
        return math.ceil(len(self._pictures) / self._size)

    def __getitem__(self, index):
        return (self._pictures[index * self._size : (index + 1) * self._size],)
