"""The export pipeline: check the model, write every artifact, validate each, publish all at once."""

import contextlib
import datetime
import errno
import functools
import importlib.metadata
import io
import shutil
import sys
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_convmixer import __version__
from keras_convmixer.backend import require_tensorflow
from keras_convmixer.console import progress_bar
from keras_convmixer.deployment import deploy
from keras_convmixer.files.atomic import atomic_folder
from keras_convmixer.files.labels import NAME as LABELS
from keras_convmixer.files.labels import write_labels
from keras_convmixer.files.printable import printable
from keras_convmixer.images.decoding import MAX_PIXELS
from keras_convmixer.images.preprocessing import Preprocessing
from keras_convmixer.outputs.classifier import predict

from .arguments import check_choices, check_images, check_out, exportable_classifier
from .decision import BINARY, SINGLE, Decision, checked_labels, stated_kind
from .formats import FORMATS, gzip_size
from .manifest import NAME, read_manifest, sha256, write_manifest
from .reference import check_reference
from .report.html_report import NAME as REPORT
from .report.html_report import write_report
from .report.model_card import NAME as CARD
from .report.model_card import write_model_card
from .report.text import without_places
from .runtime.benchmarking import QUICK_THREADS, processor, quick_latencies
from .runtime.interpreter import LiteRTModel
from .serving.saved_model import INPUT, OUTPUT, SavedModel
from .serving.server_files import served_name, write_serving_files
from .serving.signatures import with_features, write_serving_model
from .tflite.conversion import Conversion
from .tflite.layer_errors import IMAGES, layer_errors
from .tflite.metadata import add_metadata
from .tflite.operator_versions import oldest_runtime
from .tflite.operators import read_operators
from .validate import REQUIREMENTS, ValidationError, accuracy, check_dtypes, check_litert, validate

SAVED_MODELS = "saved_model"
DEFAULT_FORMATS = ("float32", "float16", "dynamic", "int8")
SAVED_MODEL_CHANGES = ("fingerprint.pb", "saved_model.pb", "variables/")
ENCODED = 8
"""Validation images that are sent to the SavedModel as PNG files too."""
ENCODED_DIFFERENCE = 0.02
"""Largest difference of a probability then: where pictures are resized, a pixel may be rounded differently."""


@dataclass(frozen=True)
class _File:
    """The bytes of a .tflite file, the deployed model it was converted from, and its layers' errors if measured."""

    content: bytes
    deployed: keras.Model
    layers: list[dict] | None


