"""deploy() on other models than ConvMixer: what has an exact rewrite gets it, and everything else stays."""

import keras
import numpy as np
import pytest
from deployed import deployed_equals, kinds, randomized
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_convmixer as kc
from keras_convmixer.deployment import TARGETS
from keras_convmixer.deployment.rules import DROPPED
from keras_convmixer.environment.keras_internals import all_layers

L = keras.layers


def depthwise_model(draw):
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    kernel = (draw(st.integers(1, 15)), draw(st.integers(1, 15)))
    padding = draw(st.sampled_from(["same", "valid"]))
    if padding == "valid":
        kernel = (min(kernel[0], height), min(kernel[1], width))
    stride = draw(st.sampled_from([1, 1, 2, 3]))
    dilation = draw(st.sampled_from([1, 1, 2])) if stride == 1 and padding == "same" else 1
    channels = draw(st.sampled_from([1, 3, 8, 130, 256]))
    normalization = st.sampled_from(["none", "plain", "no scale", "no center"])
    activation = st.sampled_from([None, "relu", "gelu", "softmax", "leaky_relu", "tanh"])

    def normalized(x):
        kind = draw(normalization)
        return x if kind == "none" else L.BatchNormalization(scale=kind != "no scale", center=kind != "no center")(x)

    def activated(x):
        name = draw(activation)
        return x if name is None else L.Activation(name)(x)

    inputs = keras.Input((height if draw(st.booleans()) or stride > 1 else None, width, 3))
    x = L.Rescaling([1.0, 0.5, 2.0], offset=[0.0, 1.0, -1.0])(inputs) if draw(st.booleans()) else inputs
    x = normalized(activated(normalized(L.Conv2D(channels, draw(st.sampled_from([1, 3])), padding="same")(x))))
    residual = x
    x = L.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding=padding,
        dilation_rate=dilation,
        use_bias=draw(st.booleans()),
        activation=draw(activation),
    )(x)
    x = normalized(activated(normalized(x)))
    if padding == "same" and stride == 1 and draw(st.booleans()):
        x = L.Add()([x, residual])
    x = L.Dropout(0.5)(x)
    if draw(st.booleans()):
        x = normalized(L.Conv2D(4, 1, activation=draw(activation))(x))
    x = L.GlobalAveragePooling2D()(x) if draw(st.booleans()) else x
    return keras.Model(inputs, x), (2, height, width, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1 of a tensor of shape")  # of one channel
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_depthwise_convolution_between_any_neighbours(data):
    model, shape = depthwise_model(data.draw)
    randomized(model)
    images = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    for target in TARGETS:
        found = keras.ops.convert_to_numpy(kc.deploy(model, target, verified=False)(images, training=False))
        # Two thirds of a number's size may cancel in sums of other order; what is wrong differs by far more.
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("changes", [{"strides": 2}, {"dilation_rate": 2}, {"padding": "valid"}, {"use_bias": False}])
def test_strides_dilation_and_valid_padding_are_cut_too(changes):
    inputs = keras.Input((19, 23, 6))
    model = keras.Model(inputs, L.DepthwiseConv2D((7, 9), **{"padding": "same", **changes})(inputs))
    assert kinds(deployed_equals(model))["DepthwiseConv2D"] > 1


def test_a_depth_multiplier_stays():
    inputs = keras.Input((9, 9, 4))
    model = keras.Model(inputs, L.DepthwiseConv2D(7, depth_multiplier=3, padding="same")(inputs))
    assert kinds(deployed_equals(model))["DepthwiseConv2D"] == 1


@pytest.mark.parametrize("sizes", [(4, 7, 2, 3, 3, 1), (2, 2, 1, 1, 1, 2), (15, 15, 1, 2, 1, 1), (9, 9, 3, 3, 2, 1)])
def test_kernels_larger_than_the_image(sizes):
    rows, columns, height, width, strides, dilation = sizes
    inputs = keras.Input((height, width, 3))
    layer = L.DepthwiseConv2D((rows, columns), strides=strides, dilation_rate=dilation, padding="same")
    deployed_equals(keras.Model(inputs, layer(inputs)))


def test_an_activation_over_all_channels_sees_all_channels():
    inputs = keras.Input((9, 9, 256))
    model = keras.Model(inputs, L.DepthwiseConv2D(7, padding="same", activation="softmax")(inputs))
    assert kinds(deployed_equals(model))["DepthwiseConv2D"] == 3


def test_strides_on_images_of_unknown_size_stay():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, L.DepthwiseConv2D(7, strides=2, padding="same")(inputs))
    assert kinds(deployed_equals(model))["DepthwiseConv2D"] == 1


