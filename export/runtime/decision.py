"""Turn probabilities into labels: the most probable one, or those that reach a threshold. TensorFlow is not needed."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

SINGLE, MULTI, BINARY = "single-label", "multi-label", "binary"
"""The values of `keras_convmixer.outputs.kind.KINDS`, for programs without Keras."""


@dataclass(frozen=True)
class Decision:
    """The rule by which probabilities `[images, classes]` become labels.

    Example:
        ```python
        from keras_convmixer.export.runtime.decision import Decision

        Decision("multi-label", threshold=0.5)([[0.9, 0.2, 0.6]])  # [[True, False, True]]
        ```
    """

    kind: str = SINGLE
    threshold: float | None = None
    """Probability, 0..1, at or above which a label is given; None for a single-label model."""

    def __post_init__(self):
        if self.kind != SINGLE and not 0 < (self.threshold or 0) < 1:
            raise ValueError(f"threshold={self.threshold}: give more than 0 and less than 1, such as 0.5")

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the labels: int `[images]` for a single-label model, else bool `[images, classes]`."""
        probabilities = np.asarray(probabilities)
        return probabilities.argmax(-1) if self.kind == SINGLE else probabilities >= self.threshold

    def same(self, probabilities: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Compare the class, or the set of labels, of each image: bool `[images]`, true where both agree."""
        equal = self(probabilities) == self(others)  # [images], or [images, labels]
        return equal if self.kind == SINGLE else equal.all(-1)

    def right(self, probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Compare each image's labels with the true ones: bool `[images]`, true where they are right.

        `labels` are as `checked_labels` returns them. If they are one label for each image of a multi-label model, that
        label has to be the most probable.
        """
        labels = np.asarray(labels)
        if labels.ndim == 1 and self.kind != BINARY:
            return np.asarray(probabilities).argmax(-1) == labels
        return (self(probabilities) == labels.reshape(len(labels), -1).astype(bool)).all(-1)

    def facts(self) -> dict:
        """Return kind and threshold, for a manifest."""
        return asdict(self)


def stated_kind(labels: np.ndarray | None) -> str | None:
    """Return "multi-label" for labels `[images, labels]` with none or several in a row; None for others."""
    labels = np.asarray(labels) if labels is not None else np.zeros(0)
    # Rows with exactly one label may be one-hot rows of a single-label model.
    several = labels.ndim == 2 and labels.shape[1] > 1 and (labels.sum(-1) != 1).any()
    return MULTI if several else None


def checked_labels(kind: str, labels: np.ndarray, images: int, classes: int) -> np.ndarray:
    """Check that validation labels fit the kind, see `export_bundle`; return them.

    Raises ValueError: they have another shape, or other values than 0 and 1 if these are required.
    """
    labels = np.asarray(labels)
    if kind == BINARY and labels.shape == (images, 1):
        labels = labels[:, 0]
    right = {
        SINGLE: "one class number for each",
        MULTI: f"0 or 1 for each of the {classes} labels, [{images}, {classes}], or one label's number for each",
        BINARY: "0 or 1 for each",
    }[kind]
    shapes = [(images,), (images, classes)] if kind == MULTI else [(images,)]
    if labels.shape not in shapes:
        raise ValueError(
            f"validation_labels has shape {labels.shape}: give {right} of the {images} validation_images"
            + (" (labels.argmax(-1) of one-hot rows)" if labels.shape == (images, classes) else "")
        )
    if (labels.ndim == 2 or kind == BINARY) and not np.isin(labels, (0, 1)).all():
        raise ValueError(f"validation_labels has {labels.min()}..{labels.max()}: give {right} of the validation_images")
    return labels
