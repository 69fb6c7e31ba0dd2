"""Weights of and for ConvMixers that other models wrap, or that other code builds."""

import frozen
import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_convmixer as kc
from keras_convmixer.model.tweet import ConvMixer as tweet_convmixer
from keras_convmixer.weights.conversion import convert
from keras_convmixer.weights.model_layers import convmixer_layers

EXPECTED = np.load(frozen.FILE)["odd_gelu"]
IMAGES = frozen.images("odd_gelu")
SIZES = frozen.arguments("odd_gelu")


def assert_computes(model, expected=EXPECTED, images=IMAGES, tolerance=1e-4):
    np.testing.assert_allclose(model(images, training=False), expected, rtol=0, atol=tolerance * np.abs(expected).max())


def body(**changes):
    return kc.ConvMixer(**{**SIZES, "include_top": False, "pooling": "avg", "input_shape": (56, 56, 3), **changes})


def logits(**changes):
    return frozen.model(input_shape=(56, 56, 3), **changes)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = logits()

    def call(self, images):
        return self.inner(images)


def called(model):
    model(IMAGES)
    return model


def of_parts():
    """A model of small models, as others translate PyTorch's, with a layer that acts in training only."""
    layers = keras.layers

    def part(convolution):
        return keras.Sequential([convolution, layers.Activation("gelu"), layers.BatchNormalization(epsilon=1e-5)])

    inputs = keras.Input((56, 56, 3))
    x = part(layers.Conv2D(16, 7, 7))(inputs)
    for _ in range(3):
        y = layers.SpatialDropout2D(0.1)(part(layers.DepthwiseConv2D(9, padding="same"))(layers.Dropout(0.1)(x)))
        x = part(layers.Conv2D(16, 1))(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(frozen.CLASSES)(layers.Flatten()(layers.GlobalAveragePooling2D()(x))))


WRAPPED = {
    "of parts": of_parts,
    "Sequential": lambda: keras.Sequential([keras.Input((56, 56, 3)), keras.layers.Rescaling(1.0), logits()]),
    "two deep": lambda: keras.Sequential(
        [keras.Input((56, 56, 3)), keras.Sequential([keras.layers.Identity(), logits()])]
    ),
    "functional": lambda: keras.Model(inputs := keras.Input((56, 56, 3)), logits()(inputs), name="wrapped"),
    "subclassed": lambda: called(Subclassed()),
    "head of one's own": lambda: keras.Sequential(
        [body(), keras.layers.Dropout(0.5), keras.layers.Dense(frozen.CLASSES, name="mine")]
    ),
    "pooling of one's own": lambda: keras.Sequential(
        [body(pooling=None), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(frozen.CLASSES)]
    ),
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_a_convmixer_in_another_model_takes_weights(file, wrapping, caplog):
    model = WRAPPED[wrapping]()
    kc.load_weights(model, file)
    assert_computes(model)
    assert caplog.messages == []


GIVE = [(name, suffix) for name in WRAPPED for suffix in (".keras", ".weights.h5", ".safetensors")]


@pytest.mark.parametrize(
    ("wrapping", "suffix"),
    [(name, suffix) for name, suffix in GIVE if name != "subclassed" and (name, suffix) != ("of parts", ".weights.h5")],
)
def test_a_convmixer_in_another_model_gives_weights(tmp_path, file, wrapping, suffix):
    model, path = WRAPPED[wrapping](), tmp_path / f"wrapped{suffix}"
    kc.load_weights(model, file)
    if suffix == ".safetensors":
        kc.save_weights_torch(model, path)
        for name, tensor in frozen.tensors("odd_gelu").items():
            np.testing.assert_array_equal(load_file(path)[name], tensor)
    else:
        model.save(path) if suffix == ".keras" else model.save_weights(path)
    assert_computes(logits(weights=path))


def test_weights_alone_of_many_models_are_refused_with_the_remedy(tmp_path):
    of_parts().save_weights(tmp_path / "parts.weights.h5")
    with pytest.raises(ValueError, match=r"does not hold the layers of one ConvMixer: save its model as \.keras"):
        logits(weights=tmp_path / "parts.weights.h5")


def keras_io_convmixer(epsilon=1e-3, activation="gelu"):
    """keras.io's example: https://keras.io/examples/vision/convmixer/; names and epsilon are Keras's own."""
    layers = keras.layers

    def activation_block(x):
        return layers.BatchNormalization(epsilon=epsilon)(layers.Activation(activation)(x))

    inputs = keras.Input((56, 56, 3))
    x = layers.Rescaling(scale=1.0)(inputs)
    x = activation_block(layers.Conv2D(SIZES["dim"], kernel_size=SIZES["patch_size"], strides=SIZES["patch_size"])(x))
    for _ in range(SIZES["depth"]):
        x0 = x
        x = layers.DepthwiseConv2D(kernel_size=SIZES["kernel_size"], padding="same")(x)
        x = layers.Add()([activation_block(x), x0])
        x = activation_block(layers.Conv2D(SIZES["dim"], kernel_size=1)(x))
    return keras.Model(inputs, layers.Dense(frozen.CLASSES)(layers.GlobalAvgPool2D()(x)))


def tweet():
    model = tweet_convmixer(keras.Input((56, 56, 3)), 16, 3, 9, 7, frozen.CLASSES)
    return keras.Model(model.input, keras.ops.log(model.output))  # of probabilities


@pytest.mark.parametrize("build", [keras_io_convmixer, lambda: keras_io_convmixer(epsilon=1e-7)])
@pytest.mark.parametrize("variances", [(0.2, 1), (0, 1e-3)])
def test_keras_ios_example_with_its_own_epsilon(tmp_path, build, variances):
    """Small variances, beside which the epsilons matter."""
    tensors = frozen.tensors("odd_gelu")
    random = np.random.RandomState(1)
    for name in tensors:
        if name.endswith("running_var"):
            tensors[name] = random.uniform(*variances, tensors[name].shape).astype("float32")
    save_file(tensors, tmp_path / "timm.safetensors")
    expected = logits(weights=tmp_path / "timm.safetensors")(IMAGES)
    example = build()
    kc.load_weights(example, tmp_path / "timm.safetensors")
    assert_computes(example, expected)
    example.save(tmp_path / "example.keras")
    assert_computes(logits(weights=tmp_path / "example.keras"), expected)
    again = build()
    kc.load_weights(again, tmp_path / "example.keras")
    for ours, theirs in zip(again.get_weights(), example.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    convert(tmp_path / "example.keras", tmp_path / "back.safetensors")
    assert_computes(logits(weights=tmp_path / "back.safetensors"), expected)


def test_the_tweets_model_is_found_too(file):
    model = tweet()
    kc.load_weights(model, file)
    assert_computes(model, EXPECTED - np.log(np.exp(EXPECTED).sum(-1, keepdims=True)))
    kc.save_weights_torch(model, file)
    with pytest.raises(ValueError, match="activation='gelu', and this one has 'relu'"):
        kc.load_weights(keras_io_convmixer(activation="relu"), file)


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (lambda: keras.layers.Activation("relu"), "relu"),
        (keras.layers.ReLU, "relu"),
        (lambda: keras.layers.ReLU(max_value=6), None),
        (lambda: keras.layers.Activation(lambda x: x), None),
        (lambda: keras.ops.gelu, None),  # the approximate one
        (lambda: keras.ops.relu, "relu"),
        (lambda: lambda x: keras.ops.gelu(x, approximate=False), "gelu"),
    ],
)
def test_activations_are_recognized(file, activation, name):
    x = inputs = keras.Input((56, 56, 3))
    x = keras.layers.BatchNormalization()(activation()(keras.layers.Conv2D(16, 7, 7)(x)))
    x0 = x
    x = keras.layers.BatchNormalization()(activation()(keras.layers.DepthwiseConv2D(9, padding="same")(x))) + x0
    x = keras.layers.BatchNormalization()(activation()(keras.layers.Conv2D(16, 1)(x)))
    assert convmixer_layers(keras.Model(inputs, x)).activation == name