def test_channels_first_stays():
    inputs = keras.Input((4, 9, 9))
    x = L.DepthwiseConv2D(7, padding="same", data_format="channels_first")(inputs)
    model = keras.Model(inputs, L.BatchNormalization(axis=1)(x))
    deployed = kc.deploy(randomized(model), verified=False)  # TensorFlow runs neither on a CPU
    assert kinds(deployed) == kinds(model)
    for one, other in zip(model.get_weights(), deployed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_normalization_of_another_axis_stays():
    inputs = keras.Input((5, 5, 5))
    x = L.DepthwiseConv2D(3, padding="same")(inputs)
    model = keras.Model(inputs, L.BatchNormalization(axis=1)(x))
    assert kinds(deployed_equals(model)) == kinds(model)


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16", "bfloat16"])
def test_other_dtypes_than_float32_stay(dtype):
    inputs = keras.Input((9, 9, 4), dtype=dtype.removeprefix("mixed_"))
    x = L.BatchNormalization(dtype=dtype)(L.DepthwiseConv2D(7, padding="same", dtype=dtype)(inputs))
    model = randomized(keras.Model(inputs, x))
    deployed = kc.deploy(model)
    assert kinds(deployed) == kinds(model)
    assert deployed.output.dtype == model.output.dtype


def test_a_group_for_each_channel_is_depthwise():
    inputs = keras.Input((9, 9, 8))
    x = L.Conv2D(8, 7, padding="same", groups=8, activation="relu")(inputs)
    model = keras.Model(inputs, L.Conv2D(6, 1, groups=2)(L.BatchNormalization()(x)))
    assert kinds(deployed_equals(model))["Conv2D"] == 1
    assert kinds(deployed_equals(model, "tensorflow"))["DepthwiseConv2D"] == 1


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_chain_of_scalings_goes_into_the_first_convolution_where_it_is_exact(padding):
    normalization = L.Normalization()
    normalization.adapt(np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 3)))
    inputs = keras.Input((12, 12, 3))
    x = normalization(L.Rescaling(1 / 127.5, offset=-1)(inputs))
    model = keras.Model(inputs, L.Conv2D(4, 3, padding=padding)(L.Rescaling([1.0, 2.0, 3.0])(x)))
    deployed = deployed_equals(model)
    scalings = 0 if padding == "valid" else 1  # a padded zero is no padded black
    assert len(deployed.layers) == 2 + scalings
    assert not {"Rescaling", "Normalization"} & set(kinds(deployed))


def test_scalings_that_are_not_by_channel_stay():
    inputs = keras.Input((4, 5, 3))
    scale = np.arange(1.0, 5.0).reshape(4, 1, 1)
    model = keras.Model(inputs, L.Conv2D(2, 1)(L.Rescaling(scale)(inputs)))
    assert kinds(deployed_equals(model))["Rescaling"] == 1
    normalization = L.Normalization(axis=(1, 3))
    normalization.adapt(np.random.default_rng(0).normal(size=(8, 4, 5, 3)))
    model = keras.Model(inputs, L.Conv2D(2, 1)(normalization(inputs)))
    assert kinds(deployed_equals(model))["Normalization"] == 1


def test_inputs_of_integers():
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    model = keras.Model(inputs, L.Conv2D(2, 3)(L.Rescaling(1 / 255)(inputs)))
    assert kinds(deployed_equals(model))["Rescaling"] == 1


@pytest.mark.parametrize("kind", DROPPED, ids=lambda kind: kind.__name__)
def test_layers_that_are_dropped_do_nothing_at_inference(kind):
    arguments = {
        "RandomBrightness": {"factor": 0.5},
        "RandomContrast": {"factor": 0.5},
        "RandomTranslation": {"height_factor": 0.5, "width_factor": 0.5},
        "Identity": {},
        "ActivityRegularization": {},
        "AugMix": {},
        "CutMix": {},
        "MixUp": {},
        "RandAugment": {},
        "RandomColorJitter": {},
        "RandomElasticTransform": {},
        "RandomErasing": {},
        "RandomFlip": {},
        "RandomGaussianBlur": {},
        "RandomPerspective": {},
        "RandomShear": {},
        "RandomGrayscale": {},
        "RandomInvert": {},
        "RandomPosterization": {"factor": 4},
        "RandomZoom": {"height_factor": 0.5},
    }.get(kind.__name__, {"factor": 0.5})
    if "Dropout" in kind.__name__:
        arguments = {"rate": 0.5}
    if kind.__name__ == "GaussianNoise":
        arguments = {"stddev": 1.0}
    layer = kind(**arguments)
    shape = {"SpatialDropout1D": (2, 4, 3), "SpatialDropout3D": (2, 4, 4, 4, 3)}.get(kind.__name__, (2, 8, 8, 3))
    images = np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(images, training=False)), images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ConvNeXtTiny", "EfficientNetV2B0", "ResNet50", "MobileNetV3Small"])
@pytest.mark.parametrize("target", TARGETS)
def test_models_of_keras_applications(name, target):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(96, 96, 3), classifier_activation=None)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.0
            layer.beta.assign(random.uniform(-0.3, 0.3, layer.beta.shape))
    images = random.uniform(0, 255, (8, 96, 96, 3)).astype("float32")
    model(images, training=True)  # statistics that keep what passes in range, as trained ones do
    deployed = kc.deploy(model, target)
    expected, found = (keras.ops.convert_to_numpy(one(images, training=False)) for one in (model, deployed))
    assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)
    if target == "litert":
        assert kinds(deployed)["BatchNormalization"] == 0
    depthwise = sum(
        (isinstance(layer, L.Conv2D) and 1 < layer.groups == layer.filters) or isinstance(layer, L.DepthwiseConv2D)
        for layer in all_layers(model)
    )
    assert depthwise <= kinds(deployed)["DepthwiseConv2D"]
