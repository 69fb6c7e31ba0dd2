"""Whether a model returns probabilities or logits, of which kind; the misleading cases above all."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from keras_convmixer.outputs.classifier import as_classifier, predict, require_single_label
from keras_convmixer.outputs.kind import NotFinite, outputs_of

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


def ending(*last, units=3, activation=None, dtype="float32"):
    """A model with known weights: a dense layer with this activation, and these layers or functions after it."""
    images = keras.Input((8, 8, 3), dtype=dtype)
    x = L.GlobalAveragePooling2D()(L.Rescaling(1 / 25)(images))
    x = L.Dense(units, activation, kernel_initializer=keras.initializers.RandomNormal(seed=1))(x)
    for layer in last:
        x = layer(x)
    return keras.Model(images, x)


def on_two_views(combine, activation):
    """Test-time augmentation: a model called on an image and its mirror image."""
    inner, images = ending(activation=activation), keras.Input((8, 8, 3))
    return keras.Model(images, combine(inner(images), inner(ops.flip(images, 2))))


def of_heads(count):
    """Several dense layers of one sigmoid each, side by side."""
    images = keras.Input((8, 8, 3))
    x = L.GlobalAveragePooling2D()(images)
    return keras.Model(images, L.Concatenate()([L.Dense(1, "sigmoid")(x) for _ in range(count)]))


def convolutional(activation):
    """A classifier whose last layer with weights is a 1x1 convolution, averaged over all positions."""
    images = keras.Input((8, 8, 3))
    return keras.Model(images, L.GlobalAveragePooling2D()(L.Conv2D(4, 1, activation=activation)(images)))


def with_dense(*weights, activation="softmax"):
    """A dense layer of these weights after three values."""
    layer = L.Dense(weights[0].shape[1], use_bias=len(weights) == 2)
    model = ending(layer, activation=activation)
    layer.set_weights([np.asarray(weight, "float32") for weight in weights])
    return model


def compiled(model, loss):
    model.compile(loss=loss)
    return model


class Inside(L.Layer):
    """A layer of somebody's own, with weights and an activation inside."""

    def __init__(self, function):
        super().__init__()
        self.function, self.dense = function, L.Dense(3)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.function(self.dense(x))


MERGING = np.array([[1, 0], [1, 0], [0, 1]])
PROBABILITIES = {
    "softmax": ending(activation="softmax"),
    "softmax layer": ending(L.Softmax()),
    "softmax layer as activation": ending(activation=L.Softmax()),
    "operation as activation": ending(activation=ops.softmax),
    "function as activation": ending(activation=lambda x: ops.softmax(x / 2)),
    "identity": ending(L.Identity(), activation="softmax"),
    "dropout": ending(L.Dropout(0.2), activation="softmax"),
    "reshape": ending(L.Reshape((3, 1)), L.Reshape((3,)), activation="softmax"),
    "float16": ending(lambda x: ops.cast(ops.cast(x, "float16"), "float32"), activation="softmax"),
    "bfloat16": ending(lambda x: ops.cast(ops.cast(x, "bfloat16"), "float32"), activation="softmax"),
    "clipped": ending(lambda x: ops.clip(x, 1e-7, 1 - 1e-7), activation="softmax"),
    "lambda": ending(L.Lambda(lambda x: ops.softmax(x))),
    "own layer": ending(Inside(ops.softmax)),
    "nested": ending(keras.Sequential([L.Softmax()])),
    "nearly one-hot": ending(L.Lambda(lambda x: ops.softmax(1e4 * x))),
    "one-hot": ending(lambda x: ops.one_hot(ops.argmax(x, -1), 3)),
    "average": on_two_views(lambda a, b: L.Average()([a, b]), "softmax"),
    "half of a sum": on_two_views(lambda a, b: (a + b) / 2, "softmax"),
    "half of a sum in bfloat16": on_two_views(
        lambda a, b: ops.cast(ops.cast((a + b) / 2, "bfloat16"), "float32"), "softmax"
    ),
    "mean of a stack": on_two_views(lambda a, b: ops.mean(ops.stack([a, b], 1), 1), "softmax"),
    "averaged positions": convolutional("softmax"),
    "merged classes": with_dense(MERGING),
    "exponential of log-softmax": ending(lambda x: ops.exp(x), activation="log_softmax"),
}


