"""Classify picture files with an exported model; TensorFlow is not needed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_convmixer.images import Preprocessing

from .interpreter import LiteRTModel
from .manifest import NAME, read_manifest, read_verified


@dataclass(frozen=True)
class Prediction:
    """One class that a picture may show, with its probability 0..1."""

    label: str
    probability: float


class Classifier:
    """A bundle's .tflite file, or any other, with its labels and its preprocessing."""

    def __init__(self, model: LiteRTModel, labels: tuple[str, ...], preprocessing: Preprocessing):
        self.model = model
        self.labels = labels
        self.preprocessing = preprocessing

    @classmethod
    def load(cls, path: Path, format: str | None = None, threads: int | None = None) -> "Classifier":
        """Load a bundle's artifact of that format, "float32" where none is named, or a .tflite file.

        A file that lies in a bundle takes labels and preprocessing from there; another is fed the centre of
        the picture, and its labels are the numbers of its classes.

        Raises:
            FileNotFoundError: there is no such file or folder.
            ValueError: it is no bundle or .tflite file, has no such format, or was changed since the export.
        """
        path = Path(path)
        if path.is_dir():
            return cls._from_bundle(path, read_manifest(path), format or "float32", threads)
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such bundle or .tflite file")
        if format is not None:
            raise ValueError(f"{path} is one file and has no formats: leave --format out, or name the bundle")
        bundle = path.resolve().parent.parent
        if path.resolve().parent.name == "litert" and (bundle / NAME).is_file():
            manifest = read_manifest(bundle)
            inside = path.resolve().relative_to(bundle).as_posix()
            for artifact in manifest["artifacts"]:
                if artifact["path"] == inside:
                    return cls._from_bundle(bundle, manifest, artifact["name"], threads)
        model = LiteRTModel(path.read_bytes(), str(path), threads)
        labels = tuple(f"class {number}" for number in range(model.classes))
        return cls(model, labels, Preprocessing(model.height, model.width, model.channels))

    @classmethod
    def _from_bundle(cls, bundle, manifest, name, threads):
        artifacts = {a["name"]: a for a in manifest["artifacts"] if a["format"] == "litert"}
        if name not in artifacts:
            raise ValueError(f"{bundle} has no .tflite file {name!r}: it has {', '.join(artifacts) or 'none'}")
        artifact = artifacts[name]
        content = read_verified(bundle, manifest, artifact["path"])
        labels = read_verified(bundle, manifest, manifest["labels"]).decode().rstrip("\n").split("\n")
        model = LiteRTModel(content, str(bundle / artifact["path"]), threads)
        return cls(model, tuple(labels), Preprocessing.from_facts(artifact["preprocessing"]))

    def __call__(self, picture: Path, top: int = 5) -> list[Prediction]:
        """Classify a picture file: the `top` most probable classes, best first.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: `top` is under 1, or the file is no picture, is damaged, or is under 2 pixels high or wide.
        """
        if top < 1:
            raise ValueError(f"top={top}: give 1 or more")
        probabilities = self.model(self.preprocessing.load(picture)[None])[0]
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [Prediction(self.labels[index], float(probabilities[index])) for index in best]