def test_another_activation_is_refused_where_the_file_has_one(tmp_path):
    keras_io_convmixer(activation="relu").save(tmp_path / "relu.keras")
    with pytest.raises(ValueError, match="activation='relu', and this one has 'gelu'"):
        logits(weights=tmp_path / "relu.keras")


def test_keras_weights_files_of_other_code_are_read_in_order_and_their_epsilon_assumed(tmp_path, caplog):
    example = keras_io_convmixer()
    for layer in example.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.random.RandomState(0).uniform(0.5, 1, 16) for _ in range(4)])
    example.save_weights(tmp_path / "example.weights.h5")
    assert_computes(logits(weights=tmp_path / "example.weights.h5"), example(IMAGES), tolerance=0.02)
    assert "example.weights.h5 does not say its normalizations' epsilon: the model's, 1e-05, is assumed" in caplog.text
    caplog.clear()
    again = keras_io_convmixer()
    kc.load_weights(again, tmp_path / "example.weights.h5")
    assert_computes(again, example(IMAGES))


def test_keras_weights_files_convert(tmp_path, file):
    frozen.model(weights=file).save_weights(tmp_path / "a.weights.h5")
    model = convert(tmp_path / "a.weights.h5", tmp_path / "a.keras", image_size=56, scaled_input=True)
    exponentials = np.exp(EXPECTED)
    assert_computes(model, exponentials / exponentials.sum(-1, keepdims=True))
    convert(tmp_path / "a.weights.h5", tmp_path / "b.safetensors")
    assert_computes(logits(weights=tmp_path / "b.safetensors"))


