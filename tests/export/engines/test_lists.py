"""The engines' lists beside what the engines take: XNNPACK always, the GPU's where there is a Vulkan driver."""

import re
import subprocess
import sys

import gpu_engine
import keras
import numpy as np
import pytest
from single_operators import write_single_operators

from keras_convmixer import ConvMixer
from keras_convmixer.deployment import deploy
from keras_convmixer.export import inspect
from keras_convmixer.export.engines.engine import support_of
from keras_convmixer.export.engines.gpu import GPU
from keras_convmixer.export.engines.nodes import read_nodes
from keras_convmixer.export.engines.xnnpack import XNNPACK
from keras_convmixer.export.formats import FORMATS
from keras_convmixer.export.tflite.conversion import Conversion

MODELS = {
    "256": {"dim": 256, "depth": 2, "kernel_size": 5, "patch_size": 2, "input_shape": (32, 32, 3)},
    "768": {
        **{"dim": 768, "depth": 1, "kernel_size": 7, "patch_size": 7, "input_shape": (168, 168, 3)},
        "activation": "relu",
    },
}
CONVERTED = [name for name, format in FORMATS.items() if format.convert]
IN_8_BITS = [name for name in CONVERTED if FORMATS[name].in_8_bits]


def assert_xnnpack_takes_what_its_list_says(path):
    found = inspect(path)
    assert support_of(XNNPACK, read_nodes(path.read_bytes())).taken == found.delegated, path.stem
    assert found.engines["XNNPACK"].known_by == "run"


def assert_gpu_refuses_what_its_list_refuses(path):
    command = [sys.executable, "-m", "keras_convmixer.export.runtime.acceleration", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600, check=False)
    assert process.returncode == 0, (path.stem, process.stderr[-2000:])
    log = process.stderr + process.stdout
    _, _, refused = log.partition("Following operations are not supported by GPU delegate:")
    names = set(re.findall(r"^([A-Z\d_]+): ", refused.partition("operations will run")[0], re.MULTILINE))
    assert set(support_of(GPU, read_nodes(path.read_bytes())).refused) == names, (path.stem, log[-2000:])


@pytest.fixture(scope="module")
def single_operators(once):
    return sorted(once("single_operators", write_single_operators).glob("*.tflite"))


@pytest.fixture(scope="module")
def wide(once):
    """Every format of two models of real width, for each target that it is made for."""

    def write(folder):
        for key, arguments in MODELS.items():
            keras.utils.set_random_seed(0)
            model = ConvMixer(**arguments, classes=10, include_preprocessing=True)
            images = np.random.default_rng(0).integers(0, 256, (4, *model.input_shape[1:]), dtype=np.uint8)
            for target, formats in (("litert", CONVERTED), ("litert_int8", IN_8_BITS), ("litert_gpu", CONVERTED)):
                with Conversion(deploy(model, target, verified=False)) as conversion:
                    for format in formats:
                        content = FORMATS[format].convert(conversion, images)
                        (folder / f"{key}-{target}-{format}.tflite").write_bytes(content)

    return sorted(once("wide_formats", write).glob("*.tflite"))


@pytest.mark.parametrize("format", CONVERTED)
def test_xnnpack_on_a_small_model(all_formats, format):
    assert_xnnpack_takes_what_its_list_says(all_formats / f"litert/{format}.tflite")


@pytest.mark.slow
def test_xnnpack_on_wide_models(wide):
    for path in wide:
        assert_xnnpack_takes_what_its_list_says(path)


@pytest.mark.slow
def test_xnnpack_on_single_operators(single_operators):
    for path in single_operators:
        assert_xnnpack_takes_what_its_list_says(path)


@pytest.mark.slow
@gpu_engine.needs_driver
def test_the_gpu_on_a_small_model(all_formats):
    for format in CONVERTED:
        assert_gpu_refuses_what_its_list_refuses(all_formats / f"litert/{format}.tflite")


@pytest.mark.slow
@gpu_engine.needs_driver
def test_the_gpu_on_wide_models(wide):
    for path in wide:
        assert_gpu_refuses_what_its_list_refuses(path)


@pytest.mark.slow
@gpu_engine.needs_driver
def test_the_gpu_on_single_operators(single_operators):
    for path in single_operators:
        assert_gpu_refuses_what_its_list_refuses(path)
