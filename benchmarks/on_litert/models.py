"""The models that are measured: the paper's, of seeded weights, and ResNets as the yardstick."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

import keras_convmixer as kc

CALIBRATION, TEST = 8, 4


@dataclass(frozen=True)
class Subject:
    """A model to measure."""

    build: Callable[[], keras.Model]
    size: int
    """Side of its images in pixels."""
    variant: kc.Variant | None = None


def _convmixer(name):
    variant = kc.VARIANTS[name]
    build = getattr(kc, name)
    return Subject(lambda: build(include_preprocessing=True, classifier_activation=None), variant.image_size, variant)


def _resnet(name):
    build = getattr(keras.applications, name)
    return Subject(lambda: build(weights=None, classifier_activation=None), 224)


def _convnext():
    build = keras.applications.ConvNeXtTiny
    return Subject(lambda: build(weights=None, include_preprocessing=True, classifier_activation=None), 224)


SUBJECTS = {
    "ConvMixer256_8": _convmixer("ConvMixer256_8"),
    "ConvMixer768_32": _convmixer("ConvMixer768_32"),
    "ConvMixer1024_20": _convmixer("ConvMixer1024_20"),
    "ConvMixer1536_20": _convmixer("ConvMixer1536_20"),
    "ResNet50": _resnet("ResNet50"),
    "ResNet152": _resnet("ResNet152"),
    "ConvNeXtTiny": _convnext(),
}


def photographs(count: int, size: int, seed: int) -> np.ndarray:
    """Cut random squares out of scikit-learn's two photographs: uint8 `[count, size, size, 3]`, pixels 0..255."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    sources = load_sample_images().images
    random = np.random.default_rng(seed)
    squares = []
    for number in range(count):
        source = sources[number % len(sources)]
        side = random.integers(min(source.shape[:2]) // 3, min(source.shape[:2]) + 1)
        top, left = (random.integers(0, length - side + 1) for length in source.shape[:2])
        square = Image.fromarray(source[top : top + side, left : left + side])
        squares.append(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(squares)


def build(subject: Subject) -> keras.Model:
    """Build a model with seeded weights, uneven gammas and betas, and the statistics that photographs give.

    Published weights are not to be had everywhere; without statistics of its own a model of random weights
    answers every image alike, and no error could be seen.
    """
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    model = subject.build()
    normalizations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in normalizations:
        layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
        layer.beta.assign(random.uniform(-0.5, 0.5, layer.beta.shape))
        layer.momentum = 0.0
    model(photographs(8, subject.size, seed=2).astype("float32"), training=True)
    for layer in normalizations:
        layer.momentum = 0.9
    return model


def pointwise_alone(subject: Subject) -> keras.Model:
    """Build a ConvMixer's pointwise convolutions without anything else, the floor of its time."""
    variant = subject.variant
    side = subject.size // variant.patch_size
    x = inputs = keras.Input((side, side, variant.dim))
    for _ in range(variant.depth):
        x = keras.layers.Conv2D(variant.dim, 1, kernel_initializer="glorot_uniform")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
