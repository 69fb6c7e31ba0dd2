"""Every format on old and new runtimes: what runs answers as the installed one, what does not says so."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from runtimes import INSTALLED, python_of, run

from keras_convmixer import ConvMixer, deploy
from keras_convmixer.export.formats import FORMATS
from keras_convmixer.export.tflite.conversion import Conversion
from keras_convmixer.export.tflite.rewrites.operator_versions import RUNTIMES, oldest_runtime

CONVERTED = tuple(name for name, format in FORMATS.items() if format.convert)
TOLERANCE = {"int8": 2.5 / 256, "dynamic": 0.02, "int16x8": 1e-3}
"""Largest difference of a probability between runtimes: roundings of integer kernels; 1e-5 of the float formats."""
MODELS = {
    "small": ({"dim": 16, "depth": 1, "kernel_size": 3, "patch_size": 2, "input_shape": (16, 16, 3)}, "litert"),
    "256": ({"dim": 256, "depth": 2, "kernel_size": 5, "patch_size": 2, "input_shape": (32, 32, 3)}, "litert"),
    "768": (
        {"dim": 768, "depth": 2, "kernel_size": 7, "patch_size": 7, "input_shape": (56, 56, 3), "activation": "relu"},
        "litert",
    ),
    "768 in blocks": (
        {"dim": 768, "depth": 2, "kernel_size": 7, "patch_size": 7, "input_shape": (56, 56, 3)},
        "litert_int8",
    ),
}


@dataclass(frozen=True)
class Files:
    """A model's files by format, images, and the model's own probabilities."""

    paths: dict[str, Path]
    images: np.ndarray
    probabilities: np.ndarray


@pytest.fixture(scope="module", params=MODELS)
def files(request, tmp_path_factory):
    arguments, target = MODELS[request.param]
    keras.utils.set_random_seed(0)
    model = ConvMixer(**arguments, classes=10, include_preprocessing=True)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            low, high = (0.5, -0.3, -0.3, 0.3), (1.5, 0.3, 0.3, 1.5)
            layer.set_weights(
                [random.uniform(*ends, layer.get_weights()[0].shape) for ends in zip(low, high, strict=True)]
            )
    dense = model.layers[-1]
    # Rows of very different size, which one scale for all of them would not fit.
    kernel = random.normal(0, 3 / np.sqrt(dense.kernel.shape[0]), dense.kernel.shape) * np.geomspace(0.1, 1, 10)
    dense.set_weights([kernel, random.normal(0, 0.1, 10)])
    height = model.input_shape[1]
    images = np.repeat(np.repeat(random.uniform(0, 1, (16, 4, 4, 3)), height // 4, 1), height // 4, 2)
    images = (images * np.linspace(60, 255, 48).reshape(16, 1, 1, 3)).astype(np.uint8)
    images[:, 0, 0], images[:, -1, -1] = 0, 255
    folder = tmp_path_factory.mktemp("files")
    paths = {format: folder / f"{format}.tflite" for format in CONVERTED}
    with Conversion(deploy(model, target, verified=False)) as conversion:
        for format, path in paths.items():
            path.write_bytes(FORMATS[format].convert(conversion, images))
    return Files(paths, images[:4], np.asarray(model(images[:4].astype(np.float32), training=False)))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [*RUNTIMES, INSTALLED])
def test_a_file_runs_from_its_oldest_runtime_on_and_is_refused_before(files, runtime, tmp_path):
    order = [*RUNTIMES, INSTALLED]
    installed, found = (run(python_of(name), files.paths, files.images, tmp_path) for name in (INSTALLED, runtime))
    for format, (alone, together) in found.items():
        oldest = oldest_runtime(files.paths[format].read_bytes())
        if order.index(runtime) < order.index(oldest if oldest in order else INSTALLED):
            assert isinstance(alone, str), f"{format} runs on {runtime} and says {oldest}"
            assert "version" in alone or "supported" in alone, alone
            continue
        tolerance = TOLERANCE.get(format, 1e-5)
        np.testing.assert_allclose(alone, installed[format][0], rtol=0, atol=tolerance, err_msg=format)
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6, err_msg=format)
        wrong = 0.25 if format == "weight_int4" else 0.05
        np.testing.assert_allclose(alone, files.probabilities, rtol=0, atol=wrong, err_msg=format)


@pytest.mark.slow
def test_the_oldest_runtimes(files, request):
    oldest = {format: oldest_runtime(path.read_bytes()) for format, path in files.paths.items()}
    gelu = "768]" not in request.node.name
    assert oldest == {
        "float32": "tflite-runtime 2.14.0",
        "float16": "tflite-runtime 2.14.0",
        "dynamic": "tflite-runtime 2.14.0",
        "int8": "tflite-runtime 2.14.0",
        "int16x8": "ai-edge-litert 1.4.0" if gelu else "tflite-runtime 2.14.0",
        "weight_int8": "tflite-runtime 2.14.0",
        "weight_int4": "ai-edge-litert 1.0.1",
    }
