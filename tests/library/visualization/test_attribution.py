import keras
import numpy as np
import pytest

from keras_convmixer import ConvMixer
from keras_convmixer.visualization.attribution import effective_receptive_field, grad_cam

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (30, 21, 3), np.uint8)


def mixer(depth=1, **changes):
    """A small ConvMixer whose batch normalizations have seen something."""
    keras.utils.set_random_seed(0)
    arguments = {"input_shape": (None, None, 3), "classes": 4, "include_preprocessing": True, **changes}
    model = ConvMixer(8, depth, kernel_size=3, patch_size=4, **arguments)
    random = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return model


def linear_model(kernel, size):
    """One convolution without bias: its gradient is its kernel."""
    images = keras.Input((*size, kernel.shape[2]))
    layer = keras.layers.Conv2D(kernel.shape[3], kernel.shape[:2], padding="same", use_bias=False)
    model = keras.Model(images, layer(images))
    layer.set_weights([kernel])
    return model


# Effective receptive field


@pytest.mark.parametrize(("size", "center"), [((9, 11), (4, 5)), ((8, 14), (4, 7))])
def test_two_depthwise_layers_of_ones_see_a_pyramid(size, center):
    images = keras.Input((*size, 2))
    x = images
    for _ in range(2):
        x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, depthwise_initializer="ones")(x)
    field = effective_receptive_field(keras.Model(images, x), RANDOM.random((*size, 2)))
    steps = np.array([1, 2, 3, 2, 1]) / 3
    expected = np.zeros(size)
    expected[center[0] - 2 : center[0] + 3, center[1] - 2 : center[1] + 3] = np.outer(steps, steps)
    assert field.dtype == np.float32
    np.testing.assert_allclose(field, expected, atol=1e-6)


def test_the_gradients_of_output_channels_add_up_and_those_of_input_channels_by_size():
    kernel = np.zeros((1, 3, 2, 2))
    kernel[0, :, :, 0] = [[5, -1], [3, 0], [-1, -2]]
    kernel[0, :, :, 1] = [[-4, 0], [0, 1], [0, 0]]
    field = effective_receptive_field(linear_model(kernel, (3, 5)), np.zeros((3, 5, 2)))
    expected = np.zeros((3, 5))
    expected[1, 1:4] = [0.5, 1, 0.75]  # 1 + 1, 3 + 1, 1 + 2
    np.testing.assert_allclose(field, expected, atol=1e-6)


@pytest.mark.parametrize("top", [{}, {"include_top": False}, {"include_top": False, "pooling": "max"}])
def test_one_block_sees_the_patches_below_its_kernel_and_no_others(top):
    if top:
        top = {"classes": 1000, **top}
    field = effective_receptive_field(mixer(**top), PIXELS)  # 7x5 positions; the center is (3, 2)
    expected = np.zeros((30, 21), bool)
    expected[8:20, 4:16] = True
    assert ((field > 0) == expected).all()
    assert field.max() == 1
    assert field[12:16, 8:12].mean() > 2 * field[expected].mean()  # by the way around the kernel


def test_it_is_the_gradient_of_inference_by_finite_differences():
    model = mixer(depth=2)
    network = keras.Model(model.input, model.get_layer("block_1_pointwise_bn").output)
    image = PIXELS[:9, :12].astype("float32")
    steps = np.eye(image.size, dtype="float32").reshape(-1, *image.shape)
    above, below = (network.predict(image + sign * steps, verbose=0)[:, 1, 1].sum(-1) for sign in (1, -1))
    expected = np.abs(above - below).reshape(image.shape).sum(-1)
    np.testing.assert_allclose(effective_receptive_field(model, image), expected / expected.max(), atol=2e-3)


def test_uint8_and_float_images_see_the_same():
    model = mixer()
    np.testing.assert_array_equal(
        effective_receptive_field(model, PIXELS), effective_receptive_field(model, PIXELS.astype("float64"))
    )


# Grad-CAM


