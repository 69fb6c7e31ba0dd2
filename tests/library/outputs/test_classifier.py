import keras
import numpy as np
import pytest

from keras_convmixer.outputs.classifier import as_classifier, predict

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)


def model_with(*last, outputs=3):
    """A classifier with known weights that ends in these layers."""
    images = keras.Input((4, 4, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Dense(outputs, kernel_initializer=keras.initializers.RandomNormal(seed=0))(
        keras.layers.GlobalAveragePooling2D()(x)
    )
    for layer in last:
        x = layer(x)
    return keras.Model(images, x)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


LOGITS = model_with()(IMAGES.astype("float32")).numpy()


@pytest.mark.parametrize(
    "model",
    [
        model_with(),
        model_with(keras.layers.Softmax()),
        model_with(keras.layers.Activation("softmax")),
        model_with(keras.layers.Activation("linear")),
        model_with(keras.ops.softmax),
        model_with(keras.Sequential([keras.layers.Softmax()])),
    ],
)
def test_probabilities_and_logits_become_probabilities(model):
    np.testing.assert_allclose(predict(as_classifier(model), IMAGES), softmax(LOGITS), atol=1e-6)


def test_a_loaded_sequential_model(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = softmax(model(IMAGES.astype("float32")).numpy())
    np.testing.assert_allclose(predict(as_classifier(loaded), IMAGES), expected, atol=1e-5)


class Subclassed(keras.Model):
    def call(self, images):
        return images


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (model_with(keras.layers.Activation("tanh")), "ends in tanh"),
        (model_with(outputs=1), "one output"),
        (model_with(keras.layers.Activation("softmax", dtype="float16")), "returns float16"),
        (keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Dense(3)]), r"returns \[\(None, 4, 4, 3\)\]"),
        (Subclassed(), "not a functional or Sequential model"),
    ],
)
def test_what_is_no_such_classifier_is_named(model, words):
    with pytest.raises(ValueError, match=words):
        as_classifier(model)


def test_the_callers_compilation_stays():
    model = model_with()
    model.compile("sgd", "mse", jit_compile=False)
    optimizer = model.optimizer
    predict(as_classifier(model), IMAGES)
    assert model.optimizer is optimizer


def test_nan_is_refused():
    model = model_with()
    model.set_weights([weights * np.nan for weights in model.get_weights()])
    with pytest.raises(ValueError, match="NaN or infinity"):
        predict(as_classifier(model), IMAGES)


def test_a_view_is_compiled_once():
    """Anew at each evaluation, TensorFlow warns that its functions are traced again and again."""
    view = as_classifier(model_with())
    predict(view, IMAGES)
    function = view.predict_function
    predict(as_classifier(view), IMAGES)
    assert view.predict_function is function
