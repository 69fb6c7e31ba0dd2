"""The model that a recipe trains, and its copy for training: logits, the training precision, faster layers."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_convmixer.model.convmixer import ConvMixer

from ..recipe import ModelConfig
from .layers import CPUDepthwiseConv2D, FusedBatchNormalization


def build_model(config: ModelConfig, classes: int, weights: str | None = None) -> keras.Model:
    """Return the float32 model that is evaluated and saved: pixels 0..255 in, probabilities `[batch, classes]` out.

    `weights` is what `ConvMixer` takes; None: random.
    """
    # The user's global policy may be a 16-bit one; the model that is saved is float32 all the same.
    global_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        return ConvMixer(
            dim=config.dim,
            depth=config.depth,
            kernel_size=config.kernel_size,
            patch_size=config.patch_size,
            activation=config.activation,
            include_preprocessing=True,
            weights=weights,
            input_shape=(config.image_size, config.image_size, 3),
            classes=classes,
        )
    finally:
        keras.config.set_dtype_policy(global_policy)


def build_training_model(model: keras.Model, num_replicas: int, precision: str = "float32") -> keras.Model:
    """Return a copy of a classifier for training, with the same weights in the same order; it returns logits.

    Layers are replaced by faster ones that compute the same. Measured on two cores, ConvMixer-256/8 at 32 pixels, a
    batch of 64, milliseconds per layer forward and backward: BatchNormalization 18.2 in Keras's own operations, 4.9 in
    TensorFlow's fused kernel; the gradient of a 5x5 depthwise kernel 27.5 in TensorFlow's own operation, 9.8 as a
    depthwise convolution.

    Args:
        model: functional model whose last layer is the classifier; it is not changed.
        num_replicas: several replicas keep Keras's BatchNormalization, which is synchronized over them.
        precision: Keras's dtype policy. The pooling and the classifier at the end stay float32.
    """
    faster = {}
    if num_replicas == 1:
        faster[keras.layers.BatchNormalization] = FusedBatchNormalization
    if not tf.config.list_logical_devices("GPU"):
        faster[keras.layers.DepthwiseConv2D] = CPUDepthwiseConv2D
    classifier = model.layers[-1]

    def clone(layer):
        config = layer.get_config()
        # Probabilities are computed from float32 logits, and a mean over many positions loses digits in 16 bits.
        if not isinstance(layer, (keras.layers.InputLayer, keras.layers.GlobalAveragePooling2D, keras.layers.Dense)):
            config["dtype"] = precision
        if layer is classifier:
            config["activation"] = "linear"  # the loss takes logits
        return faster.get(type(layer), type(layer)).from_config(config)

    training_model = keras.models.clone_model(model, clone_function=clone)
    training_model.set_weights(model.get_weights())
    return training_model
