"""Write a Keras classifier as a plain SavedModel, from which it is converted; load and run a bundle's SavedModel."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

SIGNATURE = "serving_default"
INPUT = "images"
OUTPUT = "probabilities"


def write_saved_model(model: keras.Model, path: Path, batch: int | None = None, dtype: str = "uint8") -> None:
    """Write a SavedModel with one signature for a converter: images of pixels 0..255 in, probabilities out.

    `images` is `[batch, height, width, channels]` of that dtype, any batch size where `batch` is None;
    `probabilities` is float32 `[batch, classes]`.
    """
    images = tf.TensorSpec((batch, *model.input_shape[1:]), dtype, name=INPUT)
    write_signatures(
        path, {SIGNATURE: (lambda images: {OUTPUT: model(tf.cast(images, tf.float32), training=False)}, images)}
    )


def write_signatures(path: Path, signatures: dict[str, tuple[Callable, tf.TensorSpec]]) -> None:
    """Write a SavedModel of functions of one tensor, by the names of its signatures.

    Keras's ExportArchive traces every function twice, once to list its variables and once to save it: of a deep model,
    and of a signature that decodes images, tracing takes most of an export's time.
    """
    traced = {
        name: tf.function(function, input_signature=[images], autograph=False).get_concrete_function()
        for name, (function, images) in signatures.items()
    }
    module = tf.Module()
    # Each variable once, as several signatures share them.
    module.used = list({id(variable): variable for one in traced.values() for variable in one.variables}.values())  # pyright: ignore[reportAttributeAccessIssue]
    tf.saved_model.save(module, str(path), signatures=traced)


class SavedModel:
    """A SavedModel's signature, loaded back from its folder, as TF Serving sees it."""

    def __init__(self, path: Path):
        self._loaded = tf.saved_model.load(str(path))  # the signature holds no reference to its variables
        self._function = self._loaded.signatures[SIGNATURE]
        ((self.input),) = map(_describe, self._function.structured_input_signature[1].items())
        self.output = _describe((OUTPUT, self._function.structured_outputs[OUTPUT]))

    def __call__(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Classify uint8 `[count, height, width, channels]`: float32 `[count, classes]`."""
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        name = self.output["name"]
        with tf.device("CPU"):
            return np.concatenate([self._function(images=tf.constant(batch))[name].numpy() for batch in batches])

    def encoded(self, files: list[bytes]) -> np.ndarray:
        """Classify JPEG and PNG files: float32 `[count, classes]`, 0 for those that cannot be read."""
        return self.answer("encoded", files)[OUTPUT]

    def answer(self, signature: str, images: np.ndarray | list[bytes]) -> dict[str, np.ndarray]:
        """Return all outputs of a signature by their names."""
        with tf.device("CPU"):
            outputs = self._loaded.signatures[signature](images=tf.constant(images))
        return {name: values.numpy() for name, values in sorted(outputs.items())}

    def signatures(self) -> dict[str, dict]:
        """Return the name, shape and dtype of every signature's inputs and outputs."""
        return {
            name: {
                "inputs": [_describe(item) for item in function.structured_input_signature[1].items()],
                "outputs": [_describe(item) for item in sorted(function.structured_outputs.items())],
            }
            for name, function in self._loaded.signatures.items()
        }

    def operators(self) -> dict[str, int]:
        """Count the TensorFlow operators of the signature's graph, called functions included."""
        definition = self._function.graph.as_graph_def()
        nodes = [*definition.node, *(node for called in definition.library.function for node in called.node_def)]
        return dict(sorted(Counter(node.op for node in nodes).items()))


def _describe(item):
    name, spec = item
    return {"name": name, "shape": list(spec.shape), "dtype": spec.dtype.name}
