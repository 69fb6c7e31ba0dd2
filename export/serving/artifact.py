"""Make the SavedModel of a bundle: write it under the next version number, load it back, check and validate it."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from keras_convmixer.deployment import deploy

from ..artifact import Artifact, Reference
from ..manifest import sha256
from ..validation.validate import ValidationError, check_dtypes
from .saved_model import OUTPUT, SavedModel
from .server_files import served_name, write_serving_files
from .signatures import PREPARED, with_features, write_serving_model

FOLDER = "saved_model"
CHANGING = ("fingerprint.pb", "saved_model.pb", "variables/")
"""Parts that differ between two exports of the same model: TensorFlow numbers a SavedModel's functions as they come,
and gives each a random identity."""
ENCODED = 8
"""Validation images that are sent to the SavedModel as PNG files too."""
PREPARED_DIFFERENCE = 1e-4
"""Largest difference of a probability between serving_default and prepared, which computes GELU in another way."""
ENCODED_DIFFERENCE = 0.02
"""Largest difference of a probability then: where images are resized, a pixel may be rounded differently."""


def export_saved_model(reference: Reference, out: Path, folder: Path) -> Artifact:
    """Write `folder`/saved_model/VERSION beside the versions of a former bundle in `out`, and validate it.

    `folder`/serving gets the files that start TF Serving with it.

    Raises ValidationError: it computes something else than the Keras model.
    """
    artifact = Artifact("saved_model")
    path = folder / FOLDER / str(max(_keep_versions(out, folder), default=0) + 1)
    # Not verified here, as the SavedModel is compared with the model itself.
    deployed = deploy(with_features(reference.model), "tensorflow", verified=False)
    write_serving_model(
        deployed,
        path,
        served_name(reference.name),
        reference.class_names,
        reference.preprocessing,
        reference.decision,
    )
    written = SavedModel(path)  # loaded back from the disk, as TF Serving will load it
    check_dtypes(artifact.name, written.input["dtype"], written.output["dtype"])
    probabilities = written(reference.images)
    _check_encoded(written, reference.preprocessing, reference.images[:ENCODED])
    _check_prepared(written, reference.images[:ENCODED], probabilities[:ENCODED])
    artifact.facts = {
        "format": "saved_model",
        "path": f"{FOLDER}/{path.name}",
        "version": int(path.name),
        "size": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "sha256": sha256(path),
        "input": {**written.input, "range": [0, 255]},
        "output": {**written.output, "range": [0, 1]},
        "signatures": written.signatures(),
        "ops": written.operators(),
        "quantization": None,
    }
    artifact.validate(reference, probabilities)
    write_serving_files(folder, reference, written)
    return artifact


def _keep_versions(out, folder):
    """Copy a former bundle's SavedModels into the new one, as TF Serving may be serving them; return their numbers."""
    former = [path for path in (out / FOLDER).glob("[1-9]*") if path.name.isdecimal() and path.is_dir()]
    for path in former:
        shutil.copytree(path, folder / FOLDER / path.name)
    return [int(path.name) for path in former]


def _check_encoded(written, preprocessing, images):
    """Check that PNG files, and one that is cut short, are answered as the images that they hold."""
    files, prepared = [], []
    for image in map(Image.fromarray, images.squeeze(-1) if images.shape[-1] == 1 else images):
        with io.BytesIO() as file:
            image.save(file, "PNG")
            files.append(file.getvalue())
        prepared.append(preprocessing.apply(image))
    # A PNG that ends after 20 bytes is answered with zeros, and must not change its neighbors' answers.
    *answered, damaged = written.encoded([*files, files[0][:20]])
    if np.abs(answered - written(np.stack(prepared))).max() > ENCODED_DIFFERENCE or damaged.any():
        raise ValidationError(
            "saved_model's signatures encoded and serving_default give the same images different probabilities"
        )


def _check_prepared(written, images, probabilities):
    """Check that the signature for converters answers as serving_default."""
    if np.abs(written.answer(PREPARED, images)[OUTPUT] - probabilities).max() > PREPARED_DIFFERENCE:
        raise ValidationError(
            "saved_model's signatures prepared and serving_default give the same images different probabilities"
        )
