"""Models of the width that people deploy, whose answers are sure, without training or published weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = 4


@dataclass(frozen=True)
class RealModel:
    """A classifier that takes pixels 0..255, with images to calibrate and to validate it."""

    model: object
    calibration_images: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def export(self, out, **changes):
        from keras_convmixer.export import export_bundle

        arguments = {
            "class_names": tuple(f"texture {number}" for number in range(CLASSES)),
            "calibration_images": self.calibration_images,
            "validation_images": self.images,
            "validation_labels": self.labels,
            "verbose": False,
        }
        return export_bundle(self.model, out, **{**arguments, **changes})


def textures(count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 `[count, side, side, 3]` of four textures, by brightness of the upper half and blue."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    # Far apart, and nearly alike within a class: random layers amplify noise.
    bright, level = 60 + 60 * (labels % 2), 200 * (labels // 2)
    images = random.uniform(0, 4, (count, side, side, 3))
    images[:, : side // 2] += bright[:, None, None, None]
    images[..., 0] += 100
    images[..., 2] += level[:, None, None]
    images[:, 0, 0], images[:, -1, -1] = 0, 255  # the range that int8's input must cover
    return np.clip(images, 0, 255).astype(np.uint8), labels


def _convmixer_256_8():
    import keras_convmixer as kc

    return kc.ConvMixer(256, 8, 5, 2, input_shape=(32, 32, 3), classes=CLASSES, include_preprocessing=True)


def _convmixer_768_2():
    import keras_convmixer as kc

    return kc.ConvMixer(
        768, 2, 7, 7, activation="relu", input_shape=(112, 112, 3), classes=CLASSES, include_preprocessing=True
    )


def _mobile_net_v3_small():
    import keras

    return keras.applications.MobileNetV3Small(weights=None, input_shape=(96, 96, 3), classes=CLASSES)


def _efficient_net_b0():
    import keras

    return keras.applications.EfficientNetB0(weights=None, input_shape=(96, 96, 3), classes=CLASSES)


MODELS = {
    "ConvMixer-256/8": _convmixer_256_8,
    "ConvMixer-768/32, depth 2": _convmixer_768_2,
    "MobileNetV3Small": _mobile_net_v3_small,
    "EfficientNetB0": _efficient_net_b0,
}
"""Depth is cut where time would be lost, width is not."""


def real_model(name: str) -> RealModel:
    """Build a model of MODELS with random normalization statistics and a dense layer solved for by least squares."""
    import keras

    from keras_convmixer.environment.keras_internals import run_graph

    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    random = np.random.default_rng(0)
    side = model.input_shape[1]
    images, labels = textures(96, side, seed=0)

    def call(layer, *arguments, **keywords):
        if isinstance(layer, keras.layers.BatchNormalization):
            _draw_statistics(layer, keras.ops.convert_to_numpy(arguments[0]), random)
        return layer(*arguments, **keywords)

    run_graph(model, keras.ops.convert_to_tensor(images[:16], "float32"), call)
    calibration_images, _ = textures(16, side, seed=2)
    return RealModel(_with_solved_head(model, images, labels), calibration_images, *textures(16, side, seed=1))


def _draw_statistics(layer, values, random):
    """Set a normalization near the statistics of its input, as training leaves them.

    Variances are larger, as else each layer would amplify noise.
    """
    mean, variance = values.mean((0, 1, 2)), values.var((0, 1, 2)) + 1e-3
    gamma, beta = random.uniform(0.5, 1.5, mean.shape), random.normal(0, 0.3, mean.shape)
    drawn = mean + 0.1 * np.sqrt(variance) * random.normal(size=mean.shape), variance * random.uniform(4, 9, mean.shape)
    layer.set_weights([*([gamma] if layer.scale else []), *([beta] if layer.center else []), *drawn])


def _with_solved_head(model, images, labels):
    import keras

    head = next(
        layer for layer in reversed(model.layers) if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D)
    )
    features = keras.Model(model.input, head.input)(images.astype("float32"), training=False)
    features = keras.ops.convert_to_numpy(features).reshape(len(images), -1)
    center = features.mean(0)
    # Ridge regression to logits of 8 for the right class: sure, as trained models are.
    kernel = (features - center) @ (features - center).T
    kernel += 1e-2 * np.trace(kernel) / len(kernel) * np.eye(len(kernel))
    weights = (features - center).T @ np.linalg.solve(kernel, 8 * np.eye(CLASSES)[labels] - 2)
    head.set_weights([weights.reshape(head.kernel.shape), -center @ weights])
    return model
