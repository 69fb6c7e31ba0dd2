"""Any Keras image classifier as one that returns probabilities."""

import keras
import numpy as np


class NotFinite(ValueError):
    """A model returned NaN or infinity."""


def as_classifier(model: keras.Model) -> keras.Model:
    """Return a view of a functional or Sequential classifier that returns probabilities `[batch, classes]`.

    It shares the model's layers and leaves its compilation alone; logits get a softmax. A view is returned as it is.
    Input `[batch, height, width, channels]`, float32.

    Raises:
        ValueError: it is no such model: another kind, other inputs or outputs, under two classes, or a last
            activation that is neither softmax nor none.
    """
    if getattr(model, "is_classifier_view", False):
        return model
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(f"{model.name} is no functional or Sequential model that was built: rebuild it as one")
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4 or len(outputs[0].shape) != 2:
        raise ValueError(
            f"the model takes {[tuple(tensor.shape) for tensor in inputs]} and returns "
            f"{[tuple(tensor.shape) for tensor in outputs]}: a classifier takes one image "
            "[batch, height, width, channels] and returns one [batch, classes]"
        )
    if inputs[0].dtype != "float32" or outputs[0].dtype != "float32":
        raise ValueError(
            f"the model takes {inputs[0].dtype} and returns {outputs[0].dtype}: rebuild it with float32 ends and "
            "load the same weights"
        )
    if outputs[0].shape[-1] < 2:
        raise ValueError("the model has one output: rebuild it with one output for each class, two or more")
    # Named anew: TensorFlow refuses names that Keras allows. Not model.input, which a loaded Sequential lacks.
    view = keras.Model(inputs[0], outputs[0], name="classifier")
    activation = _last_activation(model)
    if activation not in ("softmax", "linear"):
        raise ValueError(
            f"the model ends in {activation}: end it in softmax, or in logits with no activation, which get one here"
        )
    if activation == "linear":
        probabilities = keras.layers.Softmax(name="probabilities")(view.output)
        view = keras.Model(view.input, probabilities, name="classifier")
    view.is_classifier_view = True
    return view


def predict(model: keras.Model, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Run a model of `as_classifier` over uint8 images `[count, ...]`: float32 `[count, classes]`.

    Raises:
        NotFinite: it returns NaN or infinity.
    """
    if not model.compiled:
        model.compile(jit_compile=False)  # on a CPU Keras's default, XLA, is eight times slower
    outputs = model.predict(images, batch_size=batch_size, verbose=0)
    if not np.isfinite(outputs).all():
        raise NotFinite("the model returns NaN or infinity: its training diverged; train with a lower learning rate")
    return outputs


def _last_activation(model):
    operation = model.outputs[0]._keras_history.operation
    if isinstance(operation, keras.Model):
        return _last_activation(operation)
    if hasattr(operation, "activation"):
        return operation.activation.__name__
    return "softmax" if type(operation).__name__ == "Softmax" else "linear"
