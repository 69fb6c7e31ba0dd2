import keras
import numpy as np
import pytest

import keras_convmixer as kc

L = keras.layers


def classifier(activation="softmax", units=3, name="model"):
    inputs = keras.Input((4, 4, 3))
    x = L.Dense(units, activation=activation, name="classes")(L.Flatten()(inputs))
    model = keras.Model(inputs, x, name=name)
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def changed(model, change):
    other = keras.models.clone_model(model)
    other.set_weights([change(weight) for weight in model.get_weights()])
    return other


def test_a_model_equals_itself():
    model = classifier()
    assert kc.verify(model, changed(model, lambda weight: weight)) == (result := kc.verify(model, model))
    assert result.difference == result.relative == 0


@pytest.mark.parametrize("activation", ["softmax", None])
def test_a_difference_is_measured_in_the_range_of_the_logits(activation):
    model = classifier(activation)
    result = kc.verify(model, changed(model, lambda weight: weight * 1.01), tolerance=0.1)
    # Logits of 1 % more differ by 1 % of the largest, which is at least half of the range and at most all of it.
    assert 0.004 < result.relative < 0.03
    with pytest.raises(ArithmeticError, match=r"the deployed model differs in classes by .* and 1e-04 is allowed"):
        kc.verify(model, changed(model, lambda weight: weight * 1.01))


def test_saturated_probabilities_hide_nothing():
    images = np.full((1, 4, 4, 3), 4.0, "float32")
    model = classifier()
    other = changed(model, lambda weight: weight * 1.001)
    certain, as_certain = (keras.ops.convert_to_numpy(one(images)) for one in (model, other))
    assert certain.max() > 1 - 1e-6
    assert np.abs(certain - as_certain).max() < 1e-6
    with pytest.raises(ArithmeticError, match="differs in classes by 0"):
        kc.verify(model, other, images=images)


def test_the_users_images_are_compared_too():
    inputs = keras.Input((2, 2, 1))
    model = keras.Model(inputs, L.ReLU(name="out")(inputs))
    other = keras.Model(inputs, L.ReLU(max_value=1000.0, name="out")(inputs))
    assert kc.verify(model, other).relative == 0
    with pytest.raises(ArithmeticError, match="differs in out by 1e"):
        kc.verify(model, other, images=np.full((1, 2, 2, 1), 2000.0, "float32"))


def test_nan_and_shapes_are_named():
    model = classifier(None)
    with pytest.raises(ArithmeticError, match="returns NaN or infinity in classes where the model does not"):
        kc.verify(model, changed(model, lambda weight: weight * np.nan))
    with pytest.raises(ArithmeticError, match=r"returns float32 \(2, 4\) as classes, and the model float32 \(2, 3\)"):
        kc.verify(model, classifier(None, units=4))
    diverged = changed(model, lambda weight: weight * np.nan)
    assert kc.verify(diverged, diverged).relative == 0  # what the model itself returns is right


def test_constant_outputs_are_measured_by_their_size():
    model = changed(classifier(None), lambda weight: weight * 0 + (weight.ndim == 1))
    assert kc.verify(model, changed(model, lambda weight: weight * (1 + 1e-9))).relative < 1e-5
    with pytest.raises(ArithmeticError):
        kc.verify(model, changed(model, lambda weight: weight * 1.01))
