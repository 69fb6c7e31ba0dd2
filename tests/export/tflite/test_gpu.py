"""Files of real width on LiteRT's GPU engine, and in half precision: the answers of the CPU in full precision."""

from dataclasses import dataclass
from pathlib import Path

import gpu_engine
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from litert_answers import raw_answers

from keras_convmixer import ConvMixer
from keras_convmixer.deployment import deploy
from keras_convmixer.export.formats import FORMATS
from keras_convmixer.export.runtime.acceleration import measure_acceleration
from keras_convmixer.export.tflite.conversion import Conversion

MODELS = {
    "256": {"dim": 256, "depth": 8, "kernel_size": 5, "patch_size": 2, "input_shape": (32, 32, 3)},
    # 24 x 24 patches: blocks of two rows for litert_int8. 8 x 8: blocks of one whole row.
    "768": {
        **{"dim": 768, "depth": 2, "kernel_size": 7, "patch_size": 7, "input_shape": (168, 168, 3)},
        "activation": "relu",
    },
    "1024": {"dim": 1024, "depth": 2, "kernel_size": 9, "patch_size": 14, "input_shape": (112, 112, 3)},
}
FILES = {
    "litert": ("float32", "dynamic", "int8"),
    "litert_int8": ("dynamic", "int8"),
    "litert_gpu": ("float32", "float16", "dynamic", "int8"),
}
"""Formats by the target that they are deployed for, of those that a bundle has by default."""
TOLERANCE = {"float32": 1e-5, "float16": 1e-5, "dynamic": 0.02, "int8": 0.005}
"""Largest difference of a probability. In dynamic GPUs multiply float inputs, which CPUs round to 8 bits; in int8 they
may round to the next of 256 steps."""
IN_HALF = {"float32": 0.02, "float16": 0.02, "dynamic": 0.02, "int8": 0.005}


@dataclass(frozen=True)
class Files:
    """A model's files by target and format, images, and each file's answers on the CPU."""

    paths: dict[str, Path]
    images: np.ndarray
    answers: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=MODELS)
def files(request, tmp_path_factory):
    arguments = MODELS[request.param]
    keras.utils.set_random_seed(0)
    model = ConvMixer(**arguments, classes=10, include_preprocessing=True)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            ranges = ((0.5, 1.5), (-0.3, 0.3), (-0.3, 0.3), (0.3, 1.5))
            layer.set_weights([random.uniform(*ends, layer.gamma.shape) for ends in ranges])
    dense = model.layers[-1]
    dense.set_weights([random.normal(0, 3 / np.sqrt(dense.kernel.shape[0]), dense.kernel.shape), np.zeros(10)])
    side = model.input_shape[1]
    images = np.kron(random.integers(0, 256, (4, 4, 4, 3)), np.ones((1, side // 4, side // 4, 1))).astype(np.uint8)
    folder = tmp_path_factory.mktemp("files")
    paths = {}
    for target, formats in FILES.items():
        with Conversion(deploy(model, target, verified=False)) as conversion:
            for format in formats:
                path = paths[f"{target} {format}"] = folder / f"{target}_{format}.tflite"
                path.write_bytes(FORMATS[format].convert(conversion, images))
    images = images[:2]
    return Files(paths, images, {name: on_cpu(path, images) for name, path in paths.items()})


def on_cpu(path, images):
    answers, result = raw_answers(path.read_bytes(), images)
    scale, zero_point = result["quantization"]
    return (np.float32(answers) - zero_point) * (scale or 1)


def assert_equal(files, tolerance, **arguments):
    for name, path in files.paths.items():
        found = gpu_engine.answers(path, files.images, **arguments)
        allowed = tolerance[name.split()[1]]
        np.testing.assert_allclose(found, files.answers[name], rtol=0, atol=allowed, err_msg=name)


@pytest.mark.slow
@gpu_engine.needs_driver
def test_the_gpu_takes_every_operator_and_answers_as_the_cpu(files):
    for name, one in measure_acceleration(files.paths).items():
        assert (one.nodes, one.reason) == (one.of, None), name
    assert_equal(files, TOLERANCE, engine="GPU")


@pytest.mark.slow
def test_sums_in_half_precision_answer_as_in_full(files):
    assert_equal(files, IN_HALF, engine="CPU", half=True)


@pytest.mark.slow
def test_no_tensor_has_more_than_four_dimensions(files):
    for name, path in files.paths.items():
        interpreter = Interpreter(str(path))
        assert max(len(tensor["shape"]) for tensor in interpreter.get_tensor_details()) <= 4, name
