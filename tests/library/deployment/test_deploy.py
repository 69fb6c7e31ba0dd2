"""deploy() on ConvMixers: the same function, and the layers that the target runs fast."""

from collections import Counter

import frozen
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from processes import run_forked
from safetensors.numpy import save_file

import keras_convmixer as kc
from keras_convmixer.deployment import TARGETS
from keras_convmixer.export import inspect
from keras_convmixer.export.tflite.operators import OPERATORS

L = keras.layers


def adversarial(model, seed=0):
    """Random statistics; gammas negative, zero and tiny too."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            size = layer.moving_mean.shape[0]
            gamma = random.normal(size=size) * random.choice([1, 1e-6, 0], size, p=[0.8, 0.1, 0.1])
            layer.set_weights([gamma, random.normal(size=size), random.normal(size=size), random.uniform(0.1, 2, size)])
    return model


def small(**changes):
    arguments = {"dim": 16, "depth": 2, "kernel_size": 9, "patch_size": 4, "input_shape": (40, 32, 3), "classes": 5}
    arguments |= {"include_preprocessing": True, "classifier_activation": None}
    return adversarial(kc.ConvMixer(**{**arguments, **changes}))


def kinds(model):
    return Counter(type(layer).__name__ for layer in model.layers)


def convert(model, tmp_path):
    archive = keras.export.ExportArchive()
    archive.track(model)
    specification = tf.TensorSpec((1, *model.input_shape[1:]), "float32")
    archive.add_endpoint("serving_default", lambda images: model(images, training=False), [specification])
    archive.write_out(str(tmp_path / "model"), verbose=False)
    return tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "model")).convert()


def operators_of(content):
    """Return (operator's name, shape of its second input) of each operator in a file."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return [
        (
            OPERATORS[codes[operator.opcodeIndex]],
            tuple(graph.tensors[operator.inputs[1]].shape) if len(operator.inputs) > 1 else (),
        )
        for operator in graph.operators
    ]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", frozen.CASES)
def test_it_returns_what_timm_returned(tmp_path, case, target):
    save_file(frozen.tensors(case), tmp_path / "model.safetensors")
    model = frozen.model(case, weights=tmp_path / "model.safetensors", input_shape=(*frozen.CASES[case]["size"], 3))
    logits = keras.ops.convert_to_numpy(kc.deploy(model, target)(frozen.images(case)))
    expected = np.load(frozen.FILE)[case]
    assert np.abs(logits - expected).max() / np.ptp(expected) < 1e-5


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("kernel_size", [1, 5, 8, 9])
@pytest.mark.parametrize("target", TARGETS)
def test_zero_tiny_and_negative_gammas_change_nothing(activation, kernel_size, target):
    model = small(activation=activation, kernel_size=kernel_size)
    assert kc.verify(model, kc.deploy(model, target, verified=False)).relative < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", kc.VARIANTS)
def test_every_variant_is_equal(name):
    variant = kc.VARIANTS[name]
    side = 8 * variant.patch_size  # maps on which a 9x9 kernel has an inside and an outside
    model = kc.ConvMixer(
        variant.dim,
        3,  # equal layers: more of them only take longer; the whole depth was compared by hand
        variant.kernel_size,
        variant.patch_size,
        variant.activation,
        input_shape=(side, side, 3),
        classes=10,
        classifier_activation=None,
    )
    assert kc.verify(adversarial(model), kc.deploy(model, verified=False)).relative < 1e-5


