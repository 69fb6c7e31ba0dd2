"""The export pipeline: check the model, write every artifact, validate each, publish all at once."""

import datetime
import importlib.metadata
import io
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_convmixer import __version__
from keras_convmixer.atomic import atomic_folder, require_folder_name
from keras_convmixer.backend import require_tensorflow
from keras_convmixer.classifier import as_classifier, predict
from keras_convmixer.console import progress_bar
from keras_convmixer.deployment import deploy
from keras_convmixer.images import Preprocessing

from .benchmarking import QUICK_THREADS, processor, quick_latencies
from .formats import FORMATS, gzip_size
from .interpreter import LiteRTModel
from .layer_errors import IMAGES, layer_errors
from .manifest import NAME, read_manifest, sha256, unlisted_files, write_manifest
from .metadata import LABELS, add_metadata
from .model_card import NAME as CARD
from .model_card import write_model_card
from .operators import read_operators
from .report import NAME as REPORT
from .report import write_report
from .saved_model import INPUT, OUTPUT, SavedModel
from .serving import with_features, write_serving_model
from .serving_files import served_name, write_serving_files
from .validate import REQUIREMENTS, ValidationError, accuracy, check_dtypes, check_litert, validate

SAVED_MODELS = "saved_model"
DEFAULT_FORMATS = ("float32", "float16", "dynamic", "int8")
SAVED_MODEL_CHANGES = ("fingerprint.pb", "saved_model.pb", "variables/")
ENCODED = 8
"""Validation images that are sent to the SavedModel as PNG files too."""
ENCODED_DIFFERENCE = 0.02
"""Largest difference of a probability then: where pictures are resized, a pixel may be rounded otherwise."""


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
    qat_int8: bytes | None = None,
    crop_fraction: float = 1.0,
    verbose: bool = True,
) -> dict:
    """Export a classifier that takes pixels 0..255 as a bundle; return its manifest.

    The bundle holds litert/FORMAT.tflite for each of `formats`, saved_model/VERSION, serving/ with what starts TF
    Serving, labels.txt, README.md, the model's card, report.html and manifest.json. The version is 1, or the next
    number where a bundle was there, whose versions stay. All is made of the model's deployed forms, see `deploy`, and
    each artifact was run on the validation images and compared with the Keras model. A .tflite file that falls short is
    left out, and the manifest says under "rejected" why. Where the SavedModel falls short, or every file does, or when
    the process is killed, a former bundle stays as it was. Logits are turned into probabilities.

    Args:
        model: one image input `[batch, height, width, channels]` of fixed size, one output
            `[batch, classes]`.
        out: the bundle's folder; a former bundle there is replaced.
        class_names: the labels, in the order of the classes; each one line, no two the same.
        calibration_images: uint8 `[count, height, width, channels]`, for the ranges of int8.
        validation_images: likewise, none of them among the calibration images.
        validation_labels: int `[count]`, to measure accuracy too.
        calibration_source: what the calibration images are, for the manifest.
        calibration_seed: with which they were chosen, likewise.
        calibration_skipped: a sentence for each that could not be read, likewise.
        formats: which .tflite files, of `formats.FORMATS`.
        qat_int8: what `quantization_aware` made of this model; for format qat_int8.
        crop_fraction: share of a picture's shorter side that the model sees.
        verbose: show progress on stderr.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        FileExistsError: `out` is a file, or a folder that is no bundle.
        ValidationError: the SavedModel is not what it should be, or none of the .tflite files is.
        ValueError: the model or the images do not fit.
    """
    require_tensorflow("export")
    out = Path(out)
    _check_out(out)
    name = model.name
    _check_choices(class_names, formats)
    if "qat_int8" in formats and qat_int8 is None:
        raise ValueError("formats has qat_int8: give qat_int8=quantization_aware(model, ...), which trains it")
    model = _classifier(model, class_names)
    _check_images("calibration_images", calibration_images, model)
    _check_images("validation_images", validation_images, model)
    if validation_labels is not None and np.shape(validation_labels) != (len(validation_images),):
        raise ValueError(
            f"validation_labels has shape {np.shape(validation_labels)}: give one class number for each of the "
            f"{len(validation_images)} validation_images"
        )
    seen = Preprocessing(*model.input_shape[1:], crop_fraction=crop_fraction)
    preprocessing = seen.facts()
    with keras.device("cpu"):  # a GPU rounds matrix products to TF32, which is no reference to compare with
        reference = predict(model, validation_images)

    with progress_bar(verbose) as progress, atomic_folder(out) as folder:
        task = progress.add_task("exporting", total=1 + len(formats), detail="")
        artifacts, rejected, contents, errors = [], [], {}, {}

        def add(name, write, source, *arguments, layers=None):
            facts, probabilities = write(source, folder, *arguments, validation_images)
            measured = validate(name, reference, probabilities, validation_labels, layers)
            artifacts.append({"name": name, **facts, "preprocessing": preprocessing, "validation": asdict(measured)})
            progress.advance(task)

        progress.update(task, description="exporting saved_model")
        # Not verified here, as every file is compared with the model itself.
        versions = _keep_versions(out, folder)
        deployed = deploy(with_features(model), "tensorflow", verified=False)
        add("saved_model", _write_saved_model, deployed, name, max(versions, default=0) + 1, class_names, seen)
        write_serving_files(folder, name)
        for_litert = deploy(model, "litert", verified=False)
        for format in formats:
            progress.update(task, description=f"exporting {format}")
            try:
                make = FORMATS[format].convert
                contents[format] = make(for_litert, calibration_images) if make else qat_int8
                if FORMATS[format].calibrated:
                    errors[format] = layer_errors(for_litert, contents[format], validation_images)
                add(format, _write_litert, contents[format], format, name, class_names, layers=errors.get(format))
            except ValidationError as error:
                if len(rejected) + 1 == len(formats):
                    raise
                _path_of(folder, format).unlink(missing_ok=True)
                measured = error.measured and asdict(error.measured)
                rejected.append({"name": format, "reason": str(error), "validation": measured})
        progress.update(task, description="measuring layers")
        layers = _worst_layers(for_litert, contents, errors, artifacts + rejected, validation_images)
        progress.update(task, description="timing")
        published = {a["name"]: contents[a["name"]] for a in artifacts if a["format"] == "litert"}
        latency = {"threads": QUICK_THREADS, "processor": processor(), "milliseconds": quick_latencies(published)}
        (folder / LABELS).write_text("\n".join(class_names) + "\n", encoding="utf-8")
        content = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": _versions(),
            "model": {"name": name, "parameters": model.count_params()},
            "labels": LABELS,
            "calibration": {
                "images": len(calibration_images),
                "source": calibration_source,
                "seed": calibration_seed,
                "skipped": list(calibration_skipped),
            },
            "reference_accuracy": accuracy(reference, validation_labels),
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
    return read_manifest(out)


