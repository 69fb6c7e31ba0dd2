"""ImageNet as the published weights know it: how pixels are scaled, what the 1000 classes are called."""

import functools
from importlib import resources

import numpy as np

from .backend import keras

# For pixels scaled to 0..1.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
CLASSES = 1000


def preprocess_input(x, data_format=None):
    """Scale pixels 0..255 as the published weights expect them; what `include_preprocessing=True` does inside.

    `x`: RGB array or tensor, `[height, width, 3]` or `[batch, height, width, 3]`, any dtype; it is left as it is.
    Returns floats of about -2.1..2.6, of the same shape. Raises ValueError for any other shape.

    Source: ImageNet's mean and standard deviation, keras.applications' "torch" mode.
    """
    data_format = data_format or keras.config.image_data_format()
    if not keras.ops.is_tensor(x) and not keras.backend.is_keras_tensor(x):
        x = np.asarray(x)
    if getattr(x.shape, "rank", 0) is None:
        raise ValueError("x has no known number of axes: call its set_shape first, as tf.io.decode_image does not")
    shape = tuple(x.shape)
    axis = -3 if data_format == "channels_first" else -1
    if len(shape) not in (3, 4) or shape[axis] not in (3, None):  # decoded in tf.data, it may not say its channels
        raise ValueError(f"x has shape {shape}: give RGB pixels, [height, width, 3] or [batch, height, width, 3]")
    # Keras's own writes into a float array that it is given, and fails on a tensor of integers.
    if isinstance(x, np.ndarray):
        x = x.astype(x.dtype if np.issubdtype(x.dtype, np.floating) else keras.config.floatx())
    elif not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
        x = keras.ops.cast(x, keras.config.floatx())
    return keras.applications.imagenet_utils.preprocess_input(x, data_format=data_format, mode="torch")


def decode_predictions(preds, top=5):
    """Name the `top` most probable ImageNet classes of each prediction, best first; works offline.

    `preds`: `[batch, 1000]`, probabilities or logits. Returns for each image a list of tuples
    (WordNet id, name, score), as keras.applications does. Raises ValueError for any other shape.
    """
    preds = np.asarray(keras.ops.convert_to_numpy(preds))
    if preds.ndim != 2 or preds.shape[1] != CLASSES:
        raise ValueError(
            f"preds has shape {preds.shape}: give [batch, {CLASSES}], what a model of {CLASSES} classes returns"
        )
    if top < 1:
        raise ValueError(f"top={top}: give how many names each image is to get, 1 or more")
    names = class_names()
    order = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [[(*names[index], row[index]) for index in best] for row, best in zip(preds, order, strict=True)]


@functools.cache
def class_names() -> tuple[tuple[str, str], ...]:
    """Return (WordNet id, name) of the 1000 classes in the order of the published weights' outputs.

    Two names stand for two classes each ("crane", "maillot"); the ids are unique. Source: WordNet 3.0's first
    lemma of each synset, which is what keras.applications shows.
    """
    lines = resources.files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split(" ")) for line in lines)
