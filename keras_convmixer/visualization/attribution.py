"""Attribution: which pixels a position of the last feature map sees, and which positions support a class.

The last feature map is the last 4-D tensor `[batch, height, width, channels]` before the pooling. In a ConvMixer its
positions are the patches.
"""

import numbers
from typing import Any, NamedTuple

import keras
import numpy as np

from ..environment.backend import require_functional, require_tensorflow
from ..environment.keras_internals import call_of, producer, run_graph
from ..outputs.classifier import as_classifier


def effective_receptive_field(model: keras.Model, image: np.ndarray) -> np.ndarray:
    """Compute how strongly each pixel influences the central position of the last feature map.

    The theoretical receptive field says which pixels can influence a position; the effective one says by how much
    they do. With the feature map F `[height, width, channels]` of image x, and its center (i, j) = (height // 2,
    width // 2):

        y = sum over channels c of F[i, j, c]
        field[p, q] = sum over image channels k of |dy / dx[p, q, k]|, then divided by its largest value

    For example, two depthwise 3x3 convolutions with all weights 1 apply [1, 1, 1] twice in each direction, which is [1,
    2, 3, 2, 1]. The field is the outer product of [1, 2, 3, 2, 1] / 3 with itself: the center counts most, although all
    weights are equal.

    The gradient is that of inference: normalization uses its moving averages.

    Source: Luo, Li, Urtasun, Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural
    Networks", NIPS 2016, https://arxiv.org/abs/1701.04128. The paper averages over many images with random output
    gradients; this is the field for one image, with a gradient of 1 in each channel.

    Example:
        ```python
        from keras_convmixer.visualization.attribution import effective_receptive_field

        field = effective_receptive_field(model, images[0])  # float32 [8, 8], the largest value is 1
        ```

    Args:
        model: functional or Sequential, from one float32 image to one output; with or without a classifier.
        image: `[height, width, channels]`, uint8 or float, in the range that the model takes.

    Returns:
        float32 `[height, width]`, 0..1; the largest value is 1.

    Raises:
        ValueError: the model or the image does not fit this description, or the gradient is zero everywhere, NaN or
            infinite.
        RuntimeError: Keras does not run on TensorFlow.
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
        features = network(image, training=False)  # [1, feature height, feature width, channels]
        center = tf.reduce_sum(features[0, features.shape[1] // 2, features.shape[2] // 2])
    gradient = tape.gradient(center, image, unconnected_gradients="zero")
    field = np.abs(gradient.numpy()[0]).sum(-1)  # [height, width]
    _check_finite(field)
    if not field.max():
        raise ValueError(
            "no pixel of this image influences the central position of the last feature map: its activations are dead; "
            "give another image, or train the model again"
        )
    return (field / field.max()).astype("float32")


def grad_cam(model: keras.Model, image: np.ndarray, class_index: int | None = None) -> tuple[np.ndarray, int]:
    """Compute how much each position of the last feature map supports a class (Grad-CAM).

    With the feature map F `[height, width, channels]` and the logit z of the class:

        weight[c] = mean over positions (i, j) of dz / dF[i, j, c]        (the paper's equation 1)
        map[i, j] = max(0, sum over channels c of weight[c] * F[i, j, c])        (equation 2)

    For example, a ConvMixer ends in global average pooling and a dense layer with kernel W. There dz / dF[i, j, c] is
    W[c, class] / (height * width) at each position. The map is then the dense layer applied at each position, without
    bias and negative part: Zhou et al.'s class activation map (2016), divided by the number of positions.

    The gradient is that of the logit and not of the probability: where the model is certain, softmax is flat and its
    gradient vanishes.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    ICCV 2017, https://arxiv.org/abs/1610.02391.

    Example:
        ```python
        from keras_convmixer.visualization.attribution import grad_cam

        heat, predicted = grad_cam(model, images[0])  # float32, one value for each patch; the class's index
        heat_of_blue, _ = grad_cam(model, images[0], class_index=2)
        ```

    Args:
        model: functional or Sequential classifier that ends in softmax, sigmoid or logits.
        image: `[height, width, channels]`, uint8 or float, in the range that the model takes.
        class_index: 0 to classes - 1; None is the predicted class.

    Returns:
        float32 `[feature height, feature width]`, 0 or more and not scaled, and the index of the class.

    Raises:
        ValueError: the model is not such a classifier, the image does not fit it, there is no such class, or the
            gradient is NaN or infinite.
        RuntimeError: Keras does not run on TensorFlow.
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
        tape.watch(image)  # a tape follows trainable weights by itself, but a model may be frozen
        features, logits = network(image, training=False)
        if class_index is None:
            class_index = np.argmax(logits[0])
        logit = logits[0, int(class_index)]
    gradient = tape.gradient(logit, features, unconnected_gradients="zero")
    features, gradient = (keras.ops.convert_to_numpy(keras.ops.cast(x[0], "float32")) for x in (features, gradient))
    _check_finite(gradient)
    _check_finite(features)
    weights = gradient.mean((0, 1))  # [channels], equation 1
    return np.maximum(features @ weights, 0), int(class_index)  # equation 2


def _check_model(model):
    require_functional(model)
    inputs, outputs = model.inputs, model.outputs
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
    """Return a model of the same layers in one graph: those of models inside it are called one by one.

    A model inside a model is one operation of the outer graph, and its feature map is not a tensor there.
    """
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

    # keras.models.clone_model does it like this, but its call of an inner model is again one operation.
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


class _FeatureMap(NamedTuple):
    """A 4-D tensor on the way from the model's input to its output."""

    tensor: keras.KerasTensor
    consumer: object
    """The operation that reads it on the way to the output; None if it is the output."""
    one_position: bool
    """Whether its height and width are 1."""


def _last_feature_map(model):
    """Return the last 4-D tensor before the pooling.

    The search walks from the output towards the input, breadth first, and ends at each tensor with several positions.
    4-D tensors of one position are ambiguous. Some heads pool to [batch, 1, 1, channels] and go on with 1x1
    convolutions, as MobileNet's does: the feature map lies before the pooling. In other models, the convolutions
    themselves shrink the image to one position, as a patch embedding does to an image of one patch: then the tensor of
    one position is the feature map.
    """
    found = _four_dimensional_tensors(model)
    single = [feature_map for feature_map in found if feature_map.one_position]
    several = [feature_map for feature_map in found if not feature_map.one_position]
    pooled = several and not any(getattr(feature_map.consumer, "weights", None) for feature_map in several)
    if single and not pooled:
        return single[0].tensor  # the nearest to the output
    if len(several) > 1:
        raise ValueError(
            f"the model's head reads {len(several)} feature maps, of shapes "
            f"{[tuple(feature_map.tensor.shape) for feature_map in several]}: give a model whose head reads one"
        )
    if not several:
        raise ValueError(
            "the model has no feature map, a 4-D tensor after its input: give a convolutional one such as ConvMixer"
        )
    return several[0].tensor


def _four_dimensional_tensors(model):
    """Return the 4-D tensors up to the last ones with several positions, from the output on."""
    found, seen = [], set()
    waiting = [(model.outputs[0], None)]  # tensors and their consumers
    while waiting:
        tensor, consumer = waiting.pop(0)
        if id(tensor) in seen or tensor is model.inputs[0]:
            continue
        seen.add(id(tensor))
        if len(tensor.shape) == 4:
            one_position = tuple(tensor.shape[1:3]) == (1, 1)
            found.append(_FeatureMap(tensor, consumer, one_position))
            if not one_position:
                continue
        operation = producer(tensor)
        waiting.extend((made_from, operation) for made_from in call_of(tensor).inputs)
    return found


def _logits(model):
    """Return the tensor before the softmax or the sigmoids that a model of `as_classifier` ends in."""
    output = model.outputs[0]
    operation: Any = producer(output)
    if isinstance(operation, keras.layers.Activation) or type(operation).__name__ == "Softmax":
        return call_of(output).inputs[0]
    if getattr(operation, "activation", None) is None:
        raise ValueError(
            f"the model ends in {operation.name}, where its classes have no logits: give a model that ends in a layer "
            "with softmax, sigmoid or no activation"
        )
    # Dense(activation="softmax") computes logits without a tensor of their own: a copy without activation returns them.
    before = call_of(output).inputs[0]
    layer = type(operation).from_config({**operation.get_config(), "activation": None})
    logits = layer(before)
    layer.set_weights(operation.get_weights())
    return logits


def _check_size(network, image):
    try:
        shape = network.compute_output_shape((None, *image.shape[1:]))
    except ValueError:  # a kernel with padding="valid" is larger than its input
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
