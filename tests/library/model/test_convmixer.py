import json
import math

import keras
import numpy as np
import pytest
from processes import run_forked

import keras_convmixer as kc
from keras_convmixer import ConvMixer

SMALL = {"dim": 8, "depth": 2, "kernel_size": 5, "patch_size": 2, "input_shape": (8, 8, 3), "classes": 4}


def randomize(model, seed=0):
    """Random weights, normalization statistics too, so that nothing is at a value that hides a mistake."""
    random = np.random.default_rng(seed)
    model.set_weights([random.uniform(0.1, 1, w.shape) * random.choice([-1, 1], w.shape) for w in model.get_weights()])
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(random.uniform(0.1, 2, layer.moving_variance.shape))
    return model


def convmixer_in_numpy(model, images, kernel_size, patch_size, depth):
    """The paper's section 2, by hand: loops over positions, no framework."""
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    erf = np.vectorize(math.erf)

    def activate_and_normalize(x, name):
        x = 0.5 * x * (1 + erf(x / math.sqrt(2)))
        gamma, beta, mean, variance = weights[f"{name}_bn"]
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    kernel, bias = weights["stem_conv"]
    rows, columns = (side // patch_size for side in images.shape[1:3])
    x = np.empty((len(images), rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = images[:, i * patch_size : (i + 1) * patch_size, j * patch_size : (j + 1) * patch_size]
            x[:, i, j] = np.einsum("bhwc,hwcd->bd", patch, kernel) + bias
    x = activate_and_normalize(x, "stem")
    before = (kernel_size - 1) // 2  # an even kernel is padded by one more at the bottom and right
    for block in range(depth):
        kernel, bias = weights[f"block_{block}_depthwise_conv"]
        padded = np.pad(x, ((0, 0), *[(before, kernel_size - 1 - before)] * 2, (0, 0)))
        y = np.empty_like(x)
        for i in range(rows):
            for j in range(columns):
                window = padded[:, i : i + kernel_size, j : j + kernel_size]
                y[:, i, j] = np.einsum("bhwc,hwc->bc", window, kernel[..., 0]) + bias
        x = x + activate_and_normalize(y, f"block_{block}_depthwise")
        kernel, bias = weights[f"block_{block}_pointwise_conv"]
        x = activate_and_normalize(x @ kernel[0, 0] + bias, f"block_{block}_pointwise")
    kernel, bias = weights["head_dense"]
    return x.mean((1, 2)) @ kernel + bias


@pytest.mark.parametrize("kernel_size", [3, 4, 5, 8])
@pytest.mark.parametrize("shape", [(8, 8, 3), (11, 6, 1)])
def test_equals_the_papers_formula(kernel_size, shape):
    arguments = {**SMALL, "kernel_size": kernel_size, "input_shape": shape}
    model = randomize(ConvMixer(**arguments, classifier_activation=None))
    images = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
    expected = convmixer_in_numpy(model, images, kernel_size, patch_size=2, depth=2)
    np.testing.assert_allclose(model(images, training=False), expected, atol=1e-5 * np.abs(expected).max())


def test_defaults_are_the_papers_1536_20():
    model = ConvMixer()
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)
    trained = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert round(trained / 1e6, 2) == 51.63


def test_summary_reads_as_stem_blocks_and_head():
    names = [layer.name for layer in ConvMixer(**{**SMALL, "depth": 1}).layers]
    assert names == [
        "images",
        *("stem_conv", "stem_activation", "stem_bn"),
        *("block_0_depthwise_conv", "block_0_depthwise_activation", "block_0_depthwise_bn", "block_0_add"),
        *("block_0_pointwise_conv", "block_0_pointwise_activation", "block_0_pointwise_bn"),
        *("head_pool", "head_dense"),
    ]


def test_normalization_has_pytorchs_constants():
    layers = [layer for layer in ConvMixer(**SMALL).layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon) for layer in layers} == {(0.9, 1e-5)}
    assert len(layers) == 1 + 2 * SMALL["depth"]


def test_initial_weights_are_spread_as_pytorchs():
    model = ConvMixer(dim=256, depth=1, kernel_size=9, patch_size=4, input_shape=(32, 32, 3))
    fans = {"stem_conv": 48, "block_0_depthwise_conv": 81, "block_0_pointwise_conv": 256, "head_dense": 256}
    for name, fan_in in fans.items():
        for weights in model.get_layer(name).get_weights():
            bound = 1 / math.sqrt(fan_in)  # torch.nn.Conv2d: uniform in +-1/sqrt(fan in), bias too
            assert 0.9 * bound < np.abs(weights).max() <= bound
            assert np.std(weights) == pytest.approx(bound / math.sqrt(3), rel=0.15)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_size_and_channel_count(channels):
    model = ConvMixer(**{**SMALL, "input_shape": (None, None, channels)})
    for height, width in ((2, 2), (8, 8), (13, 6)):
        probabilities = model(np.ones((3, height, width, channels), "float32"))
        np.testing.assert_allclose(np.sum(probabilities, -1), 1, atol=1e-5)


def test_without_top():
    def shape(**changes):
        return ConvMixer(**{**SMALL, "include_top": False, **changes}).output_shape

    assert shape() == (None, 4, 4, 8)
    assert shape(pooling="avg") == (None, 8)
    assert shape(pooling="max") == (None, 8)
    assert shape(input_shape=None) == (None, None, None, 8)


def test_pooling_is_what_it_says():
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    features, average, largest = (
        randomize(ConvMixer(**{**SMALL, "include_top": False, "pooling": pooling}))(images).numpy()
        for pooling in (None, "avg", "max")
    )
    np.testing.assert_allclose(average, features.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(largest, features.max((1, 2)), rtol=1e-4)


def test_preprocessing_inside_scales_as_imagenet():
    inside = ConvMixer(**SMALL, include_preprocessing=True)
    outside = ConvMixer(**SMALL)
    outside.set_weights(inside.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("float32")
    # keras.applications' "torch" mode is ImageNet's mean and deviation.
    scaled = keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode="torch")
    np.testing.assert_allclose(inside(pixels), outside(scaled), atol=1e-5)


def test_input_tensor():
    images = keras.Input((16, 16, 3))
    halved = keras.layers.AveragePooling2D(2)(images)
    model = ConvMixer(**{**SMALL, "input_shape": None}, input_tensor=halved)
    assert model.input is images
    assert model(np.ones((1, 16, 16, 3), "float32")).shape == (1, 4)


WRONG = [
    ({"patch_size": 9}, ("patch_size=9", "8x8", "at most 8")),
    ({"patch_size": 0}, ("patch_size=0", "positive")),
    ({"dim": 8.5}, ("dim=8.5", "positive integer")),
    ({"depth": True}, ("depth=True", "positive integer")),
    ({"kernel_size": -3}, ("kernel_size=-3", "positive integer")),
    ({"classes": 0}, ("classes=0", "positive integer")),
    ({"activation": "geluu"}, ("activation='geluu'", "gelu", "relu")),
    ({"activation": lambda x: x}, ("activation=", "name of a Keras activation")),
    ({"classifier_activation": "softmux"}, ("classifier_activation='softmux'",)),
    ({"include_top": False, "pooling": "mean"}, ("pooling='mean'", "'avg'", "'max'")),
    ({"pooling": "mean"}, ("pooling='mean'", "'avg'", "'max'")),
    ({"input_shape": (8, 8)}, ("input_shape=(8, 8)", "height, width, channels")),
    ({"input_shape": (8, 8, None)}, ("input_shape=(8, 8, None)", "channels")),
    ({"input_shape": (3, 8, 8), "patch_size": 5}, ("patch_size=5", "3x8")),
    ({"input_shape": (8, 8, 1), "include_preprocessing": True}, ("include_preprocessing=True", "3 channels", "1")),
    ({"weights": "imagenet"}, ("weights='imagenet'", "dim=8", "ConvMixer768_32")),
    ({"weights": "imagenett"}, ("weights='imagenett'", "'imagenet'", ".safetensors")),
    ({"weights": "missing.keras"}, ("weights='missing.keras'", "no such file")),
    ({"weights": 3}, ("weights='3'", "None", "'imagenet'", ".keras")),
    ({"input_shape": 8}, ("input_shape=(8,)", "height, width, channels")),
    ({"input_tensor": keras.Input((9, 9, 3))}, ("input_shape=(8, 8, 3)", "(9, 9, 3)")),
    ({"input_tensor": np.zeros((1, 8, 8, 3))}, ("input_tensor is a ndarray", "keras.Input")),
    ({"input_tensor": keras.Input((9,)), "input_shape": None}, ("input_tensor has shape (None, 9)", "height, width")),
]


@pytest.mark.parametrize(("changes", "named"), WRONG)
def test_wrong_arguments_get_one_sentence(changes, named):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the words are checked below
        ConvMixer(**{**SMALL, **changes})
    for words in named:
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_numpys_integers_are_integers():
    numbers = {name: np.int64(SMALL[name]) for name in ("dim", "depth", "kernel_size", "patch_size", "classes")}
    assert ConvMixer(**{**SMALL, **numbers}).count_params() == ConvMixer(**SMALL).count_params()


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels_last"):
            ConvMixer(**SMALL)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    exact = randomize(ConvMixer(**SMALL))
    images = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")
    keras.config.set_dtype_policy(policy)
    try:
        mixed = ConvMixer(**SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(exact.get_weights())
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    assert mixed.get_layer("block_0_pointwise_bn").output.dtype == policy.removeprefix("mixed_")
    assert mixed.get_layer("head_pool").output.dtype == mixed.output.dtype == "float32"
    np.testing.assert_allclose(mixed(images), exact(images), atol=0.03)


def test_a_configuration_rebuilds_the_model():
    model = randomize(ConvMixer(**SMALL, include_preprocessing=True))
    images = np.random.default_rng(1).uniform(0, 255, size=(2, 8, 8, 3)).astype("float32")
    for twin in (keras.Model.from_config(model.get_config()), keras.models.clone_model(model)):
        assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
        twin.set_weights(model.get_weights())
        np.testing.assert_array_equal(twin(images), model(images))


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": "imagenett"},
        {"weights": "missing.weights.h5"},
        {"weights": "imagenet", "classifier_activation": "sigmoid"},
        {"input_shape": (64, 64)},
        {"classifier_activation": "softmux"},
        {"input_tensor": keras.Input((64, 64, 3)), "input_shape": (64, 64, 3)},
        {"input_shape": (64, 64, 3), "pooling": "max"},
        {"input_shape": (64, 64, 4)},
        {"include_top": False},
        {"include_top": False, "pooling": "avg", "input_shape": (64, 64, 3)},
        {"include_top": False, "classes": 7, "classifier_activation": "sigmoid"},
        {"classes": 7, "classifier_activation": None},
    ],
)
@pytest.mark.filterwarnings("ignore:This model usually expects 1 or 3 input channels")
def test_arguments_mean_what_they_mean_to_keras_applications(arguments):
    def outcome(build):
        try:
            model = build(**{"weights": None, "include_preprocessing": False, **arguments})
        except ValueError:
            return "ValueError"
        *grid, channels = model.output_shape
        return len(grid), channels if arguments.get("include_top", True) else "features"

    assert outcome(kc.ConvMixer1024_20) == outcome(keras.applications.ConvNeXtTiny)


def test_features_are_every_blocks_output():
    model = randomize(ConvMixer(**{**SMALL, "depth": 12}))
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    outputs = kc.features(model)(images)
    assert list(outputs) == [f"block_{block}" for block in range(12)]
    for block in (0, 1, 11):
        shallow = ConvMixer(**{**SMALL, "depth": block + 1}, include_top=False)
        shallow.set_weights(model.get_weights()[: len(shallow.weights)])
        np.testing.assert_allclose(outputs[f"block_{block}"], shallow(images), rtol=1e-5)


def test_features_need_a_convmixer():
    with pytest.raises(ValueError, match="'mlp' has no layer 'block_0_pointwise_bn'"):
        kc.features(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="mlp"))


def test_a_saved_model_loads_without_this_package(tmp_path):
    model = randomize(ConvMixer(**SMALL))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    loaded = run_forked(
        "import json, sys, keras, numpy\n"
        "model = keras.saving.load_model(sys.argv[1] + '/model.keras')\n"
        "print(json.dumps(model(numpy.load(sys.argv[1] + '/images.npy')).numpy().tolist()))",
        tmp_path,
        blocked=("keras_convmixer",),
    )
    np.testing.assert_allclose(json.loads(loaded.stdout), model(images), atol=1e-6)
