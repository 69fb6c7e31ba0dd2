"""The files that are measured: of LiteRT, plain and deployed, and of the peers."""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_convmixer as kc

from .models import CALIBRATION, Subject, photographs, pointwise_alone


def convert(model: keras.Model, calibration: np.ndarray | None = None) -> bytes:
    """Convert to a float32 .tflite file, or with calibration images to int8 throughout, uint8 in and out."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default",
        lambda images: model(images, training=False),
        [tf.TensorSpec((1, *model.input_shape[1:]), "float32")],
    )
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if calibration is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[None].astype("float32")] for image in calibration)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        return converter.convert()


def quantize_pointwise(path: Path) -> bytes:
    """Give a float32 file int8 weights and dynamic int8 activations in convolutions and dense layers alone.

    Depthwise convolutions stay in float32, where XNNPACK runs them as fast as in int8; needs no calibration.
    """
    from litert_quantizer import qtyping, quantizer

    quantization = quantizer.Quantizer(str(path))
    for operation in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.FULLY_CONNECTED):
        quantization.add_dynamic_config(regex=".*", operation_name=operation, num_bits=8)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return bytes(quantization.quantize().quantized_model)


def write_litert(model: keras.Model, subject: Subject, folder: Path) -> dict[tuple[str, str], Path]:
    """Write plain and deployed files in each form; return {(conversion, form): path}."""
    calibration = photographs(CALIBRATION, subject.size, seed=0)
    written = {}

    def write(conversion, form, content):
        path = written[conversion, form] = folder / f"{conversion}_{form.replace(' ', '_')}.tflite"
        path.write_bytes(content)
        return path

    for conversion, converted in (("plain", model), ("deployed", kc.deploy(model))):
        float32 = write(conversion, "float32", convert(converted))
        write(conversion, "dynamic int8", quantize_pointwise(float32))
        write(conversion, "static int8", convert(converted, calibration))
    if subject.variant and subject.variant.kernel_size > 5:  # else the same as "deployed"
        for_int8 = kc.deploy(model, "litert_int8")
        float32 = folder / "float32_to_quantize.tflite"
        float32.write_bytes(convert(for_int8))
        write("litert_int8", "dynamic int8", quantize_pointwise(float32))
        write("litert_int8", "static int8", convert(for_int8, calibration))
        float32.unlink()
    if subject.variant:
        float32 = write("pointwise alone", "float32", convert(pointwise_alone(subject)))
        write("pointwise alone", "dynamic int8", quantize_pointwise(float32))
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
