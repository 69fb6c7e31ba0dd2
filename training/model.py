"""The model that a recipe trains, and the precision that it computes in."""

import keras
import tensorflow as tf

from keras_convmixer.convmixer import ConvMixer

from .recipe import Recipe


def build_model(recipe: Recipe, classes: int, precision: str = "float32", **changes) -> keras.Model:
    """Return a recipe's model for so many classes, computing in a precision of Keras."""
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return ConvMixer(
            dim=recipe.dim,
            depth=recipe.depth,
            kernel_size=recipe.kernel_size,
            patch_size=recipe.patch_size,
            activation=recipe.activation,
            include_preprocessing=True,
            input_shape=(recipe.image_size, recipe.image_size, 3),
            classes=classes,
            **changes,
        )
    finally:
        keras.config.set_dtype_policy(former)


def fastest_precision() -> str:
    """Return mixed_bfloat16, or mixed_float16 on GPUs before Ampere, whose matrix units have no bfloat16."""
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    old = any(detail.get("compute_capability", (8, 0)) < (8, 0) for detail in details)
    return "mixed_float16" if old else "mixed_bfloat16"
