"""The layers that train compute what Keras's compute."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_convmixer as kc
from keras_convmixer.training.step.layers import CPUDepthwiseConv2D, FusedBatchNormalization
from keras_convmixer.training.step.model import build_training_model


def gradients(model, images):
    with tf.GradientTape() as tape:
        images = tf.constant(images)
        tape.watch(images)
        result = model(images, training=True)
        loss = tf.reduce_sum(result * tf.constant(np.random.default_rng(1).normal(size=result.shape), result.dtype))
    return result, tape.gradient(loss, [images, *model.trainable_variables])


@pytest.mark.parametrize(("batch", "size"), [(16, 9), (3, 7), (1, 4)])
@pytest.mark.parametrize("kernel_size", [1, 4, 5, 9])
def test_outputs_gradients_and_statistics_are_kerass(batch, size, kernel_size):
    keras.utils.set_random_seed(0)
    arguments = {"kernel_size": kernel_size, "patch_size": 2, "input_shape": (2 * size, 2 * size + 2, 3), "classes": 5}
    model = kc.ConvMixer(8, 2, **arguments, include_preprocessing=True, classifier_activation=None)
    faster = build_training_model(model, num_replicas=1)
    assert sum(type(layer) is FusedBatchNormalization for layer in faster.layers) == 5
    assert sum(type(layer) is CPUDepthwiseConv2D for layer in faster.layers) == 2
    images = np.random.default_rng(0).uniform(0, 255, (batch, 2 * size, 2 * size + 2, 3)).astype("float32")
    (expected, theirs), (found, ours) = gradients(model, images), gradients(faster, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(1, np.abs(other).max()))
    for one, other in zip(faster.variables, model.variables, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(faster(images), model(images), atol=1e-5)


def test_several_replicas_keep_kerass_normalization():
    model = kc.ConvMixer(8, 1, kernel_size=3, patch_size=2, input_shape=(8, 8, 3), classes=5)
    kinds = {type(layer) for layer in build_training_model(model, num_replicas=2).layers}
    assert keras.layers.BatchNormalization in kinds
    assert FusedBatchNormalization not in kinds
