"""Classify images with an exported model; TensorFlow is not needed."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_convmixer.files.regular_files import open_file, read_file
from keras_convmixer.images.decoding import ImageSource, name_of
from keras_convmixer.images.preprocessing import Preprocessing

from ..manifest import AGAIN, NAME, read_manifest, read_verified
from ..tflite.flatbuffer import LARGEST
from .decision import BINARY, MULTI, SINGLE, Decision
from .interpreter import LiteRTModel

CLOSE = 1e-3
"""Largest distance of a probability from 0..1 that is taken for rounding."""


@dataclass(frozen=True)
class Prediction:
    """One class that an image may show, with its probability 0..1.

    Example:
        ```python
        best = kc.export.Classifier.load("bundle")("photo.png")[0]
        f"{best.label}: {best.probability:.0%}"  # "green: 98%"
        ```
    """

    label: str
    probability: float
    present: bool | None = field(default=None, repr=False)
    """Whether the probability reaches the threshold; None for single-label models, which give the first one."""

    def facts(self) -> dict:
        """Return the fields as JSON, without `present` for a single-label model.

        Example:
            ```python
            kc.export.Prediction("green", 0.98).facts()  # {"label": "green", "probability": 0.98}
            ```
        """
        return {name: value for name, value in vars(self).items() if value is not None}


class Classifier:
    """A .tflite file, of a bundle or any other, with its labels and its preprocessing; threads may share one.

    Example:
        ```python
        classify = kc.export.Classifier.load("bundle")
        classify("photo.png")  # [Prediction(label="green", probability=0.98), ...]
        classify(images[0])  # pixels uint8 [height, width, 3], such as a frame of a video
        classify.batch(["photo.png", images[0]])  # a list of predictions for each
        ```
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
        # An interpreter has one input tensor: a second thread would overwrite it. One thread at a time runs the model,
        # which uses all cores itself; decoding and resizing are done outside the lock.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str | os.PathLike[str], format: str | None = None, threads: int | None = None) -> "Classifier":
        """Load a bundle's artifact of one format, or a .tflite file.

        A file in a bundle gets the bundle's labels and preprocessing. Any other file gets the largest centered part of
        an image that has its proportions, and the labels "class 0", "class 1" and so on; it is taken as binary if it
        has a single output, else as single-label.

        Args:
            path: a bundle's folder, or a .tflite file.
            format: of a bundle, such as "int8"; "float32" where none is named.
            threads: of the interpreter; by default all cores that this process may use.

        Raises:
            FileNotFoundError: there is no such file or folder.
            ValueError: it is not a bundle or .tflite file, has no such format, or was changed since the export.

        Example:
            ```python
            kc.export.Classifier.load("bundle", format="int8", threads=2)
            kc.export.Classifier.load("bundle/litert/int8.tflite")  # the same
            ```
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
            raise ValueError(f"{bundle / manifest['labels']} is not UTF-8 text: {AGAIN}") from None
        decision = Decision(**{name: manifest["outputs"][name] for name in ("kind", "threshold")})
        right = (1, 2) if decision.kind == BINARY else (model.classes,)
        if len(labels) not in right or (decision.kind == BINARY and model.classes != 1):
            raise ValueError(
                f"{file} returns {model.classes} probabilities, and {manifest['labels']} has {len(labels)} labels of a "
                f"{decision.kind} model: {AGAIN}"
            )
        return cls(model, labels, preprocessing, decision)

    def __call__(self, image: ImageSource, top: int = 5) -> list[Prediction]:
        """Classify one image; return the `top` most probable classes, best first.

        A multi-label model returns all labels that reach the threshold or, if there are none, the `top` best, which are
        not `present`. A binary model with two names returns both, first the one that it decides for.

        Args:
            image: the path of a file or its content, uint8 pixels `[height, width, 3]` (RGB) or `[height, width]`
                (grey), or a Pillow image, of any size.
            top: how many classes to return at most.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: `top` is under 1; the source is not an image, is damaged, or is under 2 pixels high or wide; an
                array has another shape or dtype; or the model returns NaN or other values that are not probabilities.

        Example:
            ```python
            kc.export.Classifier.load("bundle")("photo.png", top=1)
            ```
        """
        if top < 1:
            raise ValueError(f"top={top}: give 1 or more")
        pixels = self.preprocessing.load(image)  # uint8 [height, width, channels]
        with self._lock:
            probabilities = self.model(pixels[None])[0]  # float32 [classes]
        if not (probabilities.min() >= -CLOSE and probabilities.max() <= 1 + CLOSE):  # neither where one is NaN
            raise ValueError(
                f"{name_of(image)}: the model returns {probabilities.min():.3g} to {probabilities.max():.3g}, which "
                "are not probabilities: give a file that `convmixer export` made, or one that ends in a softmax or "
                "sigmoid"
            )
        return self._predictions(probabilities, top)

    def batch(self, images: Sequence[ImageSource] | np.ndarray, top: int = 5) -> list[list[Prediction]]:
        """Classify several images; return the predictions of each, as a call with that image does.

        Args:
            images: what a call takes, in a list or as one array `[count, height, width, channels]`.
            top: how many classes to return at most for each image.

        Raises what a call raises, at the first image that cannot be classified.

        Example:
            ```python
            classify = kc.export.Classifier.load("bundle")
            [best.label for best, *_ in classify.batch(images)]  # one label for each image
            ```
        """
        return [self(image, top) for image in images]

    def _predictions(self, probabilities, top):
        if self.decision.kind == SINGLE:
            best = np.argsort(-probabilities, kind="stable")[:top]
            return [Prediction(self.labels[index], float(probabilities[index])) for index in best]
        present = self.decision(probabilities).tolist()  # bool [classes]
        if self.decision.kind == BINARY and len(self.labels) == 2:  # the one probability is the second label's
            probabilities, present = np.append(1 - probabilities, probabilities), [not present[0], present[0]]
            best = [int(present[1]), int(present[0])][:top]
        else:
            best = np.argsort(-probabilities, kind="stable")
            best = best[: sum(present) or top] if self.decision.kind == MULTI else best[:top]
        return [Prediction(self.labels[index], float(probabilities[index]), present[index]) for index in best]
