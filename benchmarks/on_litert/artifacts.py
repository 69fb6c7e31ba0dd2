"""The files that are measured: of LiteRT, plain and deployed, and of the peers."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

import keras_convmixer as kc
from keras_convmixer.export.tflite.conversion import Conversion, convert_float32
from keras_convmixer.export.tflite.quantize import convert_dynamic, convert_int8

from .models import CALIBRATION, Subject, photographs, pointwise_alone


def convert(model: keras.Model, calibration: np.ndarray | None = None) -> bytes:
    """Convert to a float32 .tflite file, or with calibration images to int8 throughout, uint8 in and out."""
    with Conversion(model) as conversion:
        return conversion.float32 if calibration is None else convert_int8(conversion, calibration)


def write_litert(model: keras.Model, subject: Subject, folder: Path) -> dict[tuple[str, str], Path]:
    """Write plain and deployed files in each form; return {(name, form): path}."""
    written = {}

    def write(name, forms, of):
        with Conversion(of) as conversion:
            for form in forms:
                path = written[name, form] = folder / f"{name}_{form.replace(' ', '_')}.tflite"
                path.write_bytes(converters[form](conversion, calibration))

    calibration = photographs(CALIBRATION, subject.size, seed=0)
    converters = {"float32": convert_float32, "dynamic int8": convert_dynamic, "static int8": convert_int8}
    write("plain", converters, model)
    write("deployed", converters, kc.deploy(model))
    if subject.variant and subject.variant.kernel_size > 5:  # else the same as "deployed"
        write("litert_int8", ("dynamic int8", "static int8"), kc.deploy(model, "litert_int8"))
    if subject.variant:
        write("pointwise alone", ("float32", "dynamic int8"), pointwise_alone(subject))
    return written


def write_peers(model: keras.Model, subject: Subject, folder: Path) -> dict[tuple[str, str], Path]:
    """Write what the installed peers need for timm's model of the same weights; return {(engine, form): path}."""
    weights = folder / "timm.safetensors"
    kc.save_weights_torch(model, weights)
    variant = subject.variant
    arguments = {"dim": variant.dim, "depth": variant.depth, "kernel_size": variant.kernel_size}
    arguments |= {"patch_size": variant.patch_size, "num_classes": variant.classes, "activation": variant.activation}
    weights.with_suffix(".json").write_text(json.dumps(arguments))
    np.save(folder / "calibration.npy", photographs(CALIBRATION, subject.size, seed=0))
    # In a process of its own, as torchvision crashes where TensorFlow is loaded.
    command = [sys.executable, Path(__file__).parents[1] / "engines/onnx_files.py", weights, folder / "calibration.npy"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        print(f"no peers: {process.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return {}
    return {tuple(key.split(":")): Path(path) for key, path in json.loads(process.stdout.splitlines()[-1]).items()}
