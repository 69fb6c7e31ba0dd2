"""The data of an export: the model that artifacts are compared with, and each artifact with its validation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import keras
import numpy as np

from keras_convmixer.images.preprocessing import Preprocessing

from .report.text import without_local_paths
from .runtime.decision import Decision
from .validation.validate import Validation, ValidationError, validate


@dataclass(frozen=True)
class Reference:
    """The checked Keras model, and its probabilities for the validation images, which artifacts have to reproduce."""

    model: keras.Model
    """The model as `as_classifier` returns it: pixels 0..255 in, probabilities out."""
    name: str
    class_names: tuple[str, ...]
    decision: Decision
    preprocessing: Preprocessing
    images: np.ndarray
    """Validation images, uint8 `[count, height, width, channels]`."""
    labels: np.ndarray | None
    """The validation images' true labels, in the form that `checked_labels` returns."""
    probabilities: np.ndarray
    """The model's probabilities for `images`, float32 `[count, classes]`."""
    warnings: list[str]
    """Doubts about the model, one sentence each."""


@dataclass
class Artifact:
    """The SavedModel or a .tflite file of a bundle: published, or rejected with a reason."""

    name: str
    """"saved_model", or the format of a .tflite file."""
    facts: dict = field(default_factory=dict)
    """Its part of the manifest: path, size, checksum, input, output, operators."""
    validation: Validation | None = None
    error: Exception | None = None
    """Why it is not published."""
    content: bytes | None = None
    """A .tflite file as converted, without metadata."""
    deployed: keras.Model | None = None
    """The deployed model that a .tflite file was converted from."""
    layers: list[dict] | None = None
    """The result of `layer_errors`, where it was measured."""

    @property
    def is_published(self) -> bool:
        """Whether the bundle holds the artifact."""
        return self.error is None

    def validate(self, reference: Reference, probabilities: np.ndarray) -> None:
        """Compare the artifact's probabilities with the reference's; raises ValidationError."""
        self.validation = validate(
            self.name, reference.probabilities, probabilities, reference.labels, self.layers, reference.decision
        )

    def reject(self, error: Exception) -> None:
        """Note why the artifact is not published, with what was measured up to then."""
        self.error, self.validation = error, getattr(error, "measured", None)

    def entry(self, preprocessing: Preprocessing) -> dict:
        """Return the manifest's entry of an artifact, or of a rejected one."""
        if self.is_published:
            facts = {"name": self.name, **self.facts, "preprocessing": preprocessing.facts()}
            return {**facts, "validation": asdict(self.validation)}
        return {
            "name": self.name,
            "error": type(self.error).__name__,
            "reason": without_local_paths(self._reason()),
            "validation": self.validation and asdict(self.validation),
        }

    def _reason(self):
        """Return a sentence of the error: its first line, as what converters raise has hundreds."""
        kind, (sentence, *_) = type(self.error).__name__, str(self.error).strip().split("\n")
        if isinstance(self.error, ValidationError):
            return sentence
        # The package's own ValueErrors are whole sentences. Other errors are shown with their type.
        is_sentence = type(self.error) is ValueError and sentence
        cause = sentence if is_sentence else f"{kind}: {sentence}".removesuffix(": ")
        return f"{self.name} was not made: {cause}"