def export_bundle(
    model: keras.Model,
    out: Path,
    *,
    class_names: tuple[str, ...],
    calibration_images: np.ndarray,
    validation_images: np.ndarray,
    validation_labels: np.ndarray | None = None,
    calibration_source: str | None = None,
    calibration_seed: int | None = None,
    calibration_skipped: tuple[str, ...] = (),
    formats: tuple[str, ...] = DEFAULT_FORMATS,
    target: str = "litert",
    qat_int8: bytes | None = None,
    crop_fraction: float = 1.0,
    max_pixels: int = MAX_PIXELS,
    output_kind: str | None = None,
    threshold: float = 0.5,
    expected_accuracy: float | None = None,
    verbose: bool = True,
) -> dict:
    """Export a classifier that takes pixels 0..255 as a bundle; return its manifest.

    >>> manifest = export_bundle(
    ...     model, "bundle", class_names=names, calibration_images=images[:500], validation_images=images[500:]
    ... )
    >>> [artifact["path"] for artifact in manifest["artifacts"]]
    ['saved_model/1', 'litert/float32.tflite', 'litert/float16.tflite', 'litert/dynamic.tflite', 'litert/int8.tflite']

    The bundle holds litert/FORMAT.tflite for each of `formats`, saved_model/VERSION, serving/ with what starts TF
    Serving, labels.txt, README.md, the model's card, report.html and manifest.json. The version is 1, or the next
    number where a bundle was there, whose versions stay. All is made of the model's deployed forms, see `deploy`, and
    each artifact was run on the validation images and compared with the Keras model.

    A .tflite file that cannot be made, or that falls short of its format's requirements, is left out; the manifest
    lists it under "rejected" with the reason, and the others are published. Where the model or its SavedModel is at
    fault, or when the process is killed, nothing is published and a former bundle stays as it was.

    Logits are turned into probabilities, and probabilities stay as they are; `outputs.outputs_of` decides, and the
    manifest has its decision under "outputs". A softmax gives one label of several ("single-label"), sigmoids give
    each label whose probability reaches the threshold ("multi-label"), a single sigmoid decides between two
    ("binary"). Export stops where the Keras model itself fails on the validation images, see
    `reference.check_reference`.

    Args:
        model: one image input `[batch, height, width, channels]` of fixed size, one output
            `[batch, classes]` or, of a binary model, `[batch, 1]`; float32 or integer pixels in, float32 out.
        out: the bundle's folder; a former bundle there is replaced.
        class_names: the labels, in the order of the classes; each one line, no two the same. Of a binary model the
            negative one and the positive one, or the positive one alone.
        calibration_images: uint8 `[count, height, width, channels]`, for the ranges of int8.
        validation_images: likewise, none of them among the calibration images.
        validation_labels: to measure accuracy too. Int `[count]`; of a multi-label model 0 and 1 `[count, labels]`, or
            int `[count]` where each image has one label, which is to be the most probable; of a binary model 0 and 1
            `[count]`.
        calibration_source: what the calibration images are, for the manifest.
        calibration_seed: with which they were chosen, likewise.
        calibration_skipped: a sentence for each that could not be read, likewise.
        formats: which .tflite files, of `formats.FORMATS`.
        target: how the model is deployed for dynamic and int8, whose matrix products run in 8 bits: "litert", or
            "litert_int8", which is faster at kernels of over 25 taps and two to three times as large. The other
            formats are always deployed for "litert".
        qat_int8: the file that `quantization_aware` returned for this model; for format qat_int8.
        crop_fraction: share of a picture's shorter side that the model sees.
        max_pixels: largest picture, height times width, that the SavedModel and `Classifier` read; they refuse larger
            ones unread. A picture takes 3 bytes a pixel while it is prepared.
        output_kind: "single-label", "multi-label" or "binary", for a model that ends in logits, which look alike. None
            takes the kind from the end of the model, or from validation_labels `[count, labels]` with none or several
            in a row, or from the compiled loss (BinaryCrossentropy(from_logits=True)); else it is "single-label".
        threshold: probability, 0..1, from which on a multi-label or binary model gives a label.
        expected_accuracy: the accuracy that training measured, 0..1; export stops where the model is far below it.
        verbose: show progress on stderr.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        FileExistsError: `out` is a file, or a folder that is not a bundle; or another process exports there.
        ValidationError: the Keras model fails on the validation images, or the SavedModel computes something else than
            the Keras model.
        ValueError: the model or the images do not fit.
        OSError: the disk is full.
    """
    require_tensorflow("export")
    out = Path(out)
    check_out(out)
    name = model.name
    check_choices(class_names, formats, target)
    if "qat_int8" in formats and qat_int8 is None:
        raise ValueError("formats has qat_int8: give qat_int8=quantization_aware(model, ...), which trains it")
    kind = output_kind or stated_kind(validation_labels)
    model = exportable_classifier(model, class_names, kind, validation_images)
    decision = Decision(model.returns.kind, None if model.returns.kind == SINGLE else threshold)
    check_images("calibration_images", calibration_images, model)
    check_images("validation_images", validation_images, model)
    if validation_labels is not None:
        images, classes = len(validation_images), model.output_shape[-1]
        validation_labels = checked_labels(decision.kind, validation_labels, images, classes)
    if expected_accuracy is not None and not 0 <= expected_accuracy <= 1:
        raise ValueError(f"expected_accuracy={expected_accuracy}: give a share, 0..1")
    seen = Preprocessing(*model.input_shape[1:], crop_fraction=crop_fraction, max_pixels=max_pixels)
    preprocessing = seen.facts()
    with keras.device("cpu"):  # a GPU rounds matrix products to TF32, which is no reference to compare with
        reference = predict(model, validation_images)
    doubts = check_reference(model, decision, validation_images, reference, validation_labels, expected_accuracy)
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=2)

    with (
        progress_bar(verbose) as progress,
        atomic_folder(out, alone=True) as folder,
        contextlib.ExitStack() as conversions,
    ):
        task = progress.add_task("exporting", total=1 + len(formats), detail="")
        artifacts, rejected, files = [], [], {}

        def add(name, write, source, *arguments, layers=None):
            facts, probabilities = write(source, folder, *arguments, validation_images)
            measured = validate(name, reference, probabilities, validation_labels, layers, decision)
            artifacts.append({"name": name, **facts, "preprocessing": preprocessing, "validation": asdict(measured)})

        @functools.cache
        def deployed_for(target):
            # Not verified here, as every file is compared with the model itself.
            return deploy(with_features(model) if target == "tensorflow" else model, target, verified=False)

        @functools.cache
        def conversion_for(target):
            return conversions.enter_context(Conversion(deployed_for(target)))

        progress.update(task, description="exporting saved_model")
        version = max(_keep_versions(out, folder), default=0) + 1
        add("saved_model", _write_saved_model, deployed_for("tensorflow"), name, version, class_names, seen, decision)
        scored = class_names[-1:] if decision.kind == BINARY else class_names  # MediaPipe: a label for each score
        write_serving_files(folder, name)
        progress.advance(task)
        for format in formats:
            progress.update(task, description=f"exporting {format}")
            try:
                made_for = target if FORMATS[format].in_8_bits else "litert"
                files[format] = file = _make(format, conversion_for(made_for), qat_int8, calibration_images)
                if FORMATS[format].calibrated:
                    layers = layer_errors(file.deployed, file.content, validation_images)
                    files[format] = file = replace(file, layers=layers)
                add(format, _write_litert, file.content, format, made_for, name, scored, layers=file.layers)
            except Exception as error:  # converters, quantizers and interpreters raise errors of any type
                if getattr(error, "errno", None) == errno.ENOSPC:
                    raise
                _path_of(folder, format).unlink(missing_ok=True)
                rejected.append(_rejection(format, error))
            progress.advance(task)
        progress.update(task, description="measuring layers")
        layers = _worst_layers(files, artifacts + rejected, validation_images)
        progress.update(task, description="timing")
        published = {a["name"]: files[a["name"]].content for a in artifacts if a["format"] == "litert"}
        latency = {"threads": QUICK_THREADS, "processor": processor(), "milliseconds": quick_latencies(published)}
        write_labels(folder, class_names)
        content = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": _versions(),
            "model": {"name": name, "parameters": model.count_params()},
            "labels": LABELS,
            "outputs": {**decision.facts(), "added": model.returns.added, "reason": model.returns.reason},
            "warnings": [_for_strangers(doubt) for doubt in doubts],
            "calibration": {
                "images": len(calibration_images),
                "source": calibration_source and _for_strangers(calibration_source),
                "seed": calibration_seed,
                "skipped": [_for_strangers(sentence) for sentence in calibration_skipped],
            },
            "reference_accuracy": accuracy(reference, validation_labels, decision),
            "artifacts": artifacts,
            "rejected": rejected,
            "layer_errors": layers,
            "latency": latency,
            # TensorFlow numbers a SavedModel's functions as they come, and gives each a random identity; card and
            # report have its size.
            "changing": [NAME, CARD, REPORT, *(f"{artifacts[0]['path']}/{part}" for part in SAVED_MODEL_CHANGES)],
        }
        write_model_card(folder, content, class_names)
        write_report(folder, content)
        write_manifest(folder, content)
        manifest = read_manifest(folder)
    return manifest


