"""The export pipeline: check the model, make and validate every artifact, publish all of them at once."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_convmixer import __version__
from keras_convmixer.environment.backend import require_tensorflow
from keras_convmixer.environment.console import progress_bar, waiting
from keras_convmixer.files.atomic import atomic_folder
from keras_convmixer.files.labels import NAME as LABELS
from keras_convmixer.files.labels import write_labels
from keras_convmixer.images.decoding import MAX_PIXELS
from keras_convmixer.images.preprocessing import Preprocessing
from keras_convmixer.outputs.classifier import predict

from .artifact import Artifact, Reference
from .choices import DEFAULT_FORMATS, FormatName, OutputKind, Target
from .manifest import NAME, read_manifest, write_manifest
from .report.html_report import NAME as REPORT
from .report.html_report import write_report
from .report.model_card import NAME as CARD
from .report.model_card import write_model_card
from .report.text import without_local_paths
from .runtime.acceleration import measure_acceleration
from .runtime.benchmarking import QUICK_THREADS, processor, quick_latencies
from .runtime.decision import SINGLE, Decision, checked_labels, stated_kind
from .serving.artifact import CHANGING, export_saved_model
from .tflite.artifact import Conversions, export_litert, worst_layers
from .validation.arguments import check_choices, check_description, check_images, exportable_classifier
from .validation.folder import check_out
from .validation.reference import check_reference
from .validation.validate import accuracy


def export_bundle(
    model: keras.Model,
    out: str | os.PathLike[str],
    *,
    class_names: tuple[str, ...],
    calibration_images: np.ndarray,
    validation_images: np.ndarray,
    validation_labels: np.ndarray | None = None,
    calibration_source: str | None = None,
    calibration_seed: int | None = None,
    calibration_skipped: tuple[str, ...] = (),
    formats: tuple[FormatName, ...] = DEFAULT_FORMATS,
    target: Target = "litert",
    qat_int8: bytes | None = None,
    crop_fraction: float = 1.0,
    max_pixels: int = MAX_PIXELS,
    output_kind: OutputKind | None = None,
    threshold: float = 0.5,
    expected_accuracy: float | None = None,
    name: str | None = None,
    license: str | None = None,
    training_data: str | None = None,
    verbose: bool = True,
) -> dict[str, Any]:
    """Export a classifier that takes pixels 0..255 as a bundle; return its manifest.

    The bundle holds litert/FORMAT.tflite for each of `formats`, saved_model/VERSION, serving/ with the files that
    start TF Serving, labels.txt, README.md (the model's card), report.html and manifest.json. The version is 1, or the
    next number if `out` holds a bundle already, whose versions are kept. Every artifact is made of the model's deployed
    forms (see `deploy`), run on the validation images and compared with the Keras model.

    A .tflite file that cannot be made, or that misses its format's requirements, is left out: the manifest lists it
    under "rejected" with the reason, and the other artifacts are published. If the model or its SavedModel is at fault,
    or the process is killed, nothing is published and a former bundle stays as it was.

    Logits are turned into probabilities; probabilities stay as they are. `outputs.kind.outputs_of` decides which they
    are, and the manifest records its decision under "outputs". After a softmax an image gets the most probable label
    ("single-label"), after sigmoids every label whose probability reaches the threshold ("multi-label"), and a single
    sigmoid decides between two labels ("binary"). The export stops if the Keras model itself fails on the validation
    images, see `validation.reference.check_reference`.

    Example:
        ```python
        from keras_convmixer.export import export_bundle

        manifest = export_bundle(
            model,
            "my_bundle",
            class_names=("red", "green", "blue"),
            calibration_images=images[:20],
            validation_images=images[20:],
            validation_labels=labels[20:],
            formats=("float32",),
            verbose=False,
        )
        assert [artifact["path"] for artifact in manifest["artifacts"]] == ["saved_model/1", "litert/float32.tflite"]
        ```

    Args:
        model: one image input `[batch, height, width, channels]` of fixed size, float32 or integer pixels 0..255; one
            float32 output `[batch, classes]`, or `[batch, 1]` of a binary model.
        out: the bundle's folder. A former bundle there is replaced.
        class_names: the labels in the order of the classes, each one line of text, no two the same. Of a binary model
            the negative and the positive label, or the positive one alone.
        calibration_images: uint8 `[count, height, width, channels]`. They set the ranges of int8 and int16x8.
        validation_images: likewise; none of them may be among the calibration images.
        validation_labels: the true labels, to measure accuracy. Int `[count]`. Of a multi-label model 0 and 1
            `[count, labels]`, or int `[count]` if each image has one label, which has to be the most probable. Of a
            binary model 0 and 1 `[count]`.
        calibration_source: what the calibration images are, for the manifest.
        calibration_seed: the seed they were sampled with, for the manifest.
        calibration_skipped: one sentence for each image that could not be read, for the manifest.
        formats: which .tflite files to make, of `choices.FormatName`.
        target: how the model is deployed, see `deploy`. "litert": for CPUs. "litert_int8": dynamic and int8, which
            compute in 8 bits, are faster on CPUs for kernels of over 25 taps, and two to three times as large.
            "litert_gpu": all files but qat_int8 are for GPUs. float16 always is.
        qat_int8: the file that `quantization_aware` returned for this model; format qat_int8 needs it.
        crop_fraction: fraction of an image's shorter side that the model sees, 0.25..1.
        max_pixels: height times width of the largest image that the SavedModel and `Classifier` read; they refuse
            larger ones unread. An image takes 3 bytes a pixel while it is prepared.
        output_kind: kind of a model that ends in logits, which look alike. None takes the kind from the end of the
            model, or from validation_labels `[count, labels]` with none or several in a row, or from the compiled loss
            (BinaryCrossentropy(from_logits=True)); otherwise it is "single-label".
        threshold: probability, 0..1, at or above which a multi-label or binary model gives a label.
        expected_accuracy: the accuracy that training measured, 0..1; the export stops if the model is far below it.
        name: the model's name in manifest, card, .tflite metadata and, with other characters than letters, digits and
            _.- replaced, in TF Serving's addresses. None takes `model.name`.
        license: SPDX identifier of the model's license, such as "apache-2.0", for manifest and card.
        training_data: what the model was trained on and under which license, one line, for manifest and card.
        verbose: show progress on stderr.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        FileExistsError: `out` is a file, or a folder that is not a bundle; or another process exports there.
        ValidationError: the Keras model fails on the validation images, or the SavedModel computes something else than
            the Keras model.
        ValueError: the model or the images do not fit, or an argument is out of its range.
        OSError: the disk is full.
    """
    require_tensorflow("export")
    out = Path(out)
    # Mistakes in the arguments are found before anything is computed.
    check_out(out)
    check_choices(class_names, formats, target, qat_int8)
    check_description(name, license, training_data)

    # What every artifact has to reproduce.
    with waiting("running the Keras model on the validation images", verbose):
        reference = _run_reference(
            model,
            name or model.name,
            class_names,
            calibration_images,
            validation_images,
            validation_labels,
            crop_fraction=crop_fraction,
            max_pixels=max_pixels,
            kind=output_kind or stated_kind(validation_labels),
            threshold=threshold,
            expected_accuracy=expected_accuracy,
        )
    for doubt in reference.warnings:
        warnings.warn(doubt, stacklevel=2)

    with (
        progress_bar(verbose) as progress,
        atomic_folder(out, alone=True) as folder,  # takes `out`'s place at the end; alone: one export at a time
        Conversions(reference.model) as conversions,
    ):
        # A fault of the SavedModel ends the export; a .tflite file that fails is only rejected.
        task = progress.add_task("exporting saved_model", total=1 + len(formats), detail="")
        artifacts = [export_saved_model(reference, out, folder)]
        progress.advance(task)
        for format in formats:
            progress.update(task, description=f"exporting {format}")
            artifacts.append(
                export_litert(format, reference, conversions, folder, target, calibration_images, qat_int8)
            )
            progress.advance(task)

        progress.update(task, description="measuring layers")
        layers = worst_layers(artifacts, validation_images)
        progress.update(task, description="measuring what GPUs take")
        _measure_acceleration(artifacts, folder)
        progress.update(task, description="timing")
        latency = _latency(artifacts)

        progress.update(task, description="writing the report")
        write_labels(folder, class_names)
        description = {"license": license, "training_data": training_data and without_local_paths(training_data)}
        calibration = {
            "images": len(calibration_images),
            "source": calibration_source and without_local_paths(calibration_source),
            "seed": calibration_seed,
            "skipped": [without_local_paths(sentence) for sentence in calibration_skipped],
        }
        content = _manifest(reference, artifacts, description, calibration, layers, latency)
        write_model_card(folder, content, class_names)
        write_report(folder, content)
        write_manifest(folder, content)  # last, as it holds the other files' checksums
        return read_manifest(folder)


def _run_reference(
    model,
    name,
    class_names,
    calibration_images,
    validation_images,
    validation_labels,
    *,
    crop_fraction,
    max_pixels,
    kind,
    threshold,
    expected_accuracy,
) -> Reference:
    """Check the model and the images, run the model, and check that it recognizes the validation images."""
    model = exportable_classifier(model, class_names, kind, validation_images)
    decision = Decision(model.returns.kind, None if model.returns.kind == SINGLE else threshold)
    check_images("calibration_images", calibration_images, model)
    check_images("validation_images", validation_images, model)
    if validation_labels is not None:
        classes = model.output_shape[-1]
        validation_labels = checked_labels(decision.kind, validation_labels, len(validation_images), classes)
    if expected_accuracy is not None and not 0 <= expected_accuracy <= 1:
        raise ValueError(f"expected_accuracy={expected_accuracy}: give a fraction, 0..1")
    preprocessing = Preprocessing(*model.input_shape[1:], crop_fraction=crop_fraction, max_pixels=max_pixels)
    with keras.device("cpu"):  # a GPU rounds matrix products to TF32, too coarse to compare with
        probabilities = predict(model, validation_images)
    doubts = check_reference(model, decision, validation_images, probabilities, validation_labels, expected_accuracy)
    return Reference(
        model,
        name,
        class_names,
        decision,
        preprocessing,
        validation_images,
        validation_labels,
        probabilities,
        doubts,
    )


def _measure_acceleration(artifacts: list[Artifact], folder: Path) -> None:
    """Note in the artifacts' facts how many operators of each published .tflite file LiteRT's GPU engine takes."""
    published = _tflite_files(artifacts)
    found = measure_acceleration({a.name: folder / a.facts["path"] for a in published})
    for artifact in published:
        artifact.facts["accelerated"] = asdict(found[artifact.name])


def _tflite_files(artifacts: list[Artifact]) -> list[Artifact]:
    """Return the published artifacts without the SavedModel."""
    return [artifact for artifact in artifacts if artifact.is_published and artifact.content is not None]


def _latency(artifacts: list[Artifact]) -> dict:
    files = {artifact.name: artifact.content for artifact in _tflite_files(artifacts)}
    return {"threads": QUICK_THREADS, "processor": processor(), "milliseconds": quick_latencies(files)}


def _manifest(reference, artifacts, description, calibration, layers, latency) -> dict:
    """Return the manifest's content without what `write_manifest` adds."""
    model, decision = reference.model, reference.decision
    published = [a.entry(reference.preprocessing) for a in artifacts if a.is_published]
    rejected = [a.entry(reference.preprocessing) for a in artifacts if not a.is_published]
    saved_model = next(entry for entry in published if entry["name"] == "saved_model")
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "model": {"name": reference.name, "parameters": model.count_params(), **description},
        "labels": LABELS,
        "outputs": {**decision.facts(), "added": model.returns.added, "reason": model.returns.reason},
        "warnings": [without_local_paths(doubt) for doubt in reference.warnings],
        "calibration": calibration,
        "reference_accuracy": accuracy(reference.probabilities, reference.labels, decision),
        "artifacts": published,
        "rejected": rejected,
        "layer_errors": layers,
        "latency": latency,
        # Card and report state the SavedModel's size.
        "changing": [NAME, CARD, REPORT, *(f"{saved_model['path']}/{part}" for part in CHANGING)],
    }


def _versions():
    packages = ("tensorflow", "keras", "ai-edge-litert", "litert-quantizer", "numpy")
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "keras-convmixer": __version__,
        **{package: importlib.metadata.version(package) for package in packages},
    }
