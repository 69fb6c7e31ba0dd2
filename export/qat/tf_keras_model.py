"""Rebuild a Keras 3 model in tf_keras, the Keras that tensorflow-model-optimization works on."""

from __future__ import annotations

import keras

from keras_convmixer.environment.keras_internals import times_called

from .legacy_keras import tf_keras

CONVOLUTION = ("name", "activation", "use_bias", "strides", "padding", "dilation_rate")
COPIED = {
    "Activation": ("name", "activation"),
    "Add": ("name",),
    "AveragePooling2D": ("name", "pool_size", "strides", "padding"),
    "Concatenate": ("name", "axis"),
    "Conv2D": (*CONVOLUTION, "filters", "kernel_size", "groups"),
    "Cropping2D": ("name", "cropping"),
    "Dense": ("name", "activation", "use_bias", "units"),
    "DepthwiseConv2D": (*CONVOLUTION, "kernel_size", "depth_multiplier"),
    "Dropout": ("name", "rate"),
    "Flatten": ("name",),
    "GlobalAveragePooling2D": ("name", "keepdims"),
    "MaxPooling2D": ("name", "pool_size", "strides", "padding"),
    "ReLU": ("name", "max_value", "negative_slope", "threshold"),
    "Reshape": ("name", "target_shape"),
    "ZeroPadding2D": ("name", "padding"),
}
"""Arguments that are copied, by layer type: those that mean the same in Keras 3 and tf_keras."""


def to_tf_keras(model: keras.Model):
    """Return a tf_keras model with the layers and weights of a functional Keras 3 model of one input and one output.

    Made for deployed models, which have no normalization left. Outputs are equal up to the order of additions.

    Raises:
        ValueError: a layer's type is not in `COPIED`, or a layer is used twice.
    """
    # tf_keras's tensors by the Keras 3 tensors that they stand for; layers come in the order of computation.
    images = tf_keras.Input(model.input_shape[1:], name="images")
    tensors = {id(model.input): images}
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        kind = type(layer).__name__
        if kind not in COPIED or not type(layer).__module__.startswith("keras."):
            raise ValueError(
                f"layer {layer.name} is a {kind}, which cannot be trained in tf_keras here: "
                f"only {', '.join(COPIED)} can"
            )
        if times_called(layer) != 1:
            raise ValueError(f"layer {layer.name} is used twice: give each use a layer of its own")
        config = layer.get_config()
        copy = getattr(tf_keras.layers, kind)(**{key: config[key] for key in COPIED[kind]})
        inputs = layer.input
        inputs = [tensors[id(tensor)] for tensor in inputs] if isinstance(inputs, list) else tensors[id(inputs)]
        tensors[id(layer.output)] = copy(inputs)
        copy.set_weights(layer.get_weights())
    return tf_keras.Model(images, tensors[id(model.output)], name=model.name)
