"""The export pipeline: check the model, write every artifact, validate each, publish all at once."""

import datetime
import importlib.metadata
import sys
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np

from keras_convmixer import __version__
from keras_convmixer.atomic import atomic_folder, require_folder_name
from keras_convmixer.backend import require_tensorflow
from keras_convmixer.console import progress_bar
from keras_convmixer.images import Preprocessing

from .interpreter import LiteRTModel
from .litert import CONVERSIONS
from .manifest import NAME, read_manifest, sha256, write_manifest
from .operators import read_operators
from .saved_model import INPUT, OUTPUT, run_saved_model, saved_model_operators, write_saved_model
from .validate import REQUIREMENTS, ValidationError, check_litert, validate

LABELS = "labels.txt"
SAVED_MODEL = "saved_model/1"


def export_bundle(
    model: keras.Model,
    out: Path,
    *,
    class_names: tuple[str, ...],
    calibration_images: np.ndarray,
    validation_images: np.ndarray,
    validation_labels: np.ndarray | None = None,
    formats: tuple[str, ...] = tuple(CONVERSIONS),
    crop_fraction: float = 1.0,
    verbose: bool = True,
) -> dict:
    """Export a classifier that takes pixels 0..255 as a bundle; return its manifest.

    The bundle holds saved_model/1, litert/float32.tflite, litert/int8.tflite (uint8 in and out; these two as
    `formats` says), labels.txt and manifest.json. It appears under its name only when every artifact was run on the validation images and
    agreed with the Keras model; otherwise, or when the process is killed, a former bundle stays as it was.
    Logits are turned into probabilities.

    Args:
        model: one image input `[batch, height, width, channels]` of fixed size, one output
            `[batch, classes]`.
        out: the bundle's folder; a former bundle there is replaced.
        class_names: the labels, in the order of the classes; each one line, no two the same.
        calibration_images: uint8 `[count, height, width, channels]`, for the ranges of int8.
        validation_images: likewise, none of them among the calibration images.
        validation_labels: int `[count]`, to measure accuracy too.
        formats: which .tflite files, of "float32" and "int8".
        crop_fraction: share of a picture's shorter side that the model sees.
        verbose: show progress on stderr.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        FileExistsError: `out` is a file, or a folder that is no bundle.
        ValidationError: an artifact is not what it should be.
        ValueError: the model or the images do not fit.
    """
    require_tensorflow("export")
    out = Path(out)
    _check_out(out)
    name = model.name
    _check_choices(class_names, formats)
    model = _classifier(model, class_names)
    _check_images("calibration_images", calibration_images, model)
    _check_images("validation_images", validation_images, model)
    if validation_labels is not None and np.shape(validation_labels) != (len(validation_images),):
        raise ValueError(
            f"validation_labels has shape {np.shape(validation_labels)}: give one class number for each of the "
            f"{len(validation_images)} validation_images"
        )
    preprocessing = asdict(Preprocessing(*model.input_shape[1:], crop_fraction=crop_fraction))
    reference = _probabilities(model, validation_images)

    with progress_bar(verbose) as progress, atomic_folder(out) as folder:
        task = progress.add_task("exporting", total=1 + len(formats), detail="")
        artifacts = []

        def add(name, write, *arguments):
            progress.update(task, description=f"exporting {name}")
            described, probabilities = write(model, folder, *arguments, validation_images)
            measured = validate(name, reference, probabilities, validation_labels)
            artifacts.append(
                {"name": name, **described, "preprocessing": preprocessing, "validation": asdict(measured)}
            )
            progress.advance(task)

        add("saved_model", _write_saved_model)
        for format in formats:
            add(format, _write_litert, format, calibration_images)
        (folder / LABELS).write_text("\n".join(class_names) + "\n", encoding="utf-8")
        write_manifest(
            folder,
            {
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "versions": _versions(),
                "model": {"name": name, "parameters": model.count_params()},
                "labels": LABELS,
                "calibration": {"images": len(calibration_images)},
                "reference_accuracy": _accuracy(reference, validation_labels),
                "artifacts": artifacts,
            },
        )
    return read_manifest(out)


def _write_saved_model(model, folder, images):
    path = folder / SAVED_MODEL
    write_saved_model(model, path)
    dtypes = REQUIREMENTS["saved_model"]
    return {
        "format": "saved_model",
        "path": SAVED_MODEL,
        "size": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "sha256": sha256(path),
        "input": _tensor(INPUT, model.input_shape, dtypes.input_dtype, [0, 255]),
        "output": _tensor(OUTPUT, model.output_shape, dtypes.output_dtype, [0, 1]),
        "operators": saved_model_operators(path),
        "quantization": None,
    }, run_saved_model(path, images)