def test_for_litert_no_kernel_is_over_25_taps_and_no_operator_is_slow(tmp_path):
    content = convert(kc.deploy(small()), tmp_path)
    operators = operators_of(content)
    taps = [np.prod(shape[1:3]) for name, shape in operators if name == "DEPTHWISE_CONV_2D"]
    assert sorted(set(taps)) == [1, 9, 24]
    fast = {"ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "GELU", "MEAN", "PAD", "RESHAPE", "STRIDED_SLICE"}
    assert {name for name, _ in operators} == fast


def test_the_converted_file_returns_what_the_model_returns(tmp_path):
    model = small(dim=256, activation="relu")
    deployed = kc.deploy(model)
    assert kinds(deployed)["Concatenate"] == 2  # 256 channels go in groups
    interpreter = Interpreter(model_content=convert(deployed, tmp_path))
    interpreter.allocate_tensors()
    images = np.random.default_rng(0).uniform(0, 255, (3, 40, 32, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(model(images))
    for image, logits in zip(images, expected, strict=True):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        assert np.abs(found - logits).max() < 1e-4 * np.ptp(expected)


@pytest.mark.parametrize("groups", [2, 6, 8])
def test_joined_groups_of_channels_stay_inside_xnnpack(tmp_path, groups):
    deployed = kc.deploy(small(dim=128 * groups, depth=1, input_shape=(32, 32, 3)))
    path = tmp_path / "wide.tflite"
    path.write_bytes(convert(deployed, tmp_path))
    found = inspect(path)
    assert found.delegated == found.operators
    assert found.operators["CONCATENATION"] == (3 if groups > 4 else 1)  # by fours, then the results


def test_for_int8_kernels_over_25_taps_are_convolutions_of_blocks(tmp_path):
    model = small()  # 10 x 8 patches
    deployed = kc.deploy(model, "litert_int8")
    operators = operators_of(convert(deployed, tmp_path))
    shapes = Counter(shape for name, shape in operators if name == "CONV_2D")
    assert shapes[16 * 8, 9, 1, 8] == 2  # a row of 8 from a row of 8, for each of 16 channels
    assert {shape[1:3] for name, shape in operators if name == "DEPTHWISE_CONV_2D"} == {(1, 1)}
    assert sum(name == "TRANSPOSE" for name, _ in operators) == 4
    few_taps = small(kernel_size=5)
    assert kinds(kc.deploy(few_taps, "litert_int8")) == kinds(kc.deploy(few_taps))
    any_size = small(input_shape=(None, None, 3))
    assert kinds(kc.deploy(any_size, "litert_int8")) == kinds(kc.deploy(any_size))


def test_for_gpus_everything_folds_and_no_kernel_is_cut(tmp_path):
    model = small(dim=256, depth=1)
    found, plain = (operators_of(convert(one, tmp_path)) for one in (kc.deploy(model, "litert_gpu"), model))
    assert [shape[1:3] for name, shape in found if name == "DEPTHWISE_CONV_2D" and shape[1] > 1] == [(9, 9)]
    kinds = {"ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "GELU", "MEAN"}
    assert {name for name, _ in found} == kinds
    assert len(found) < len(plain)


def test_blocks_of_several_rows_have_no_tensor_of_five_dimensions(tmp_path):
    inputs = keras.Input((40, 36, 16))
    model = adversarial(keras.Model(inputs, L.BatchNormalization()(L.DepthwiseConv2D(7, padding="same")(inputs))))
    deployed = kc.deploy(model, "litert_int8")
    operators = operators_of(convert(deployed, tmp_path))
    assert (16 * 16, 4, 2, 16) in {shape for name, shape in operators if name == "CONV_2D"}  # two rows of eight
    for layer in deployed.layers:
        assert all(len(tensor.shape) <= 4 for tensor in keras.tree.flatten(layer.output)), layer.name


def test_a_relu_after_blocks_is_in_their_convolution(tmp_path):
    """Behind their joined rows it would be an operator of its own, outside of XNNPACK in int8."""
    inputs = keras.Input((40, 36, 16))
    model = keras.Model(inputs, L.ReLU()(L.DepthwiseConv2D(7, padding="same")(inputs)))
    found = {name for name, _ in operators_of(convert(kc.deploy(model, "litert_int8"), tmp_path))}
    assert {"CONV_2D", "SPLIT", "CONCATENATION"} <= found
    assert "RELU" not in found


def test_scaling_of_pixels_and_the_last_normalization_cost_nothing():
    model = small()
    assert kinds(model)["Rescaling"] == 1
    assert kinds(model)["BatchNormalization"] == 5
    deployed = kc.deploy(model, "tensorflow")
    assert kinds(deployed)["Rescaling"] == 0
    assert kinds(deployed)["BatchNormalization"] == 4  # the last one is in the classifier's weights
    positive = small(activation="relu", kernel_size=3)
    for layer in positive.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.gamma.assign(keras.ops.abs(layer.gamma))
    # Of the normalizations after ReLU the scales are in the convolutions, and the shift after a depthwise one in
    # the pointwise one; what remains is the shift before a convolution that pads zeros.
    assert kinds(kc.deploy(positive, "tensorflow"))["BatchNormalization"] == 2


def test_large_images_channels_and_kernels_are_grouped_and_cut_only_for_litert():
    model = small(dim=256)
    assert kinds(kc.deploy(model, "tensorflow"))["DepthwiseConv2D"] == 2
    pieces, groups, layers, normalizations = 4, 2, 2, 4  # as many 1x1 ones as normalizations that cannot be folded
    count = layers * groups * pieces + normalizations - 2 + 2 * groups
    assert kinds(kc.deploy(model))["DepthwiseConv2D"] == count


def test_the_model_itself_stays_as_it_is_and_shares_nothing():
    model = small()
    before, names = model.get_weights(), [layer.name for layer in model.layers]
    deployed = kc.deploy(model)
    assert [layer.name for layer in model.layers] == names
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not {id(layer) for layer in model.layers} & {id(layer) for layer in deployed.layers}
    images = np.ones((1, 40, 32, 3), "float32")
    expected = keras.ops.convert_to_numpy(deployed(images))
    model.set_weights([weight * 0 for weight in before])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(deployed(images)), expected)


def test_a_saved_file_loads_with_plain_keras(tmp_path):
    model = small(dim=768, depth=1)  # joined, split, cropped, padded
    deployed = kc.deploy(model)
    deployed.save(tmp_path / "deployed.keras")
    images = np.random.default_rng(0).uniform(0, 255, (1, 40, 32, 3)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, keras, numpy\n"
        "model = keras.saving.load_model(sys.argv[1] + '/deployed.keras')\n"
        "numpy.save(sys.argv[1] + '/logits.npy', model(numpy.load(sys.argv[1] + '/images.npy')))\n"
    )
    process = run_forked(code, tmp_path, blocked=("keras_convmixer",))
    assert process.returncode == 0, process.stderr
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), deployed(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_outputs_and_names_are_the_models(target):
    model = small(classifier_activation="softmax", kernel_size=7)
    deployed = kc.deploy(model, target)
    assert deployed.name == model.name
    assert deployed.output_names == model.output_names == ["head_dense"]
    assert [tensor.name for tensor in deployed.inputs] == ["images"]
    assert deployed.input_shape == model.input_shape
    assert deployed.output_shape == model.output_shape
    view = kc.deploy(kc.features(model), target)
    assert set(view.output) == {"block_0", "block_1"}
    assert view.output_names == kc.features(model).output_names


@pytest.mark.parametrize("target", TARGETS)
def test_images_of_any_size(target):
    model = small(input_shape=(None, None, 3))
    deployed = kc.deploy(model, target)
    assert deployed.input_shape == (None, None, None, 3)
    random = np.random.default_rng(0)
    for height, width in ((4, 4), (5, 9), (64, 31)):
        images = random.uniform(0, 255, (2, height, width, 3)).astype("float32")
        assert kc.verify(model, deployed, images).relative < 1e-5


def test_what_is_no_functional_model_is_refused():
    class Own(keras.Model):
        def call(self, images):
            return images

    class Disguised(keras.Model):
        def call(self, images):
            return 2 * super().call(images)

    inputs = keras.Input((4,))
    for model in (Own(name="own"), keras.Sequential([L.Dense(2)], name="own"), Disguised(inputs, inputs, name="own")):
        with pytest.raises(ValueError, match="own is not a functional or Sequential model"):
            kc.deploy(model)
    with pytest.raises(ValueError, match="a string is not a functional or Sequential model"):
        kc.deploy("a string")
    with pytest.raises(
        ValueError, match="target='tflite': give one of 'litert', 'litert_int8', 'litert_gpu', 'tensorflow'"
    ):
        kc.deploy(small(), "tflite")


def test_a_wrong_rewrite_is_found(monkeypatch):
    from keras_convmixer.deployment.depthwise import pieces

    original = pieces.cover
    monkeypatch.setattr(pieces, "cover", lambda *sides: original(*sides)[:-1])
    with pytest.raises(ArithmeticError, match="the deployed convmixer differs in head_dense by"):
        kc.deploy(small())
    kc.deploy(small(), verified=False)
