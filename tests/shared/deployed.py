"""Deploy any model, and require that it computes the same."""

from collections import Counter

import keras
import numpy as np

import keras_convmixer as kc
from keras_convmixer.environment.keras_internals import all_layers

L = keras.layers


def randomized(model, seed=0):
    random = np.random.default_rng(seed)
    for layer in all_layers(model):
        if isinstance(layer, L.BatchNormalization):
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            for name in names:
                variable = getattr(layer, name)
                if variable is not None:
                    low, high = (0.1, 2) if name == "moving_variance" else (-1.5, 1.5)
                    variable.assign(random.uniform(low, high, variable.shape))
        elif not isinstance(layer, L.Normalization) and not isinstance(layer, keras.Model):
            for variable in layer.trainable_variables:
                variable.assign(random.uniform(-1, 1, variable.shape) / max(np.prod(variable.shape[:-1]), 1) ** 0.5)
    return model


def kinds(model):
    return Counter(type(layer).__name__ for layer in model.layers)


def deployed_equals(model, target="litert", **arguments):
    deployed = kc.deploy(randomized(model), target, verified=False)
    assert kc.verify(model, deployed, **arguments).relative < 2e-6
    return deployed