def _write_litert(model, folder, name, calibration_images, images):
    content = CONVERSIONS[name](model, calibration_images)
    path = folder / "litert" / f"{name}.tflite"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    litert = LiteRTModel(content, name)
    operators = read_operators(content)
    check_litert(name, litert, operators)
    described = {"format": "litert", "path": path.relative_to(folder).as_posix()}
    described |= {"size": len(content), "sha256": sha256(path)}
    quantization = {}
    for side, tensor, values in (("input", litert.input, [0, 255]), ("output", litert.output, [0, 1])):
        described[side] = _tensor(
            {"input": INPUT, "output": OUTPUT}[side],
            [int(length) for length in tensor["shape"]],
            np.dtype(tensor["dtype"]).name,
            values,
        )
        scale, zero_point = tensor["quantization"]
        if scale:
            quantization[side] = {"scale": float(scale), "zero_point": int(zero_point)}
    return described | {"operators": operators.counts, "quantization": quantization or None}, litert(images)


def _tensor(name, shape, dtype, values):
    return {"name": name, "shape": list(shape), "dtype": dtype, "range": values}


def _check_out(out):
    require_folder_name(out)
    if set("*?[]\\") & set(str(out.resolve())):
        raise ValueError(
            f"{out} has one of *?[]\\ in its path, where TensorFlow cannot load a SavedModel: name another"
        )
    if out.is_dir() and any(out.iterdir()) and not (out / NAME).is_file():
        raise FileExistsError(f"{out} holds other things than a bundle: name a new folder, or empty that one")


def _check_choices(class_names, formats):
    if len(set(class_names)) != len(class_names) or not all(
        isinstance(label, str) and label.strip() and label.splitlines() == [label] for label in class_names
    ):
        raise ValueError("class_names: give strings of one line each, no two the same")
    unknown = sorted(set(formats) - set(CONVERSIONS))
    if unknown:
        raise ValueError(f"formats has {', '.join(unknown)}: there are {', '.join(CONVERSIONS)}")


def _classifier(model, class_names):
    """Return the model with probabilities as output, once it is one that can be exported."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"the model has {len(model.inputs)} inputs and {len(model.outputs)} outputs: "
            "export takes a classifier with one image and one output"
        )
    shape = model.input_shape[1:]
    if len(shape) != 3 or None in shape or shape[-1] not in (1, 3):
        raise ValueError(
            f"the model takes input {shape}: export takes images (height, width, 1 or 3) of one size; "
            "rebuild it with that input_shape and the same weights"
        )
    if len(model.output_shape) != 2 or model.output_shape[-1] != len(class_names):
        raise ValueError(
            f"the model returns {model.output_shape[1:]} and there are {len(class_names)} labels: "
            "export takes one output for each label"
        )
    if model.inputs[0].dtype != "float32":
        raise ValueError(
            f"the model's input is {model.inputs[0].dtype}: rebuild it with a float32 input for pixels 0..255; "
            "exported files take uint8 where they can"
        )
    for weight in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
            raise ValueError(
                f"the model's weights {weight.path} are NaN or infinite: its training diverged; train it again "
                "with a lower learning rate, or export an earlier checkpoint"
            )
    # Named anew: TensorFlow refuses names that Keras allows. Not model.input, which a loaded Sequential lacks.
    model = keras.Model(model.inputs[0], model.outputs[0], name="classifier")
    noise = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.float32)
    sample = keras.ops.convert_to_numpy(model(noise, training=False))
    if sample.min() >= 0 and np.allclose(sample.sum(-1), 1, atol=1e-3):
        return model
    return keras.Model(model.input, keras.layers.Softmax(name=OUTPUT)(model.output), name="classifier")


def _check_images(argument, images, model):
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != tuple(model.input_shape[1:]) or not len(images):
        raise ValueError(
            f"{argument} is {images.dtype} {images.shape}: give uint8 images [count, *{model.input_shape[1:]}], "
            "at least one"
        )


def _probabilities(model, images):
    model.compile(jit_compile=False)  # XLA is eight times slower on a CPU
    probabilities = model.predict(images, batch_size=64, verbose=0)
    if not np.isfinite(probabilities).all():
        raise ValidationError("the Keras model returns NaN or infinity for the validation images: train it again")
    return probabilities


def _accuracy(probabilities, labels):
    return None if labels is None else float(np.mean(probabilities.argmax(-1) == labels))


def _versions():
    packages = ("tensorflow", "keras", "ai-edge-litert", "numpy")
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "keras-convmixer": __version__,
        **{package: importlib.metadata.version(package) for package in packages},
    }
