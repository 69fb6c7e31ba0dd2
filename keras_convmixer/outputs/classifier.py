"""A view of any Keras image classifier that returns probabilities."""

from collections.abc import Callable

import keras
import numpy as np

from ..environment.backend import require_functional
from ..files.printable import first_line
from .kind import SINGLE, NotFinite, outputs_of, spread, varied_images


def as_classifier(model: keras.Model, kind: str | None = None, images: np.ndarray | None = None) -> keras.Model:
    """Return a view of a functional or Sequential classifier that returns probabilities `[batch, classes]`.

    It shares the model's layers and leaves its compilation alone. Logits get a softmax or, for multi-label and binary
    models, sigmoids; probabilities stay as they are. A view is returned unchanged. Its `returns` are the Outputs that
    were decided on. Its input is float32 `[batch, height, width, channels]`, pixels 0..255; whole numbers where the
    model takes integers.

    Example:
        ```python
        import keras
        from keras_convmixer.outputs.classifier import as_classifier

        view = as_classifier(keras.applications.MobileNetV3Small(weights=None, classifier_activation=None))
        view.returns  # Outputs(kind="single-label", added="softmax", reason="it returns logits, predictions")
        ```

    Args:
        model: takes float32 or integers, returns float32.
        kind: "single-label", "multi-label" or "binary", if the caller knows it; see `kind.outputs_of`.
        images: images as the model will see them, `[count, height, width, channels]`, on which its values are examined.

    Raises:
        ValueError: the model is neither functional nor Sequential, has other inputs or outputs, or its outputs are
            neither probabilities nor logits, or could be both.
        NotFinite: see `kind.outputs_of`.
    """
    if getattr(model, "is_classifier_view", False):
        return model
    require_functional(model)
    inputs, outputs = model.inputs, model.outputs
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4 or len(outputs[0].shape) != 2:
        raise ValueError(
            f"the model takes {[tuple(tensor.shape) for tensor in inputs]} and returns "
            f"{[tuple(tensor.shape) for tensor in outputs]}: a classifier takes one image "
            "[batch, height, width, channels] and returns one [batch, classes]"
        )
    integers = "int" in inputs[0].dtype and np.iinfo(inputs[0].dtype).max >= 255
    if not (integers or inputs[0].dtype == "float32") or outputs[0].dtype != "float32":
        raise ValueError(
            f"the model takes {inputs[0].dtype} and returns {outputs[0].dtype}: rebuild it to take float32 or uint8 "
            "and return float32, and load the same weights"
        )
    returns = outputs_of(model, kind, images)
    # A name that TensorFlow allows, as Keras allows more. inputs[0], as a loaded Sequential model has no `input`.
    view = keras.Model(inputs[0], outputs[0], name="classifier")
    if integers:
        view = _on_floats(view, images)
    if returns.added:
        # float32 explicitly: a global policy could make it compute in 16 bits.
        probabilities = keras.layers.Activation(returns.added, name="probabilities", dtype="float32")(view.outputs[0])
        view = keras.Model(view.inputs[0], probabilities, name="classifier")
    view.is_classifier_view, view.returns = True, returns
    return view


def require_single_label(classifier: keras.Model, work: str) -> None:
    """Check that a view of `as_classifier` is single-label.

    Args:
        classifier: the view.
        work: what needs it, as the subject of the error: "pruning".

    Raises:
        ValueError: it is multi-label or binary.
    """
    if classifier.returns.kind != SINGLE:
        raise ValueError(
            f"{work} takes single-label classifiers, but the model is {classifier.returns.kind}, as "
            f"{classifier.returns.reason}: export it as it is"
        )


def predict(
    model: keras.Model,
    images: np.ndarray,
    batch_size: int = 64,
    batch_done: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Return a classifier's probabilities of images, float32 `[count, classes]`.

    Args:
        model: a view of `as_classifier`.
        images: `[count, height, width, channels]`, pixels 0..255.
        batch_size: number of images that are computed at once.
        batch_done: called after each batch with its number of images, to show progress.

    Raises:
        NotFinite: the model returns NaN or infinity for an image.
    """
    if not model.compiled:
        model.compile(jit_compile=False)  # on a CPU Keras's default, XLA, is eight times slower
    callback = keras.callbacks.Callback()
    callback.on_predict_batch_end = lambda batch, logs: batch_done(len(logs["outputs"]))  # pyright: ignore[reportAttributeAccessIssue]
    outputs = model.predict(images, batch_size=batch_size, verbose=0, callbacks=[callback])
    if not np.isfinite(outputs).all():
        raise NotFinite("the model returns NaN or infinity: its training diverged; train with a lower learning rate")
    return outputs


def _on_floats(model, images):
    """Return a model for integer pixels as one for float32; it shares the layers and does not cast."""
    given = model.inputs[0]
    pixels = keras.Input(batch_shape=given.shape, name=given.name)
    try:
        view = keras.models.clone_model(model, input_tensors=pixels, clone_function=lambda layer: layer)
        view = keras.Model(pixels, view.outputs[0], name=model.name)
        # The two differ where an integer wraps around, as in 255 - 2 * x.
        batches = [np.floor(varied_images(given))] + ([spread(images)] if images is not None and len(images) else [])
        same = all(
            np.allclose(*(_run(each, batch) for each in (model, view)), rtol=1e-4, atol=1e-4, equal_nan=True)
            for batch in batches
        )
    except Exception as error:  # if an operation does not take floats, each backend raises types of its own
        raise ValueError(
            f"the model's layers take {given.dtype} only ({first_line(error)}): let its input be float32, or cast it "
            "to float32 first"
        ) from None
    if not same:
        raise ValueError(
            f"the model computes in {given.dtype}, where numbers wrap around and are rounded: cast its input to "
            "float32 first"
        )
    return view


def _run(model, batch):
    given = model.inputs[0]
    with keras.device("cpu"):
        tensor = keras.ops.convert_to_tensor(batch[: given.shape[0]].astype(given.dtype))
        return keras.ops.convert_to_numpy(model(tensor, training=False))
