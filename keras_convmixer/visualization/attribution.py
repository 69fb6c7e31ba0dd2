"""What a position of the last feature map sees, and what speaks for a class: receptive field and Grad-CAM."""

import numbers

import keras
import numpy as np

from ..backend import require_tensorflow
from ..keras_internals import call_of, producer, run_graph
from ..outputs.classifier import as_classifier


def effective_receptive_field(model: keras.Model, image: np.ndarray) -> np.ndarray:
    """Compute how strongly each pixel moves the central position of the last feature map.

    It is the absolute gradient of the sum over channels at position (height // 2, width // 2), in inference
    mode, summed over the image's channels. The last feature map is the last 4-D tensor before the pooling.

    Source: Luo, Li, Urtasun, Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural
    Networks", 2016; here for one image and its own gradient, where the paper averages over many.

    Args:
        model: functional or Sequential, from one image to one output; with or without classifier.
        image: `[height, width, channels]`, uint8 or float, in the range that the model takes.

    Returns:
        float32 `[height, width]`, 0..1, the largest is 1.

    Raises:
        ValueError: the model or the image is no such thing, or the gradient is zero everywhere, NaN or infinite.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    require_tensorflow("visualizing")
    import tensorflow as tf

    _check_model(model)
    image = tf.constant(_batch_of_one(model, image))
    model = _without_nesting(model)
    network = keras.Model(model.inputs[0], _last_feature_map(model))
    _check_size(network, image)
    with tf.GradientTape() as tape:
        tape.watch(image)
        features = network(image, training=False)
        center = tf.reduce_sum(features[0, features.shape[1] // 2, features.shape[2] // 2])
    gradient = tape.gradient(center, image, unconnected_gradients="zero")
    field = np.abs(gradient.numpy()[0]).sum(-1)
    _check_finite(field)
    if not field.max():
        raise ValueError(
            "no pixel of this image moves the central position of the last feature map: its activations are dead; "
            "give another image, or train the model anew"
        )
    return (field / field.max()).astype("float32")


def grad_cam(model: keras.Model, image: np.ndarray, class_index: int | None = None) -> tuple[np.ndarray, int]:
    """Compute which positions of the last feature map speak for a class.

    It is the sum of the feature map's channels, weighted by the mean gradient of the class's logit with respect
    to each, without its negative part. The logit, not the probability: softmax's gradient fades where the model
    is sure. The last feature map is the last 4-D tensor before the pooling.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    2017, equations 1 and 2.

    Args:
        model: functional or Sequential classifier that ends in softmax, sigmoid or logits.
        image: `[height, width, channels]`, uint8 or float, in the range that the model takes.
        class_index: 0 to classes - 1; None is the predicted class.

    Returns:
        float32 `[feature height, feature width]`, 0 or more and not scaled, and the class's index.

    Raises:
        ValueError: the model is no such classifier, the image does not fit it, there is no such class, or the
            gradient is NaN or infinite.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    require_tensorflow("visualizing")
    import tensorflow as tf

    model = as_classifier(model)
    image = tf.constant(_batch_of_one(model, image))
    classes = model.outputs[0].shape[-1]
    if class_index is not None and (
        not isinstance(class_index, numbers.Integral) or isinstance(class_index, bool) or not 0 <= class_index < classes
    ):
        raise ValueError(f"class_index={class_index!r}: give an integer from 0 to {classes - 1}, or None")
    model = _without_nesting(model)
    feature_map = _last_feature_map(model)
    _check_size(keras.Model(model.inputs[0], feature_map), image)
    network = keras.Model(model.inputs[0], [feature_map, _logits(model)])
    with tf.GradientTape() as tape:
        tape.watch(image)  # not the weights alone, which may be frozen
        features, logits = network(image, training=False)
        if class_index is None:
            class_index = np.argmax(logits[0])
        logit = logits[0, int(class_index)]
    gradient = tape.gradient(logit, features, unconnected_gradients="zero")
    features, gradient = (keras.ops.convert_to_numpy(keras.ops.cast(x[0], "float32")) for x in (features, gradient))
    _check_finite(gradient)
    _check_finite(features)
    return np.maximum(features @ gradient.mean((0, 1)), 0), int(class_index)


def _check_model(model):
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(f"{model.name} is no functional or Sequential model that was built: rebuild it as one")
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype != "float32":
        raise ValueError(
            f"the model takes {[(tuple(tensor.shape), tensor.dtype) for tensor in inputs]} and returns "
            f"{len(outputs)} outputs: give a model from one float32 [batch, height, width, channels] to one output"
        )


