"""Write a Keras classifier as a SavedModel in TF Serving's layout, and run it."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

SIGNATURE = "serving_default"
INPUT = "images"
OUTPUT = "probabilities"


def write_saved_model(model: keras.Model, path: Path, batch: int | None = None, dtype: str = "uint8") -> None:
    """Write a SavedModel with one signature: images of pixels 0..255 in, probabilities out.

    `images` is `[batch, height, width, channels]` of that dtype, any batch size where `batch` is None;
    `probabilities` is float32 `[batch, classes]`.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        name=SIGNATURE,
        fn=lambda images: {OUTPUT: model(tf.cast(images, tf.float32), training=False)},
        input_signature=[tf.TensorSpec((batch, *model.input_shape[1:]), dtype, name=INPUT)],
    )
    archive.write_out(str(path), verbose=False)


def run_saved_model(path: Path, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Load a SavedModel and classify uint8 `[count, height, width, channels]`: float32 `[count, classes]`."""
    function = tf.saved_model.load(str(path)).signatures[SIGNATURE]
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    return np.concatenate([function(**{INPUT: tf.constant(batch)})[OUTPUT].numpy() for batch in batches])


def saved_model_operators(path: Path) -> dict[str, int]:
    """Count the TensorFlow operators of the signature's graph, called functions included."""
    function = tf.saved_model.load(str(path)).signatures[SIGNATURE]
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(node for called in definition.library.function for node in called.node_def)]
    names = [node.op for node in nodes]
    return {name: names.count(name) for name in sorted(set(names))}