def _make(format, conversion, qat_int8, calibration_images):
    convert = FORMATS[format].convert
    return _File(convert(conversion, calibration_images) if convert else qat_int8, conversion.model, None)


def _rejection(format, error):
    """Return the manifest's entry for a format that is not published, with the error's type and its first line."""
    measured = getattr(error, "measured", None)
    kind, (sentence, *_) = type(error).__name__, str(error).strip().split("\n")
    if not isinstance(error, ValidationError):
        # The package's own ValueErrors are sentences; another type is part of what whoever reports it has to tell.
        cause = sentence if type(error) is ValueError and sentence else f"{kind}: {sentence}".removesuffix(": ")
        sentence = f"{format} was not made: {cause}"
    return {
        "name": format,
        "error": kind,
        "reason": _for_strangers(sentence),
        "validation": measured and asdict(measured),
    }


def _for_strangers(sentence):
    """Return a sentence for the manifest: without this machine's paths and without control characters."""
    return printable(without_places(sentence))


def _worst_layers(files, measured, images):
    """Return the layers' errors of the file that agrees least; of those with the model's own weights."""
    agreement = {
        file["name"]: file["validation"]["agreement"]
        for file in measured
        if file["validation"] and file["name"] in files and FORMATS[file["name"]].convert
    }
    if not agreement:
        return None
    worst = min(reversed(agreement), key=agreement.get)  # of equals the last
    file = files[worst]
    layers = file.layers or layer_errors(file.deployed, file.content, images)
    return {"format": worst, "images": min(IMAGES, len(images)), "layers": layers}


