"""Batches and other image sizes, in every format of both targets; test_runtimes.py has old runtimes."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_convmixer import ConvMixer, deploy
from keras_convmixer.export.formats import FORMATS
from keras_convmixer.export.runtime.inspection import inspect
from keras_convmixer.export.tflite.conversion import Conversion
from keras_convmixer.export.tflite.flatbuffer import read_model, write_model
from keras_convmixer.export.tflite.operators import code_name
from keras_convmixer.export.tflite.rewrites.batch import take_batches

CONVERTED = tuple(name for name, format in FORMATS.items() if format.convert)
MODELS = {
    "small": {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "input_shape": (16, 16, 3)},
    "wide": {"dim": 256, "depth": 2, "kernel_size": 7, "patch_size": 7, "input_shape": (98, 98, 3)},
}


@pytest.fixture(scope="module", params=[("small", "litert"), ("wide", "litert"), ("wide", "litert_int8")], ids="-".join)
def converted(request):
    """Files of every format by name, and five images."""
    name, target = request.param
    keras.utils.set_random_seed(0)
    model = ConvMixer(**MODELS[name], classes=5, include_preprocessing=True)
    random = np.random.default_rng(0)
    dense = model.layers[-1]
    dense.set_weights([random.normal(0, 1, dense.kernel.shape), dense.bias.numpy()])  # for answers that differ
    brightest = np.linspace(20, 256, 15).reshape(5, 1, 1, 3)
    images = (random.uniform(0, 1, (5, *model.input_shape[1:])) * brightest).astype(np.uint8)
    images[:, 0, 0], images[:, -1, -1] = 0, 255
    deployed = deploy(model, target, verified=False)
    with Conversion(deployed) as conversion:
        return {format: FORMATS[format].convert(conversion, images) for format in CONVERTED}, images


def run(content, images, batch):
    interpreter = Interpreter(model_content=content, num_threads=1)
    (tensor,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    if batch > 1:
        interpreter.resize_tensor_input(tensor["index"], [batch, *images.shape[1:]])
    interpreter.allocate_tensors()
    answers = []
    for start in range(0, len(images), batch):
        interpreter.set_tensor(tensor["index"], images[start : start + batch].astype(tensor["dtype"]))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(output["index"]))
    return np.concatenate(answers).astype(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("format", CONVERTED)
def test_a_batch_gives_each_images_answer(converted, format):
    files, images = converted
    alone, together = run(files[format], images[:4], 1), run(files[format], images[:4], 4)
    assert np.abs(alone[0] - alone[1]).max() > 0
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("format", CONVERTED)
def test_another_image_size_is_refused(converted, format, strict):
    files, images = converted
    _, height, width, channels = images.shape
    sizes = [(2 * height, width), (height, 2 * width), (2 * height, width // 2), (height // 2, width)]
    for high, wide in [*sizes, (height // 2, 2 * width), (height + 1, width), (height, width - 1)]:
        interpreter = Interpreter(model_content=files[format])
        (tensor,) = interpreter.get_input_details()
        with pytest.raises((ValueError, RuntimeError)):
            interpreter.resize_tensor_input(tensor["index"], [1, high, wide, channels], strict=strict)
            interpreter.allocate_tensors()


@pytest.mark.slow
def test_xnnpack_runs_what_it_ran(converted, tmp_path, monkeypatch):
    """The additions that check the size are delegated, and nothing else leaves the delegate."""
    files, _ = converted
    for format in set(CONVERTED) - {"int16x8"}:
        (tmp_path / "file.tflite").write_bytes(files[format])
        found = inspect(tmp_path / "file.tflite")
        beside = {name: count - found.delegated.get(name, 0) for name, count in found.operators.items()}
        # XNNPACK has no 8-bit GELU, and no convolution of 4-bit weights that are made float again.
        allowed = {"int8": {"GELU", "QUANTIZE", "SOFTMAX"}, "weight_int4": {"CONV_2D", "DEQUANTIZE", "FULLY_CONNECTED"}}
        assert {name for name, count in beside.items() if count > 0} <= allowed.get(format, set()), format
        assert found.delegated["ADD"] == found.operators["ADD"], format


def test_a_model_that_mixes_images_stays_as_it_is(toy_bundle):
    model = read_model((toy_bundle / "litert/float32.tflite").read_bytes())
    (softmax,) = (code for code in model.operatorCodes if code_name(code) == "SOFTMAX")
    softmax.builtinCode, softmax.deprecatedBuiltinCode = schema.BuiltinOperator.CUMSUM, 127
    content = write_model(model)
    take_batches(model)
    assert write_model(model) == content
