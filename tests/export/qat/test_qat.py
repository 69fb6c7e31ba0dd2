import itertools
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from processes import convmixer, run_python

from keras_convmixer import ConvMixer, deploy
from keras_convmixer.export import quantization_aware
from keras_convmixer.export.qat.quantization_aware import build_training_model, fit
from keras_convmixer.export.qat.tf_keras_model import to_tf_keras
from keras_convmixer.export.runtime.interpreter import LiteRTModel
from keras_convmixer.export.tflite.operators import read_operators


def batches_of(images, labels):
    """The same batches of 32, over and over."""
    starts = itertools.cycle(range(0, len(images) - 31, 32))
    one_hot = tf.one_hot(labels, 3)
    return ((tf.cast(images[s : s + 32], tf.float32), one_hot[s : s + 32]) for s in starts)


@pytest.fixture(scope="module")
def file(toy, once):
    def fill(folder):
        labels = np.arange(len(toy.train_images)) % 3
        content = quantization_aware(toy.model, batches_of(toy.train_images, labels), 20, verbose=False)
        (folder / "qat_int8.tflite").write_bytes(content)

    return (once("qat_int8", fill) / "qat_int8.tflite").read_bytes()


@pytest.mark.slow
def test_it_is_integer_throughout_and_right(toy, file):
    operators = read_operators(file)
    assert operators.dtypes == {"INT8", "UINT8", "INT32"}
    assert "DEQUANTIZE" not in operators.counts
    assert operators.counts["QUANTIZE"] == 2  # uint8 to int8, and back
    model = LiteRTModel(file, "qat")
    assert model.input["quantization"] == (1.0, 0)
    assert (model(toy.test_images).argmax(-1) == toy.test_labels).all()


@pytest.mark.slow
def test_every_depthwise_channel_has_its_scale(toy, file):
    interpreter = Interpreter(model_content=file, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    kernels = [
        interpreter._get_tensor_details(operator["inputs"][1], 0)
        for operator in interpreter._get_ops_details()
        if operator["op_name"] == "DEPTHWISE_CONV_2D"
    ]
    assert len(kernels) == 6
    for kernel in kernels:
        assert len(set(kernel["quantization_parameters"]["scales"].tolist())) == kernel["shape"][-1] == 8


@pytest.mark.slow
def test_ranges_begin_with_the_first_batch(toy):
    trained = build_training_model(toy.model)
    labels = np.arange(len(toy.train_images)) % 3
    list(fit(trained, batches_of(toy.train_images, labels), 1, 1e-6, False))
    trained_images = tf.cast(toy.train_images[:32], tf.float32)
    deployed = deploy(toy.model, "litert", verified=False)
    first = next(layer for layer in deployed.layers if isinstance(layer, keras.layers.Activation))
    seen = keras.Model(deployed.input, first.output)(trained_images).numpy()
    wrapper = trained.get_layer(f"quant_{first.name}")
    found = {weight.name.split("_")[-1][:3]: float(weight) for weight in wrapper.weights if "output_" in weight.name}
    assert found["max"] == pytest.approx(seen.max(), rel=0.05)
    assert found["min"] == pytest.approx(seen.min(), rel=0.05)


@pytest.mark.slow
def test_training_lowers_the_loss_and_leaves_the_model(toy):
    before = [weight.copy() for weight in toy.model.get_weights()]
    trained = build_training_model(toy.model)
    labels = (np.arange(len(toy.train_images)) + 1) % 3  # others than it has learned
    losses = list(fit(trained, batches_of(toy.train_images, labels), 40, 0.02, False))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    for now, then in zip(toy.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.slow
def test_the_process_stays_keras_3(tmp_path):
    code = (
        "import os, json\n"
        "import tensorflow as tf, keras\n"
        "before = dict(os.environ), keras.config.dtype_policy().name\n"
        "from keras_convmixer.export.qat import quantization_scheme\n"
        "assert (dict(os.environ), keras.config.dtype_policy().name) == before\n"
        "print(json.dumps([tf.keras.__name__, tf.keras.__version__, tf.keras.Model is keras.Model]))"
    )
    name, version, same = json.loads(run_python(code).stdout.splitlines()[-1])
    assert name == "keras._tf_keras.keras"
    assert version == keras.__version__
    assert same
    assert os.environ.get("TF_USE_LEGACY_KERAS") is None


@pytest.mark.slow
def test_the_twin_computes_the_same():
    keras.utils.set_random_seed(0)
    model = ConvMixer(8, 2, kernel_size=9, patch_size=2, input_shape=(16, 16, 3), classes=3)
    deployed = deploy(model, "litert")
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(to_tf_keras(deployed)(images), deployed(images), atol=1e-5)


def test_an_unknown_layer_is_named():
    images = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.GaussianNoise(0.1, name="noise")(images))
    model = keras.Model(images, keras.layers.Dense(2)(pooled))
    with pytest.raises(ValueError, match="layer noise is a GaussianNoise, which cannot be trained in tf_keras"):
        to_tf_keras(model)


@pytest.mark.slow
def test_the_bundle_checks_it(toy, file, tmp_path):
    manifest = toy.republish(tmp_path / "bundle", formats=("int8", "qat_int8"), qat_int8=file)
    assert [artifact["name"] for artifact in manifest["artifacts"]] == ["saved_model", "int8", "qat_int8"]
    published = LiteRTModel((tmp_path / "bundle/litert/qat_int8.tflite").read_bytes(), "published")
    np.testing.assert_array_equal(published(toy.test_images), LiteRTModel(file, "qat")(toy.test_images))
    with pytest.raises(ValueError, match="formats has qat_int8: give qat_int8=quantization_aware"):
        toy.export(tmp_path / "other", formats=("qat_int8",))


@pytest.mark.slow
def test_export_asks_for_the_command_that_makes_the_file(quickstart, tmp_path):
    # README's test runs `convmixer qat` and exports what it trained.
    process = convmixer("export", quickstart.run, "--out", tmp_path / "b", "--formats", "qat_int8")
    assert process.returncode == 2
    assert "make it with convmixer qat" in process.stderr