def test_more_than_ten_layers_keep_their_order(tmp_path):
    """Keras names them conv2d_2 and conv2d_10, in which order HDF5 does not list them."""
    model = kc.ConvMixer(4, 12, 3, 2, input_shape=(8, 8, 3), classes=3)
    model.save_weights(tmp_path / "deep.weights.h5")
    other = kc.ConvMixer(4, 12, 3, 2, input_shape=(8, 8, 3), classes=3, weights=tmp_path / "deep.weights.h5")
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_bfloat16_weights_of_keras(tmp_path):
    model = kc.ConvMixer(8, 1, 3, 2, input_shape=(8, 8, 3), classes=3)
    keras.config.set_dtype_policy("bfloat16")
    try:
        narrow = kc.ConvMixer(8, 1, 3, 2, input_shape=(8, 8, 3), classes=3)
    finally:
        keras.config.set_dtype_policy("float32")
    narrow.save_weights(tmp_path / "narrow.weights.h5")
    kc.load_weights(model, tmp_path / "narrow.weights.h5")
    expected = keras.ops.convert_to_numpy(keras.ops.cast(narrow.get_layer("stem_conv").kernel, "float32"))
    np.testing.assert_array_equal(model.get_layer("stem_conv").kernel, expected)


def not_convmixers():
    layers = keras.layers

    def chain(*rest, stem=None):
        return keras.Sequential([keras.Input((56, 56, 3)), stem or layers.Conv2D(16, 7, 7), *rest])

    def block(depthwise=None):
        inputs = keras.Input((8, 8, 16))
        x = (depthwise or layers.DepthwiseConv2D(9, padding="same"))(inputs)
        x = layers.Add()([layers.BatchNormalization()(layers.Activation("gelu")(x)), inputs])
        x = layers.BatchNormalization()(layers.Activation("gelu")(layers.Conv2D(16, 1)(x)))
        return keras.Model(inputs, x)

    after = (layers.Activation("gelu"), layers.BatchNormalization())
    yield "activation after normalization", chain(layers.BatchNormalization(), layers.Activation("gelu"), block())
    yield "stem with overlap", chain(*after, block(), stem=layers.Conv2D(16, 14, 7, padding="same"))
    yield "dilated", chain(*after, block(layers.DepthwiseConv2D(5, padding="same", dilation_rate=2)))
    inputs = x0 = keras.Input((56, 56, 3))
    x = x0 = layers.BatchNormalization()(layers.Activation("gelu")(layers.Conv2D(16, 7, 7)(inputs)))
    for _ in range(3):
        y = layers.DepthwiseConv2D(9, padding="same")(x)
        x = layers.Add()([layers.BatchNormalization()(layers.Activation("gelu")(y)), x0])
        x = layers.BatchNormalization()(layers.Activation("gelu")(layers.Conv2D(16, 1)(x)))
    yield "residual of the stem", keras.Model(inputs, x)
    yield "no residual", chain(*after, layers.DepthwiseConv2D(9, padding="same"), layers.BatchNormalization())
    yield "no blocks", chain(*after)
    yield "two activations", chain(layers.ReLU(), layers.BatchNormalization(), block())


@pytest.mark.parametrize(("name", "model"), list(not_convmixers()))
def test_what_computes_something_else_is_no_convmixer(file, name, model):
    with pytest.raises(ValueError, match="does not hold a ConvMixer"):
        kc.load_weights(model, file)


def test_two_convmixers_and_one_without_weights(file):
    inputs = keras.Input((56, 56, 3))
    both = keras.Model(inputs, keras.layers.Average()([logits(name="a")(inputs), logits(name="b")(inputs)]))
    with pytest.raises(ValueError, match="holds several ConvMixers"):
        kc.load_weights(both, file)


def test_layers_without_bias_are_named(file):
    model = keras_io_convmixer()
    config = model.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == "Conv2D":
            layer["config"]["use_bias"] = False
    with pytest.raises(ValueError, match="has 1 weights, and that of a ConvMixer has 2"):
        kc.load_weights(keras.Model.from_config(config), file)


def test_a_home_folder_is_expanded(tmp_path, file, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_computes(frozen.model(weights="~/model.safetensors"))
    model = frozen.model()
    kc.load_weights(model, "~/model.safetensors")
    kc.save_weights_torch(model, "~/again.safetensors")
    convert("~/again.safetensors", "~/again.keras", image_size=56)
    kc.load_weights(model, "~/again.keras")
    assert_computes(model)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "again.safetensors", "again.keras"}


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("gs://bucket/model.safetensors", "gcloud storage cp"),
        ("s3://bucket/model.keras", "aws s3 cp"),
        ("hf://timm/convmixer_768_32.in1k/model.safetensors", "hf download"),
        ("https://example.org/model.pth", "curl -L -O"),
        ("abfs://container/model.ckpt", "download it and give"),
    ],
)
def test_an_address_is_said_to_be_one(model, tmp_path, address, remedy):
    for attempt in (
        lambda: kc.load_weights(model, address),
        lambda: kc.load_weights(model, frozen.Path(address)),
        lambda: frozen.model(weights=address),
        lambda: convert(address, tmp_path / "out.keras"),
    ):
        with pytest.raises(ValueError, match=f"is an address, and weights are read from local files: .*{remedy}"):
            attempt()
