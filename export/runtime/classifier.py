"""Classify picture files with an exported model; TensorFlow is not needed."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_convmixer.files.regular_files import open_file, read_file
from keras_convmixer.images.preprocessing import Preprocessing

from ..manifest import AGAIN, NAME, read_manifest, read_verified
from ..tflite.flatbuffer import LARGEST
from .decision import BINARY, MULTI, SINGLE, Decision
from .interpreter import LiteRTModel

CLOSE = 1e-3
"""Rounding may take a probability this far outside 0..1."""


@dataclass(frozen=True)
class Prediction:
    """One class that a picture may show, with its probability 0..1."""

    label: str
    probability: float
    present: bool | None = field(default=None, repr=False)
    """Whether the probability reaches the threshold; None for single-label models, which give the first one."""

    def facts(self) -> dict:
        """Return the fields as JSON, without `present` for a single-label model."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Classifier:
    """A bundle's .tflite file, or any other, with its labels and its preprocessing.

    For example:

        Classifier.load("bundle")("cat.png")  # [Prediction(label="cat", probability=0.98), ...]
    """

    def __init__(
        self,
        model: LiteRTModel,
        labels: tuple[str, ...],
        preprocessing: Preprocessing,
        decision: Decision = Decision(),  # noqa: B008 - frozen
    ):
        self.model = model
        self.labels = labels
        self.preprocessing = preprocessing
        self.decision = decision

    @classmethod
    def load(cls, path: Path, format: str | None = None, threads: int | None = None) -> "Classifier":
        """Load a bundle's artifact of that format, "float32" where none is named, or a .tflite file.

        A file that lies in a bundle takes labels and preprocessing from there; another is fed the centre of
        the picture, and its labels are the numbers of its classes; one of a single output is binary, and one of more
        is taken as single-label.

        Raises:
            FileNotFoundError: there is no such file or folder.
            ValueError: it is no bundle or .tflite file, has no such format, or was changed since the export.
        """
        path = Path(path)
        if path.is_dir():
            return cls._from_bundle(path, read_manifest(path), format or "float32", threads)
        if not path.exists() and not path.is_symlink():
            raise FileNotFoundError(f"{path}: there is no such bundle or .tflite file")
        if format is not None:
            raise ValueError(f"{path} is one file and has no formats: leave --format out, or name the bundle")
        with open_file(path, "a bundle or a .tflite file"):
            pass  # before resolve(), which fails in its own way where a link leads back to itself
        bundle = path.resolve().parent.parent
        if path.resolve().parent.name == "litert" and (bundle / NAME).is_file():
            manifest = read_manifest(bundle)
            inside = path.resolve().relative_to(bundle).as_posix()
            for artifact in manifest["artifacts"]:
                if artifact["path"] == inside:
                    return cls._from_bundle(bundle, manifest, artifact["name"], threads)
        model = LiteRTModel(read_file(path, LARGEST, "a bundle or a .tflite file"), str(path), threads)
        labels = tuple(f"class {number}" for number in range(model.classes))
        decision = Decision(BINARY, 0.5) if model.classes == 1 else Decision()
        return cls(model, labels, Preprocessing(model.height, model.width, model.channels), decision)

    @classmethod
    def _from_bundle(cls, bundle, manifest, name, threads):
        artifacts = {a["name"]: a for a in manifest["artifacts"] if a["format"] == "litert"}
        if name not in artifacts:
            raise ValueError(f"{bundle} has no .tflite file {name!r}: it has {', '.join(artifacts) or 'none'}")
        artifact = artifacts[name]
        content = read_verified(bundle, manifest, artifact["path"])
        file = bundle / artifact["path"]
        model = LiteRTModel(content, str(file), threads)
        preprocessing = Preprocessing.from_facts(artifact["preprocessing"])
        seen = preprocessing.height, preprocessing.width, preprocessing.channels
        if seen != (model.height, model.width, model.channels):
            raise ValueError(
                f"{file} takes images [{model.height}, {model.width}, {model.channels}], and the manifest prepares "
                f"{list(seen)}: {AGAIN}"
            )
        try:
            labels = tuple(read_verified(bundle, manifest, manifest["labels"]).decode().rstrip("\n").split("\n"))
        except UnicodeDecodeError:
            raise ValueError(f"{bundle / manifest['labels']} is not a text in UTF-8: {AGAIN}") from None
        decision = Decision(**{name: manifest["outputs"][name] for name in ("kind", "threshold")})
        right = (1, 2) if decision.kind == BINARY else (model.classes,)
        if len(labels) not in right or (decision.kind == BINARY and model.classes != 1):
            raise ValueError(
                f"{file} returns {model.classes} probabilities, and {manifest['labels']} has {len(labels)} labels of a "
                f"{decision.kind} model: {AGAIN}"
            )
        return cls(model, labels, preprocessing, decision)

    def __call__(self, picture: Path, top: int = 5) -> list[Prediction]:
        """Classify a picture file: the `top` most probable classes, best first.

        A multi-label model gives all labels that reach the threshold or, if there are none, the `top` best, which are
        not `present`. A binary model with two names gives both, first the one that it decides for.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: `top` is under 1; the file is not a picture, is damaged, or is under 2 pixels high or wide; or
                the model returns NaN or other values that are not probabilities.
        """
        if top < 1:
            raise ValueError(f"top={top}: give 1 or more")
        probabilities = self.model(self.preprocessing.load(picture)[None])[0]
        if not (probabilities.min() >= -CLOSE and probabilities.max() <= 1 + CLOSE):  # neither where one is NaN
            raise ValueError(
                f"{picture}: the model returns {probabilities.min():.3g} to {probabilities.max():.3g}, which are not "
                "probabilities: give a file that `convmixer export` made, or one that ends in a softmax or sigmoid"
            )
        present = [None] * len(probabilities) if self.decision.kind == SINGLE else self.decision(probabilities).tolist()
        if self.decision.kind == BINARY and len(self.labels) == 2:
            probabilities, present = np.append(1 - probabilities, probabilities), [not present[0], present[0]]
            best = [int(present[1]), int(present[0])][:top]
        else:
            best = np.argsort(-probabilities, kind="stable")
            best = best[: max(sum(present), 0) or top] if self.decision.kind == MULTI else best[:top]
        return [Prediction(self.labels[index], float(probabilities[index]), present[index]) for index in best]
