"""The model that a recipe trains."""

from __future__ import annotations

import keras

from keras_convmixer.model.convmixer import ConvMixer

from .recipe import ModelConfig


def build_model(config: ModelConfig, classes: int, weights: str | None = None) -> keras.Model:
    """Return the float32 model that is evaluated and saved: pixels 0..255 in, probabilities `[batch, classes]` out.

    `weights` is what `ConvMixer` takes; None: random.
    """
    global_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        return ConvMixer(
            dim=config.dim,
            depth=config.depth,
            kernel_size=config.kernel_size,
            patch_size=config.patch_size,
            activation=config.activation,
            include_preprocessing=True,
            weights=weights,
            input_shape=(config.image_size, config.image_size, 3),
            classes=classes,
        )
    finally:
        keras.config.set_dtype_policy(global_policy)
