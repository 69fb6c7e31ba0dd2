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
from keras_convmixer.export.engines.edge_tpu import EDGE_TPU
from keras_convmixer.export.engines.engine import refusal, support_of
from keras_convmixer.export.engines.gpu import GPU
from keras_convmixer.export.engines.nodes import Node, Tensor, read_nodes
from keras_convmixer.export.engines.npus import MEDIATEK, QUALCOMM
from keras_convmixer.export.engines.xnnpack import XNNPACK
from keras_convmixer.export.formats import FORMATS
from keras_convmixer.export.tflite.conversion import Conversion
from keras_convmixer.export.tflite.operators import OPERATORS

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
    listed = set(support_of(GPU, read_nodes(path.read_bytes())).refused)
    assert process.returncode == 0, (path.stem, process.stderr[-2000:])
    log = process.stderr + process.stdout
    _, _, refused = log.partition("Following operations are not supported by GPU delegate:")
    names = set(re.findall(r"^([A-Z\d_]+): ", refused.partition("operations will run")[0], re.MULTILINE))
    assert listed == names, (path.stem, log[-2000:])


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


@pytest.mark.parametrize("engine", [XNNPACK, GPU, EDGE_TPU, QUALCOMM, MEDIATEK], ids=lambda engine: engine.name)
def test_lists_name_operators_as_the_schema_does(engine):
    assert set(engine.operators) <= set(OPERATORS.values())


def test_what_the_lists_say_of_a_small_model(all_formats):
    engines = inspect(all_formats / "litert/int8.tflite").engines
    assert list(engines) == ["XNNPACK", "GPU", "Edge TPU", "Qualcomm", "MediaTek"]
    assert engines["XNNPACK"].refused["GELU"] == "on INT8"
    assert engines["XNNPACK"].refused["QUANTIZE"] == "from UINT8 to INT8"
    assert engines["GPU"].refused == engines["Qualcomm"].refused == {}
    assert engines["Edge TPU"].refused["GELU"] == "not in its list"
    assert engines["Edge TPU"].refused["FULLY_CONNECTED"] == "behind the first GELU"
    assert [support.known_by for support in engines.values()] == ["run", "compared list", "list", "list", "list"]
    engines = inspect(all_formats / "litert/weight_int4.tflite").engines
    assert engines["GPU"].refused == {"DEQUANTIZE": "int4 weights"}
    assert engines["XNNPACK"].refused["CONV_2D"] == "weights unpacked from INT4"
    assert engines["Edge TPU"].refused["CONV_2D"] == "on FLOAT32"


def test_an_edge_tpu_takes_a_whole_relu_model(tmp_path):
    model = ConvMixer(8, 1, 3, 2, activation="relu", input_shape=(8, 8, 3), classes=3, include_preprocessing=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    with Conversion(deploy(model, "litert")) as conversion:
        (tmp_path / "int8.tflite").write_bytes(FORMATS["int8"].convert(conversion, images))
    assert inspect(tmp_path / "int8.tflite").engines["Edge TPU"].refused == {}


def depthwise(height, width):
    image = Tensor("INT8", (1, 8, 8, 4), constant=False, per_channel=False)
    weights = Tensor("INT8", (1, height, width, 4), constant=True, per_channel=True)
    return Node("DEPTHWISE_CONV_2D", 3, (image, weights), (image,), None)


def test_what_depends_on_kernel_size_and_rank():
    assert refusal(MEDIATEK, depthwise(8, 8)) is None
    assert refusal(MEDIATEK, depthwise(9, 9)) == "a kernel of 9x9, and MDLA 2.0 takes 8x8"
    cube = Tensor("INT8", (1, 2, 2, 2, 4), constant=False, per_channel=False)
    assert refusal(GPU, Node("RESHAPE", 1, (cube,), (cube,), None)) == "5 dimensions, and it takes 4"
    assert refusal(EDGE_TPU, Node("RESHAPE", 1, (cube,), (cube,), None)) == "on more than 3 dimensions"
    assert refusal(XNNPACK, Node("RESHAPE", 1, (cube,), (cube,), None)) is None


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
        # The engine takes this file, and then fails to load it. It runs the SPLITs of deployed models.
        if path.stem != "SPLIT-float32":
            assert_gpu_refuses_what_its_list_refuses(path)
