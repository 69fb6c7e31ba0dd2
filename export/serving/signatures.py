"""The SavedModel that TF Serving loads: images of any size or files in, classes and names out, warmed up."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis.predict_pb2 import PredictRequest  # pyright: ignore[reportAttributeAccessIssue]
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog  # pyright: ignore[reportAttributeAccessIssue]

from keras_convmixer.images.decoding import MAX_RATIO, MIN_SIDE
from keras_convmixer.images.preprocessing import Preprocessing

from ..runtime.decision import BINARY, SINGLE, Decision
from .image_files import prepare_files, resize_columns, resize_rows, resized_and_corner
from .saved_model import INPUT, OUTPUT, SIGNATURE, write_signatures

TOP = 5
"""Classes that are named for each image, most probable first; all where there are fewer."""
PREPARED = "prepared"
"""Signature for converters: images of the model's size."""
WARM_UP = "assets.extra/tf_serving_warmup_requests"
WARM_UP_BATCHES = (1, 8)
GREY = 128
"""Value of the pixels in warm-up requests."""


def write_serving_model(
    model: keras.Model,
    path: Path,
    name: str,
    class_names: tuple[str, ...],
    preprocessing: Preprocessing,
    decision: Decision = Decision(),  # noqa: B008 - frozen
) -> None:
    """Write a SavedModel with serving_default, encoded, prepared and perhaps features, and warm-up requests for each.

    `name` is the model's name in the warm-up requests.

    - serving_default: `images` uint8 `[batch, height, width, channels]`, pixels 0..255: prepared ones of the model's
      size, or whole images of any other size, which are prepared as `Preprocessing` does it, to one level of 255.
      Shapes that `read_image` refuses, as 1x60000, are an error (INVALID_ARGUMENT).
    - encoded: `images` string `[batch]`, the bytes of JPEG or PNG files, which are read as by `read_image`: upright, on
      white where transparent, the first frame of an animated PNG. Files of other formats, and those that
      `prepare_files` cannot read, get probabilities of 0, classes of -1 and empty names; the others are answered.
    - prepared: `images` uint8 `[batch, height, width, channels]` of the model's size alone, for converters: without the
      resizing and the texts of serving_default, which OpenVINO, ONNX and TensorFlow.js lack. Returns `probabilities`.
    - features: `images` as serving_default; `features` float32 `[batch, channels]`. Only of a model `with_features`.

    serving_default and encoded return `probabilities` float32 `[batch, classes]`, and of the most probable five
    `classes` int32 `[batch, 5]` and `names` string `[batch, 5]`. For multi-label models, and binary ones with one name,
    `present` bool `[batch, classes]` is true where a label reaches the threshold, never for a file that cannot be read.
    A binary model with two names returns `classes` and `names` `[batch, 1]`: the second at the threshold or above, else
    the first.
    """
    has_two_names = decision.kind == BINARY and len(class_names) == 2
    # A constant in the graph: a lookup table would have to be saved beside it.
    names = tf.constant(class_names)
    count = min(TOP, len(class_names))

    def named(probabilities):
        # probabilities [batch, classes]; present bool [batch, classes]; best int32 [batch, count], or [batch, 1]
        present = None if decision.kind == SINGLE else probabilities >= decision.threshold
        best = tf.cast(present, tf.int32) if has_two_names else tf.math.top_k(probabilities, count).indices
        answer = {OUTPUT: probabilities, "classes": best, "names": tf.gather(names, best)}
        return answer if present is None or has_two_names else {**answer, "present": present}

    def run(images):
        """Return features, None of a model without, and probabilities."""
        outputs = model(images, training=False)
        return outputs if isinstance(outputs, (list, tuple)) else (None, outputs)

    def pixels_of(images):
        shape = (preprocessing.height, preprocessing.width)
        as_it_is = tf.reduce_all(tf.shape(images)[1:3] == shape)
        values = tf.cond(as_it_is, lambda: tf.cast(images, tf.float32), lambda: _prepared(images, preprocessing))
        return tf.ensure_shape(values, (None, *shape, preprocessing.channels))

    def classify(images):
        return named(run(pixels_of(images))[1])

    def classify_encoded(images):
        prepared, readable = prepare_files(images, preprocessing)
        answer = named(run(prepared)[1])
        # The model ran on the rows of unreadable files too; their answers are replaced.
        unknown = {OUTPUT: tf.zeros_like(answer[OUTPUT]), "classes": -tf.ones_like(answer["classes"])}
        unknown["names"] = tf.fill(tf.shape(answer["names"]), "")
        if "present" in answer:
            unknown["present"] = tf.zeros_like(answer["present"])
        return {key: tf.where(readable[:, None], answer[key], unknown[key]) for key in answer}

    def classify_prepared(images):
        # Without EnsureShape, at which TensorFlow.js 4.22 fails.
        with _gelu_by_erf():
            return {OUTPUT: run(tf.cast(images, tf.float32))[1]}

    pixels = tf.TensorSpec((None, None, None, preprocessing.channels), tf.uint8, name=INPUT)
    files = tf.TensorSpec((None,), tf.string, name=INPUT)
    prepared = tf.TensorSpec(
        (None, preprocessing.height, preprocessing.width, preprocessing.channels), tf.uint8, name=INPUT
    )
    signatures = {
        SIGNATURE: (classify, pixels),
        "encoded": (classify_encoded, files),
        PREPARED: (classify_prepared, prepared),
    }
    others = ["features"] if len(model.outputs) == 2 else []
    if others:
        signatures["features"] = (lambda images: {"features": run(pixels_of(images))[0]}, pixels)
    write_signatures(path, signatures)
    _write_warm_up(path, name, preprocessing, [PREPARED, *others])