@pytest.mark.parametrize("model", PROBABILITIES.values(), ids=PROBABILITIES)
def test_probabilities_get_no_second_softmax(model):
    found = as_classifier(model)
    assert (found.returns.kind, found.returns.added) == ("single-label", None)
    np.testing.assert_allclose(predict(found, IMAGES), model(IMAGES.astype("float32")), atol=1e-6)


LOGITS = {
    "dense": ending(),
    "temperature": ending(lambda x: x / 3.0),
    "never negative": ending(activation="relu"),
    "ReLU layer": ending(L.ReLU()),
    "within 0..6": ending(activation="relu6"),
    "normalized": ending(L.BatchNormalization()),
    "average": on_two_views(lambda a, b: L.Average()([a, b]), None),
    "averaged positions": convolutional(None),
    "one row, which sums to 1": with_dense(np.zeros((3, 3)), np.array([0.2, 0.3, 0.5]), activation=None),
    "zeros": with_dense(np.zeros((3, 3)), np.zeros(3), activation=None),
    "log-softmax": ending(activation="log_softmax"),
    "logarithm": ending(lambda x: ops.log(x), activation="softmax"),
    "own layer": ending(Inside(lambda x: 10 * x)),
    "two outputs that sum to about 1": with_dense(
        np.array([[0.5, 0.5]] * 3), np.array([0.2, -0.2]), activation="softmax"
    ),
}


@pytest.mark.parametrize("model", LOGITS.values(), ids=LOGITS)
def test_logits_get_a_softmax(model):
    found = as_classifier(model, images=IMAGES)  # so that its values are looked at in any case
    assert (found.returns.kind, found.returns.added) == ("single-label", "softmax")
    np.testing.assert_allclose(predict(found, IMAGES), ops.softmax(model(IMAGES.astype("float32"))), atol=1e-6)


SIGMOIDS = {
    "sigmoid": ending(activation="sigmoid"),
    "sigmoid layer": ending(L.Activation("sigmoid")),
    "operation": ending(ops.sigmoid),
    "lambda": ending(L.Lambda(lambda x: ops.sigmoid(x))),
    "hard": ending(activation="hard_sigmoid"),
    "rows that sum to 1": with_dense(np.zeros((3, 2)), np.array([1.5, -1.5]), activation=None),
    "heads": of_heads(3),
    "average": on_two_views(lambda a, b: L.Average()([a, b]), "sigmoid"),
    "half of a sum": on_two_views(lambda a, b: (a + b) / 2, "sigmoid"),
}
SIGMOIDS["rows that sum to 1"] = keras.Model(
    SIGMOIDS["rows that sum to 1"].input, L.Activation("sigmoid")(SIGMOIDS["rows that sum to 1"].output)
)


@pytest.mark.parametrize("model", SIGMOIDS.values(), ids=SIGMOIDS)
def test_sigmoids_are_labels_by_themselves(model):
    found = as_classifier(model, images=IMAGES)
    assert (found.returns.kind, found.returns.added) == ("multi-label", None)
    np.testing.assert_allclose(predict(found, IMAGES), model(IMAGES.astype("float32")), atol=1e-6)
    with pytest.raises(ValueError, match="pruning takes single-label classifiers, but the model is multi-label"):
        require_single_label(found, "pruning")


FROM_LOGITS = keras.losses.BinaryCrossentropy(from_logits=True)


def test_logits_of_several_labels_are_stated():
    """They look like logits of one: the caller or the loss says it."""
    assert outputs_of(ending()).kind == "single-label"
    for found in (as_classifier(ending(), "multi-label"), as_classifier(compiled(ending(), FROM_LOGITS))):
        assert (found.returns.kind, found.returns.added) == ("multi-label", "sigmoid")
        np.testing.assert_allclose(predict(found, IMAGES), ops.sigmoid(ending()(IMAGES.astype("float32"))), atol=1e-6)
    own = ending(Inside(ops.sigmoid))
    found = outputs_of(own, "multi-label")
    assert (found.kind, found.added) == ("multi-label", None)


