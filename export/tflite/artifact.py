"""Make the .tflite files of a bundle: convert, write, check and validate each, or reject it with a reason."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import keras
import numpy as np

from keras_convmixer.deployment import deploy

from ..artifact import Artifact, Reference
from ..formats import FORMATS, deployed_for, gzip_size
from ..manifest import sha256
from ..runtime.decision import BINARY
from ..runtime.interpreter import LiteRTModel
from ..serving.saved_model import INPUT, OUTPUT
from ..validation.requirements import REQUIREMENTS
from ..validation.validate import check_litert
from .conversion import Conversion
from .layer_errors import IMAGES, layer_errors
from .operators import read_operators
from .rewrites.metadata import add_metadata
from .rewrites.operator_versions import oldest_runtime


class Conversions(contextlib.ExitStack):
    """A model's conversions by the target that it is deployed for; each is begun once, when it is first asked for."""

    def __init__(self, model: keras.Model):
        super().__init__()
        self._model = model
        self._begun = {}

    def __getitem__(self, target: str) -> Conversion:
        if target not in self._begun:
            # Not verified here, as every file is compared with the model itself.
            deployed = deploy(self._model, target, verified=False)
            self._begun[target] = self.enter_context(Conversion(deployed))
        return self._begun[target]


def export_litert(
    format: str,
    reference: Reference,
    conversions: Conversions,
    folder: Path,
    target: str,
    calibration_images: np.ndarray,
    qat_int8: bytes | None,
) -> Artifact:
    """Write `folder`/litert/FORMAT.tflite and validate it. Where any of this fails, leave no file and say why.

    `target` is the export's, see `formats.deployed_for`. Raises OSError: the disk is full, which is no format's fault.
    """
    artifact = Artifact(format)
    path = folder / "litert" / f"{format}.tflite"
    try:
        made_for = deployed_for(format, target)
        _convert(artifact, conversions[made_for], calibration_images, qat_int8)
        if FORMATS[format].calibrated:
            artifact.layers = layer_errors(artifact.deployed, artifact.content, reference.images)
        litert = _write(artifact, path, made_for, reference)
        artifact.validate(reference, litert(reference.images))
    except Exception as error:  # converters, quantizers and interpreters raise errors of any type
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        path.unlink(missing_ok=True)
        artifact.reject(error)
    return artifact


def worst_layers(artifacts: list[Artifact], images: np.ndarray) -> dict | None:
    """Return the layers' errors of the file that agrees least with the Keras model, for the manifest.

    A file that was trained is left out, as its weights are not the model's.
    """
    measured = [a for a in artifacts if a.validation and a.content is not None and FORMATS[a.name].convert]
    if not measured:
        return None
    # Of equals the last, published ones before rejected ones.
    measured = sorted(measured, key=lambda artifact: not artifact.is_published)
    worst = min(reversed(measured), key=lambda artifact: artifact.validation.agreement)
    layers = worst.layers or layer_errors(worst.deployed, worst.content, images)
    return {"format": worst.name, "images": min(IMAGES, len(images)), "layers": layers}


def _convert(artifact, conversion, calibration_images, qat_int8):
    convert = FORMATS[artifact.name].convert
    artifact.content = convert(conversion, calibration_images) if convert else qat_int8
    artifact.deployed = conversion.model


def _write(artifact, path, target, reference):
    """Write the file with its metadata, note its facts, and return it opened."""
    name, scheme = artifact.name, FORMATS[artifact.name].scheme
    # MediaPipe wants a label for each score, and a binary model has one score.
    scored = reference.class_names[-1:] if reference.decision.kind == BINARY else reference.class_names
    float_input = REQUIREMENTS[name].input_dtype == "float32"
    image = reference.images.shape[1:]  # [height, width, channels]
    content = add_metadata(artifact.content, reference.name, scheme, scored, float_input, image)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    litert = LiteRTModel(content, name)
    operators = read_operators(content)
    check_litert(name, litert, operators)
    artifact.facts = {
        "format": "litert",
        "scheme": scheme,
        "target": target,
        "path": f"{path.parent.name}/{path.name}",
        "oldest_runtime": oldest_runtime(content),
        "size": len(content),
        "gzip_size": gzip_size(content),
        "sha256": sha256(path),
        "input": _tensor(INPUT, litert.input, [0, 255]),
        "output": _tensor(OUTPUT, litert.output, [0, 1]),
        "ops": operators.counts,
        "quantization": _quantization(litert),
    }
    return litert


def _tensor(name, details, values):
    shape = [int(length) for length in details["shape"]]
    return {"name": name, "shape": shape, "dtype": np.dtype(details["dtype"]).name, "range": values}


def _quantization(litert):
    """Return scale and zero point of input and output, None where both are float."""
    quantization = {}
    for side, (scale, zero_point) in (
        ("input", litert.input["quantization"]),
        ("output", litert.output["quantization"]),
    ):
        if scale:
            quantization[side] = {"scale": float(scale), "zero_point": int(zero_point)}
    return quantization or None
