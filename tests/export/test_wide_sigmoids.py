"""Models of real width that end in sigmoids, multi-label and binary, through the whole of export."""

import keras
import numpy as np
import pytest

from keras_convmixer import ConvMixer
from keras_convmixer.environment.keras_internals import all_layers
from keras_convmixer.export import export_bundle

QUANTIZED = ("float32", "dynamic", "int8")


def statistics_of(model, seed=0):
    """Give every normalization statistics of noise, and random scales, so that folding them is no identity."""
    random = np.random.default_rng(seed)
    normalizations = [x for x in all_layers(model) if isinstance(x, keras.layers.BatchNormalization)]
    for layer in normalizations:
        layer.momentum = 0.0
    model(random.uniform(0, 255, (16, *model.input_shape[1:])).astype("float32"), training=True)
    for layer in normalizations:
        if layer.weights:
            gamma, _, mean, variance = layer.get_weights()
            size = len(gamma)
            layer.set_weights(
                [
                    random.uniform(0.7, 1.3, size),
                    random.normal(0, 0.2, size),
                    mean,
                    variance * random.uniform(0.6, 1.4, size),
                ]
            )
    return model


def wide(kind):
    """A body of real width that takes pixels 0..255, and its features."""
    keras.utils.set_random_seed(0)
    if kind == "ConvMixer-256":
        size = {"input_shape": (32, 32, 3), "include_top": False, "pooling": "avg"}
        return statistics_of(ConvMixer(256, 2, kernel_size=5, patch_size=2, include_preprocessing=True, **size))
    size = {"input_shape": (64, 64, 3), "include_top": False, "pooling": "avg"}
    return statistics_of(keras.applications.MobileNetV3Small(weights=None, include_preprocessing=True, **size))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ConvMixer-256", "MobileNetV3Small"])
@pytest.mark.parametrize("units", [1, 5])
def test_heads_of_sigmoids_on_models_of_real_width(kind, units, tmp_path):
    body = wide(kind)
    random = np.random.default_rng(0)
    side = body.input_shape[1]
    images = np.clip(random.integers(0, 256, (160, 1, 1, 3)) + random.normal(0, 60, (160, side, side, 3)), 0, 255)
    images = images.astype(np.uint8)
    images[:, 0, 0], images[:, -1, -1] = 0, 255
    features = body.predict(images.astype("float32"), verbose=0)
    normalize = keras.layers.Normalization()  # so that the labels are not the same for all
    normalize.adapt(features)
    head = keras.layers.Dense(units, "sigmoid", kernel_initializer=keras.initializers.RandomNormal(stddev=0.3, seed=1))
    model = keras.Model(body.input, head(normalize(body.output)))
    expected = model.predict(images.astype("float32"), verbose=0)
    # Where an untrained model is unsure, 8 bits decide otherwise, and rightly fail the requirement.
    sure = np.abs(expected - 0.5).min(-1) > 0.25
    sure[:20] = False  # for calibration
    expected = expected[sure]
    assert len(expected) >= 20
    labels = (expected >= 0.5).astype(int)
    assert 0.1 < labels.mean() < 0.9
    formats = QUANTIZED if kind == "ConvMixer-256" or units == 1 else ("float32", "int8")
    manifest = export_bundle(
        model,
        tmp_path / "bundle",
        class_names=("no", "yes") if units == 1 else tuple("abcde"),
        calibration_images=images[:20],
        validation_images=images[sure],
        validation_labels=labels,
        formats=formats,
        verbose=False,
    )
    published = {artifact["name"]: artifact["validation"] for artifact in manifest["artifacts"]}
    print(kind, units, published, manifest["rejected"])
    assert manifest["outputs"]["kind"] == ("binary" if units == 1 else "multi-label")
    if kind == "ConvMixer-256":
        assert set(published) == {"saved_model", *formats}
    else:  # untrained, it loses its decisions in 8 bits: its files are made and run, and fall short by their numbers
        assert {"saved_model", "float32"} <= set(published)
        assert all(file["validation"] for file in manifest["rejected"])
    assert published["float32"]["accuracy"] == manifest["reference_accuracy"] == 1.0