def test_one_output_is_binary():
    found = as_classifier(ending(units=1, activation="sigmoid"))
    assert (found.returns.kind, found.returns.added) == ("binary", None)
    assert predict(found, IMAGES).shape == (6, 1)
    for model, kind in ((compiled(ending(units=1), FROM_LOGITS), None), (ending(units=1), "binary")):
        found = as_classifier(model, kind)
        assert (found.returns.kind, found.returns.added) == ("binary", "sigmoid")


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        (ending(activation="tanh"), None, "ends in tanh: end it in softmax, in sigmoid, or in logits"),
        (ending(activation="exponential"), None, "ends in exponential"),
        (ending(lambda x: x + x, activation="softmax"), None, r"in rows that sum to 2\.\.2"),
        (ending(lambda x: 2 * x, activation="sigmoid"), None, "changes its sigmoid outputs"),
        (ending(Inside(ops.sigmoid)), None, 'say output_kind="multi-label"'),
        (ending(L.Lambda(lambda x: ops.softmax(x, 0))), None, "rows do not sum to 1"),
        (ending(units=1, activation="softmax"), None, "its softmax is always 1: end it in sigmoid"),
        (ending(units=1), None, 'may be a logit or any number: .* or say output_kind="binary"'),
        (ending(units=1, activation="tanh"), "binary", "one output and ends in tanh"),
        (compiled(ending(), "binary_crossentropy"), None, "binary_crossentropy, takes probabilities"),
        (ending(activation="softmax"), "multi-label", "multi-label was stated, .* but the model is single-label"),
        (ending(activation="sigmoid"), "single-label", "single-label was stated, .* but the model is multi-label"),
        (ending(), "binary", "the model has 3 outputs: a binary model has 1"),
        (ending(units=1), "multi-label", "the model has 1 outputs: a binary model has 1"),
        (ending(), "several", "output_kind='several': give one of 'single-label', 'multi-label', 'binary'"),
    ],
)
def test_what_is_neither_or_could_be_either_is_named(model, kind, words):
    with pytest.raises(ValueError, match=words):
        as_classifier(model, kind)


def test_a_model_that_is_proven_by_its_layers_is_not_run(monkeypatch):
    monkeypatch.setattr("keras_convmixer.outputs.kind._values", lambda *_: pytest.fail("the model was run"))
    for name in ("softmax", "average", "clipped", "lambda"):
        outputs_of(PROBABILITIES[name], images=IMAGES)
    outputs_of(ending())


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize(
    "scale",
    [lambda x: ops.cast(x, "float32") / 255, L.Rescaling(1 / 255), lambda x: x / 255, L.Lambda(lambda x: x / 255)],
)
def test_integer_inputs_are_taken_as_float(dtype, scale):
    images = keras.Input((8, 8, 3), dtype=dtype)
    model = keras.Model(images, L.Dense(3, "softmax")(L.GlobalAveragePooling2D()(scale(images))))
    view = as_classifier(model)
    assert view.inputs[0].dtype == "float32"
    assert not any(
        type(operation).__name__ == "InputLayer" and operation.dtype != "float32" for operation in view.layers
    )
    np.testing.assert_allclose(predict(view, IMAGES), model(IMAGES.astype(dtype)), atol=1e-6)


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (lambda x: ops.cast(2 * x, "float32") / 255, "where numbers wrap around"),
        (lambda x: ops.cast(ops.bitwise_and(x, x), "float32"), "layers take uint8 only"),
    ],
)
def test_integers_that_are_computed_with_are_named(compute, words):
    images = keras.Input((8, 8, 3), dtype="uint8")
    model = keras.Model(images, L.Dense(3, "softmax")(L.GlobalAveragePooling2D()(compute(images))))
    with pytest.raises(ValueError, match=words):
        as_classifier(model)


@pytest.mark.slow
def test_published_architectures():
    for activation, kind, added in (
        ("softmax", "single-label", None),
        ("sigmoid", "multi-label", None),
        (None, "single-label", "softmax"),
    ):
        model = keras.applications.MobileNetV3Small(
            (64, 64, 3), weights=None, classes=5, classifier_activation=activation
        )
        found = outputs_of(model)
        assert (found.kind, found.added) == (kind, added)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "relu"])
def test_a_model_that_returns_nan_for_every_image_is_named(activation):
    """Where the layers prove nothing: a sum of two sigmoids may be anything."""
    model = on_two_views(lambda one, other: L.Add()([one, other]), activation)
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    with pytest.raises(NotFinite, match="returns NaN or infinity for every image"):
        outputs_of(model)


def test_a_fixed_batch_of_many_images_is_filled():
    """More than the images that are tried, on a model that has to be tried."""
    images = keras.Input(batch_shape=(32, 8, 8, 3))
    inner = ending(activation="sigmoid")
    model = keras.Model(images, L.Add()([inner(images), inner(ops.flip(images, 2))]) * 0.5)
    assert outputs_of(model).kind == "multi-label"