def with_features(model: keras.Model) -> keras.Model:
    """Return a classifier with its dense layer's input as first output; a model that ends in no dense layer as it is.

    Call it before `deploy`, which folds a normalization of the features into the dense layer.
    """
    layer = model.layers[-1]
    if isinstance(layer, keras.layers.Activation | keras.layers.Softmax):
        layer = model.layers[-2]
    if not isinstance(layer, keras.layers.Dense) or len(layer.input.shape) != 2:  # pyright: ignore[reportAttributeAccessIssue]
        return model
    return keras.Model(model.input, [layer.input, model.output], name=model.name)


@contextlib.contextmanager
def _gelu_by_erf() -> Iterator[None]:
    """Trace exact GELUs with the operator Erf: TensorFlow 2.21 takes Erfc, which ONNX and TensorFlow.js lack."""
    gelu = tf.nn.gelu  # pyright: ignore[reportAttributeAccessIssue]

    def by_erf(features, approximate=False, name=None):
        if approximate:
            return gelu(features, approximate, name)
        return 0.5 * features * (1 + tf.math.erf(features / math.sqrt(2)))

    tf.nn.gelu = by_erf  # pyright: ignore[reportAttributeAccessIssue] - Keras looks it up there for each call
    try:
        yield
    finally:
        tf.nn.gelu = gelu  # pyright: ignore[reportAttributeAccessIssue]


def _prepared(images, preprocessing):
    """Prepare whole images as `Preprocessing.apply` does; return float32 `[batch, height, width, channels]`."""
    height, width = preprocessing.height, preprocessing.width
    original = tf.shape(images)[1:3]
    short, long = tf.reduce_min(original), tf.reduce_max(original)
    # Divided rather than multiplied: the product of two sides may exceed int32.
    allowed = (short >= MIN_SIDE) & (long <= MAX_RATIO * short)
    allowed &= long <= preprocessing.max_pixels // tf.maximum(short, 1)
    with tf.control_dependencies(
        [tf.debugging.Assert(allowed, ["too small, too thin or too large: images of (height, width)", original])]
    ):
        size, top, left = resized_and_corner(original, preprocessing)

    def resized():
        # One direction after the other, rounded and clipped between, as Pillow does.
        return resize_rows(resize_columns(images, size[1]), size[0])

    values = tf.cond(tf.reduce_all(size == original), lambda: images, resized)
    values = tf.cast(values[:, top : top + height, left : left + width], tf.float32)
    return tf.ensure_shape(values, (None, height, width, preprocessing.channels))


def _write_warm_up(path, name, preprocessing, others):
    """Write requests for each signature, which TF Serving runs before it answers, as first runs are slow."""
    shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
    with io.BytesIO() as file:
        Image.fromarray(np.full(shape, GREY, np.uint8).squeeze()).save(file, "JPEG")
        encoded = file.getvalue()
    target = path / WARM_UP
    target.parent.mkdir()
    with tf.io.TFRecordWriter(str(target)) as writer:
        for signature in (SIGNATURE, "encoded", *others):
            for batch in WARM_UP_BATCHES:
                request = PredictRequest()
                request.model_spec.name, request.model_spec.signature_name = name, signature
                # One pixel value with a shape stands for all pixels: images of 224 x 224 would be 1.4 MB a signature.
                images = tf.make_tensor_proto(GREY, tf.uint8, (batch, *shape))
                files = tf.make_tensor_proto([encoded] * batch)
                request.inputs[INPUT].CopyFrom(files if signature == "encoded" else images)
                log = PredictionLog(predict_log=PredictLog(request=request))
                writer.write(log.SerializeToString(deterministic=True))