def feature_model():
    keras.utils.set_random_seed(0)
    images = keras.Input((6, 8, 3))
    x = keras.layers.Conv2D(5, 3, strides=2, padding="same", activation="tanh")(images)
    return keras.Model(images, keras.layers.BatchNormalization(momentum=0.5)(x), name="body")


BODY = feature_model()
KERNEL = RANDOM.normal(size=(5, 4)).astype("float32")[:, ::-1] * 200  # so sure that the softmax has no gradient left
BIAS = RANDOM.normal(size=4).astype("float32")
IMAGE = RANDOM.random((6, 8, 3)).astype("float32")
FEATURES = BODY(IMAGE[None], training=False).numpy()[0]
LOGITS = FEATURES.mean((0, 1)) @ KERNEL + BIAS
assert LOGITS.argmax() != 0


def with_weights(model):
    """Put KERNEL and BIAS into the head, of whatever layers it is."""
    model.set_weights([*BODY.get_weights(), KERNEL.reshape(model.weights[-2].shape), BIAS])
    return model


def ending_in(*layers):
    x = BODY.output
    for layer in layers:
        x = layer(x)
    return with_weights(keras.Model(BODY.input, x))


def pooled(**arguments):
    return keras.layers.GlobalAveragePooling2D(**arguments)


def nested():
    """Models in models: the features and the logits are tensors of inner ones only."""
    x = pooled()(BODY.output)
    body = keras.Sequential([keras.Input((6, 8, 3)), keras.layers.RandomFlip(), keras.Model(BODY.input, x)])
    head = keras.Sequential([keras.layers.Dropout(0.9), keras.layers.Dense(4, activation="softmax")])
    return with_weights(keras.Sequential([keras.Input((6, 8, 3)), body, head]))


MODELS = {
    "softmax": ending_in(pooled(), keras.layers.Dense(4, activation="softmax")),
    "logits": ending_in(pooled(), keras.layers.Dense(4)),
    "sigmoid": ending_in(pooled(), keras.layers.Dense(4, activation="sigmoid")),
    "softmax layer": ending_in(pooled(), keras.layers.Dense(4), keras.layers.Softmax()),
    "activation layer": ending_in(pooled(), keras.layers.Dense(4), keras.layers.Activation("softmax")),
    "softmax function": ending_in(pooled(), keras.layers.Dense(4), keras.ops.softmax),
    "convolution after pooling": ending_in(  # as MobileNet ends
        pooled(keepdims=True), keras.layers.Conv2D(4, 1), keras.layers.Flatten(), keras.layers.Softmax()
    ),
    "nested": nested(),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("class_index", [0, 1, 2, 3, np.int64(3), None])
def test_after_average_pooling_it_is_the_class_activation_map(model, class_index):
    heat, index = grad_cam(model, IMAGE, class_index)
    assert index == (LOGITS.argmax() if class_index is None else class_index)
    assert type(index) is int
    assert heat.dtype == np.float32
    expected = np.maximum(FEATURES @ KERNEL[:, index] / FEATURES[..., 0].size, 0)
    assert expected.any()
    np.testing.assert_allclose(heat, expected, rtol=1e-4, atol=1e-3)


def test_other_heads_weigh_channels_by_their_mean_gradient():
    kernel = RANDOM.normal(size=(60, 4)).astype("float32")
    model = keras.Model(BODY.input, keras.layers.Dense(4, activation="softmax")(keras.layers.Flatten()(BODY.output)))
    model.set_weights([*BODY.get_weights(), kernel, BIAS])
    heat, _ = grad_cam(model, IMAGE, 2)
    weights = kernel[:, 2].reshape(3, 4, 5).mean((0, 1))
    np.testing.assert_allclose(heat, np.maximum(FEATURES @ weights, 0), atol=1e-5)


def test_the_map_of_a_mixer_has_one_value_for_each_patch():
    heat, _ = grad_cam(mixer(), PIXELS)
    assert heat.shape == (7, 5)
    assert heat.min() >= 0


@pytest.mark.parametrize("preprocessing", [True, False])
def test_one_patch_may_be_the_whole_image(preprocessing):
    model = mixer(input_shape=(4, 4, 3), include_preprocessing=preprocessing, activation="tanh")
    image = PIXELS[:4, :4] / 255
    assert grad_cam(model, image)[0].shape == (1, 1)
    assert (effective_receptive_field(model, image) > 0).all()


# Both


def test_the_model_stays_as_it_was(tmp_path):
    model = MODELS["nested"]
    model.compile("sgd", "mse", jit_compile=False)
    before, weights, optimizer = model.to_json(), model.get_weights(), model.optimizer
    effective_receptive_field(model, IMAGE)
    grad_cam(model, IMAGE)
    assert model.to_json() == before
    assert model.optimizer is optimizer
    assert all((one == other).all() for one, other in zip(weights, model.get_weights(), strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(grad_cam(loaded, IMAGE)[0], grad_cam(model, IMAGE)[0], rtol=1e-5)


def flat_classifier():
    return keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])


def two_maps():
    images = keras.Input((8, 8, 3))
    maps = [keras.layers.Conv2D(2, 3, strides=strides)(images) for strides in (1, 2)]
    x = keras.layers.Concatenate()([keras.layers.GlobalMaxPooling2D()(x) for x in maps])
    return keras.Model(images, keras.layers.Dense(3)(x))


def two_outputs_inside():
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3)(images)
    inner = keras.Model(images, [x, keras.layers.Dense(3)(pooled()(x))], name="inner")
    return keras.Model(images, inner(images)[1])