def _worst_layers(deployed, contents, errors, measured, images):
    """Return the layers' errors of the file that agrees least; of those with the model's own weights."""
    agreement = {
        file["name"]: file["validation"]["top1_agreement"]
        for file in measured
        if file["validation"] and file["name"] in contents and FORMATS[file["name"]].convert
    }
    if not agreement:
        return None
    worst = min(reversed(agreement), key=agreement.get)  # of equals the last
    layers = errors.get(worst) or layer_errors(deployed, contents[worst], images)
    return {"format": worst, "images": min(IMAGES, len(images)), "layers": layers}


def _keep_versions(out, folder):
    """Copy a former bundle's SavedModels into the new one, as TF Serving may be serving them; return their numbers."""
    former = [path for path in (out / SAVED_MODELS).glob("[1-9]*") if path.name.isdecimal() and path.is_dir()]
    for path in former:
        shutil.copytree(path, folder / SAVED_MODELS / path.name)
    return [int(path.name) for path in former]


def _write_saved_model(model, folder, name, version, class_names, preprocessing, images):
    place = f"{SAVED_MODELS}/{version}"
    path = folder / place
    write_serving_model(model, path, served_name(name), class_names, preprocessing)
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
        raise ValidationError("saved_model answers signature encoded otherwise than serving_default")


def _write_litert(content, folder, name, model_name, class_names, images):
    dtype = REQUIREMENTS[name].input_dtype
    content = add_metadata(content, model_name, FORMATS[name].scheme, class_names, dtype == "float32", images.shape[1:])
    path = _path_of(folder, name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    litert = LiteRTModel(content, name)
    operators = read_operators(content)
    check_litert(name, litert, operators)
    facts = {"format": "litert", "scheme": FORMATS[name].scheme, "path": path.relative_to(folder).as_posix()}
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


def _check_out(out):
    require_folder_name(out)
    if set("*?[]\\") & set(str(out.resolve())):
        raise ValueError(
            f"{out} has one of *?[]\\ in its path, where TensorFlow cannot load a SavedModel: name another"
        )
    foreign = unlisted_files(out) if out.is_dir() else []
    if foreign:
        raise FileExistsError(
            f"{out} holds other things than a bundle ({', '.join(foreign[:3])}): name a new folder, or move them away"
        )


def _check_choices(class_names, formats):
    if (
        isinstance(class_names, str)
        or len(set(class_names)) != len(class_names)
        or not all(isinstance(label, str) and label.strip() and label.splitlines() == [label] for label in class_names)
    ):
        raise ValueError("class_names: give strings of one line each, no two the same")
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise ValueError(f"formats has {', '.join(unknown)}: there are {', '.join(FORMATS)}")


def _classifier(model, class_names):
    """Return the model with probabilities as output, once it is one that can be exported."""
    classifier = as_classifier(model)
    shape = classifier.input_shape[1:]
    if None in shape or shape[-1] not in (1, 3):
        raise ValueError(
            f"the model takes images {shape}: export takes (height, width, 1 or 3) of one size; "
            "rebuild it with that input_shape and the same weights"
        )
    if classifier.output_shape[-1] != len(class_names):
        raise ValueError(
            f"the model has {classifier.output_shape[-1]} classes and there are {len(class_names)} labels: "
            "give one label for each class"
        )
    reduced = {layer.compute_dtype for layer in classifier.layers} - {"float32"}
    if reduced:
        raise ValueError(
            f"the model computes in {', '.join(sorted(reduced))}: rebuild it under the float32 policy and load the "
            "same weights"
        )
    for weight in classifier.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise ValueError(
                f"the model's weights {weight.path} are NaN or infinite: its training diverged; train it again "
                "with a lower learning rate, or export an earlier checkpoint"
            )
    return classifier


def _check_images(argument, images, model):
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != tuple(model.input_shape[1:]) or not len(images):
        raise ValueError(
            f"{argument} is {images.dtype} {images.shape}: give uint8 images [count, *{model.input_shape[1:]}], "
            "at least one"
        )


def _versions():
    packages = ("tensorflow", "keras", "ai-edge-litert", "litert-quantizer", "numpy")
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "keras-convmixer": __version__,
        **{package: importlib.metadata.version(package) for package in packages},
    }