def _batch_of_one(model, image):
    image = np.asarray(image)
    expected = tuple(model.inputs[0].shape[1:])
    if image.dtype.kind not in "uif":
        raise ValueError(f"the image is of type {image.dtype}: give uint8 or float pixels")
    if image.ndim != 3 or any(side not in (None, given) for side, given in zip(expected, image.shape, strict=True)):
        wanted = ", ".join("any" if side is None else str(side) for side in expected)
        raise ValueError(
            f"the image has shape {image.shape}, and the model takes [height, width, channels] of [{wanted}]: "
            "resize or convert it"
        )
    return image[None].astype("float32")


def _without_nesting(model):
    """Return the model with the layers of models inside it in its own graph, where their tensors can be named."""
    view = keras.Model(model.inputs[0], model.outputs[0], name="network")
    if not any(_is_nested(layer) for layer in view.layers):
        return view
    images = keras.Input(batch_shape=model.inputs[0].shape)
    return keras.Model(images, _called_layer_by_layer(view, images), name="network")


def _called_layer_by_layer(model, x):
    def call(layer, *args, **kwargs):
        if not _is_nested(layer):
            return layer(*args, **kwargs)
        inner = keras.Model(layer.inputs[0], layer.outputs[0])
        return _called_layer_by_layer(inner, (args or tuple(kwargs.values()))[0])

    # What keras.models.clone_model does, which hides its inner tensors where it is called on one.
    return run_graph(model, x, call)


def _is_nested(layer):
    if not isinstance(layer, keras.Model) or not getattr(layer, "inputs", None):
        return False
    if len(layer.inputs) != 1 or len(layer.outputs) != 1:
        raise ValueError(
            f"{layer.name} is a model with several inputs or outputs inside a model: call its layers one by one "
            "when building the outer model"
        )
    return True


def _last_feature_map(model):
    """Walk back from the output to the last 4-D tensor before the pooling."""
    maps, single, shrunk_by, seen = [], [], [], set()
    waiting = [(model.outputs[0], None)]
    while waiting:
        tensor, reader = waiting.pop(0)
        if id(tensor) in seen or tensor is model.inputs[0]:
            continue
        seen.add(id(tensor))
        if len(tensor.shape) == 4 and tuple(tensor.shape[1:3]) != (1, 1):
            maps.append(tensor)
            shrunk_by.append(reader)
            continue
        if len(tensor.shape) == 4:
            single.append(tensor)
        operation = producer(tensor)
        waiting.extend((made_from, operation) for made_from in call_of(tensor).inputs)
    # A 4-D tensor of one position is pooled, as in MobileNet's head, unless layers with weights made it one.
    if single and (not maps or any(getattr(reader, "weights", None) for reader in shrunk_by)):
        return single[0]
    if len(maps) > 1:
        raise ValueError(
            f"the model's head reads {len(maps)} feature maps, of shapes "
            f"{[tuple(tensor.shape) for tensor in maps]}: give a model whose head reads one"
        )
    if not maps:
        raise ValueError(
            "the model has no feature map, a 4-D tensor after its input: give a convolutional one such as ConvMixer"
        )
    return maps[0]


def _logits(model):
    """Return what goes into the softmax or the sigmoids that a model of `as_classifier` ends in."""
    output = model.outputs[0]
    operation = producer(output)
    if isinstance(operation, keras.layers.Activation) or type(operation).__name__ == "Softmax":
        return call_of(output).inputs[0]
    if getattr(operation, "activation", None) is None:
        raise ValueError(
            f"the model ends in {operation.name}, where its classes have no logits: give a model that ends in a layer "
            "with softmax, sigmoid or no activation"
        )
    # A layer with its own softmax has no tensor of logits: a copy without one makes it.
    before = call_of(output).inputs[0]
    layer = type(operation).from_config({**operation.get_config(), "activation": None})
    logits = layer(before)
    layer.set_weights(operation.get_weights())
    return logits


def _check_size(network, image):
    try:
        shape = network.compute_output_shape((None, *image.shape[1:]))
    except ValueError:  # a kernel is larger than what it slides over
        shape = (0,)
    if 0 in shape:
        raise ValueError(
            f"an image of {image.shape[1]}x{image.shape[2]} pixels leaves no position in the last feature map: "
            "give a larger one"
        )


def _check_finite(values):
    if not np.isfinite(values).all():
        raise ValueError(
            "the feature map or its gradient is NaN or infinite: give an image without such values, and a model "
            "whose training did not diverge"
        )