class Subclassed(keras.Model):
    def call(self, images):
        return images


@pytest.mark.parametrize("explain", [effective_receptive_field, grad_cam])
@pytest.mark.parametrize(
    ("model", "image", "words"),
    [
        (mixer(), PIXELS[..., :1], r"shape \(30, 21, 1\).* \[any, any, 3\]: resize"),
        (mixer(), PIXELS[None], r"shape \(1, 30, 21, 3\)"),
        (mixer(), PIXELS[..., 0], r"shape \(30, 21\)"),
        (mixer(input_shape=(30, 24, 3)), PIXELS, r"\[30, 24, 3\]: resize"),
        (mixer(), PIXELS.astype(str), "type <U3: give uint8 or float"),
        (mixer(), PIXELS[:3], "3x21 pixels leaves no position.*: give a larger"),
        (mixer(), np.full((8, 8, 3), np.nan), "NaN or infinite"),
        (flat_classifier(), PIXELS[:4, :4], "no feature map.*: give a convolutional"),
        (two_maps(), PIXELS[:8, :8], r"reads 2 feature maps.*\(None, 6, 6, 2\).*: give"),
        (two_outputs_inside(), PIXELS[:8, :8], "inner is a model with several inputs or outputs"),
        (Subclassed(name="own"), PIXELS, "own is .* functional or Sequential"),
        (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), PIXELS, "the model takes"),
    ],
)
def test_what_cannot_be_explained_is_named(explain, model, image, words):
    with pytest.raises(ValueError, match=words):
        explain(model, image)


def test_a_dead_model_has_no_receptive_field():
    with pytest.raises(ValueError, match="no pixel of this image influences"):
        effective_receptive_field(linear_model(np.zeros((3, 3, 3, 1)), (30, 21)), PIXELS)


@pytest.mark.parametrize("class_index", [4, -1, 1.5, "cat", True])
def test_there_is_no_such_class(class_index):
    with pytest.raises(ValueError, match=r"class_index=.*from 0 to 3, or None"):
        grad_cam(mixer(), PIXELS, class_index)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (mixer(include_top=False, classes=1000), "a classifier takes one image"),
        (mixer(classifier_activation="tanh"), "ends in tanh"),
        (keras.Sequential([mixer(), keras.layers.Identity()]), "classes have no logits"),
    ],
)
def test_grad_cam_needs_a_classifier(model, words):
    with pytest.raises(ValueError, match=words):
        grad_cam(model, PIXELS)


@pytest.mark.parametrize("explain", [effective_receptive_field, grad_cam])
def test_it_runs_on_tensorflow_only(explain, monkeypatch):
    model = mixer()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="visualizing needs Keras on TensorFlow"):
        explain(model, PIXELS)