def _keep_versions(out, folder):
    """Copy a former bundle's SavedModels into the new one, as TF Serving may be serving them; return their numbers."""
    former = [path for path in (out / SAVED_MODELS).glob("[1-9]*") if path.name.isdecimal() and path.is_dir()]
    for path in former:
        shutil.copytree(path, folder / SAVED_MODELS / path.name)
    return [int(path.name) for path in former]


def _write_saved_model(model, folder, name, version, class_names, preprocessing, decision, images):
    place = f"{SAVED_MODELS}/{version}"
    path = folder / place
    write_serving_model(model, path, served_name(name), class_names, preprocessing, decision)
    written = SavedModel(path)
    check_dtypes("saved_model", written.input["dtype"], written.output["dtype"])
    probabilities = written(images)
    _check_encoded(written, preprocessing, images[:ENCODED])
    return {
        "format": "saved_model",
        "path": place,
        "version": version,
        "size": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "sha256": sha256(path),
        "input": {**written.input, "range": [0, 255]},
        "output": {**written.output, "range": [0, 1]},
        "signatures": written.signatures(),
        "ops": written.operators(),
        "quantization": None,
    }, probabilities


def _check_encoded(written, preprocessing, images):
    files, prepared = [], []
    for image in map(Image.fromarray, images.squeeze(-1) if images.shape[-1] == 1 else images):
        with io.BytesIO() as file:
            image.save(file, "PNG")
            files.append(file.getvalue())
        prepared.append(preprocessing.apply(image))
    *answered, damaged = written.encoded([*files, files[0][:20]])
    if np.abs(answered - written(np.stack(prepared))).max() > ENCODED_DIFFERENCE or damaged.any():
        raise ValidationError(
            "saved_model's signatures encoded and serving_default answer the same pictures differently"
        )


def _write_litert(content, folder, name, target, model_name, class_names, images):
    dtype = REQUIREMENTS[name].input_dtype
    content = add_metadata(content, model_name, FORMATS[name].scheme, class_names, dtype == "float32", images.shape[1:])
    path = _path_of(folder, name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    litert = LiteRTModel(content, name)
    operators = read_operators(content)
    check_litert(name, litert, operators)
    facts = {"format": "litert", "scheme": FORMATS[name].scheme, "target": target}
    facts |= {"path": path.relative_to(folder).as_posix()}
    facts["oldest_runtime"] = oldest_runtime(content)
    facts |= {"size": len(content), "gzip_size": gzip_size(content), "sha256": sha256(path)}
    quantization = {}
    for side, tensor, values in (("input", litert.input, [0, 255]), ("output", litert.output, [0, 1])):
        facts[side] = {
            "name": {"input": INPUT, "output": OUTPUT}[side],
            "shape": [int(length) for length in tensor["shape"]],
            "dtype": np.dtype(tensor["dtype"]).name,
            "range": values,
        }
        scale, zero_point = tensor["quantization"]
        if scale:
            quantization[side] = {"scale": float(scale), "zero_point": int(zero_point)}
    return facts | {"ops": operators.counts, "quantization": quantization or None}, litert(images)


def _path_of(folder, format):
    return folder / "litert" / f"{format}.tflite"


def _versions():
    packages = ("tensorflow", "keras", "ai-edge-litert", "litert-quantizer", "numpy")
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "keras-convmixer": __version__,
        **{package: importlib.metadata.version(package) for package in packages},
    }
