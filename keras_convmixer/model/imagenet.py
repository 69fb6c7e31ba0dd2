"""ImageNet's scaling of pixels and names of classes, as the published weights use them."""

import functools
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..environment.backend import keras

# Mean and standard deviation of each channel, for pixels scaled to 0..1.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
CLASSES = 1000


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Scale pixels 0..255 for the published weights, as `include_preprocessing=True` does inside the model.

    Source: ImageNet's mean and standard deviation, keras.applications' "torch" mode.

    Args:
        x: RGB array or tensor, `[height, width, 3]` or `[batch, height, width, 3]`, of any dtype. It is not changed.
        data_format: "channels_last" or "channels_first", where the axis of channels is; the default is Keras's setting.

    Returns:
        An array or tensor of the same kind and shape, floats of about -2.1..2.6.

    Raises:
        ValueError: x has another shape.

    Example:
        ```python
        scaled = kc.preprocess_input(images)
        scaled.dtype, scaled.shape  # (float32, (len(images), 8, 8, 3))
        ```
    """
    data_format = data_format or keras.config.image_data_format()
    if not keras.ops.is_tensor(x) and not keras.backend.is_keras_tensor(x):
        x = np.asarray(x)
    if getattr(x.shape, "rank", 0) is None:
        raise ValueError("x has an unknown number of axes: call x.set_shape first, for example after decode_image")
    shape = tuple(x.shape)
    axis = -3 if data_format == "channels_first" else -1
    if len(shape) not in (3, 4) or shape[axis] not in (3, None):  # None in tf.data
        raise ValueError(f"x has shape {shape}: give RGB pixels, [height, width, 3] or [batch, height, width, 3]")
    # Keras's function changes a float array in place, and fails on a tensor of integers: so a copy, and a cast.
    if isinstance(x, np.ndarray):
        x = x.astype(x.dtype if np.issubdtype(x.dtype, np.floating) else keras.config.floatx())
    elif not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
        x = keras.ops.cast(x, keras.config.floatx())
    return keras.applications.imagenet_utils.preprocess_input(x, data_format=data_format, mode="torch")


def decode_predictions(preds: ArrayLike, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Name the `top` most probable ImageNet classes of each image, the most probable first. It works offline.

    Args:
        preds: probabilities or logits `[batch, 1000]`, an array or a tensor.
        top: number of classes to name, 1 or more.

    Returns:
        A list for each image, of tuples (WordNet id, name, score), as in keras.applications.

    Raises:
        ValueError: preds has another shape, or `top` is less than 1.

    Example:
        ```python
        scores = np.zeros((1, 1000), "float32")
        scores[0, 281] = 1.0
        kc.decode_predictions(scores, top=1)  # [[("n02123045", "tabby", 1.0)]]
        ```
    """
    preds = np.asarray(keras.ops.convert_to_numpy(preds))
    if preds.ndim != 2 or preds.shape[1] != CLASSES:
        raise ValueError(
            f"preds has shape {preds.shape}: give [batch, {CLASSES}], what a model of {CLASSES} classes returns"
        )
    if top < 1:
        raise ValueError(f"top={top}: give the number of classes to name, 1 or more")
    names = class_names()
    order = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [[(*names[index], row[index]) for index in best] for row, best in zip(preds, order, strict=True)]


@functools.cache
def class_names() -> tuple[tuple[str, str], ...]:
    """Return (WordNet id, name) of the 1000 classes, in the order of the published models' outputs.

    The ids are unique; two names, "crane" and "maillot", are each those of two classes. Source: the first lemma of each
    synset in WordNet 3.0, as in keras.applications.
    """
    lines = resources.files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return tuple((wordnet_id, name) for wordnet_id, name in map(str.split, lines))
