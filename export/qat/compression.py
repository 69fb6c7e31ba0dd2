"""Pruning and clustering: weights that a zip file holds in less, by tensorflow-model-optimization.

Neither makes a model faster on a CPU: LiteRT multiplies by zeros and by shared values as by any other. What they bring
is a smaller download, of files that are sent compressed, as apps are.

What is trained, and returned, is the form deployed for LiteRT, whose normalizations are part of its convolutions. A
SavedModel of it has large kernels in pieces too, and its `features` are those before the last normalization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf

from keras_convmixer.backend import require_tensorflow
from keras_convmixer.console import waiting
from keras_convmixer.deployment import deploy
from keras_convmixer.outputs.classifier import as_classifier, require_single_label

from ..formats import FORMATS, gzip_size
from ..tflite.conversion import Conversion
from .arguments import check_numbers
from .quantization_aware import fit

Batches = Iterable[tuple[tf.Tensor, tf.Tensor]]
CHANGED = ("Conv2D", "Dense")
"""Layers whose weights are pruned or clustered; depthwise kernels are few, and tfmot leaves them alone too."""
LEARNING_RATES = {"prune": 2e-2, "cluster": 1e-3}
"""Of Adafactor at the first step, shares of a layer's weights. What is left after pruning has far to go: of a model of
digits, whose accuracy was 99.4 %, 60 steps to 80 % zeros left 11 % at 1e-3, 42 % at 5e-3, 80 % at 2e-2."""
REACHED, UPDATES = 0.6, 20
"""Share of the steps after which the sparsity is what was asked for, and how often it rises till then."""


def prune(
    model: keras.Model,
    batches: Batches,
    steps: int,
    sparsity: float = 0.8,
    learning_rate: float = LEARNING_RATES["prune"],
    verbose: bool = True,
) -> keras.Model:
    """Train a classifier on while its smallest weights become 0; return its deployed form with what is left.

    Args:
        model: as `export_bundle` takes it; it stays as it is.
        batches: as `quantization_aware` takes them.
        steps: how many batches to train on.
        sparsity: share of each convolution's and dense layer's weights that become 0, 0..1; depthwise kernels stay.
        learning_rate: at the first step.
        verbose: show progress on stderr.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        ImportError: tensorflow-model-optimization or tf_keras is not installed.
        ValueError: a number is out of its range, or the model has a layer that tf_keras lacks.
        FloatingPointError: the loss became NaN or infinite.
    """
    check_numbers(steps=steps, sparsity=sparsity, learning_rate=learning_rate)
    with waiting("starting tensorflow-model-optimization", verbose):
        from .legacy_keras import tfmot

    tools = tfmot.sparsity.keras
    end = max(int(REACHED * steps), 1)
    schedule = tools.PolynomialDecay(0.0, sparsity, begin_step=0, end_step=end, frequency=max(end // UPDATES, 1))

    def train(wrapped):
        update = tools.UpdatePruningStep()
        update.set_model(wrapped)
        update.on_train_begin()
        yield from fit(wrapped, batches, steps, learning_rate, verbose, "pruning")
        update.on_epoch_end(0)  # the last step moved what is masked

    return _trained(
        model, verbose, lambda layer: tools.prune_low_magnitude(layer, schedule), train, tools.strip_pruning
    )


def cluster(
    model: keras.Model,
    batches: Batches,
    steps: int,
    clusters: int = 16,
    learning_rate: float = LEARNING_RATES["cluster"],
    verbose: bool = True,
) -> keras.Model:
    """Train a classifier on whose weights share a few values; return its deployed form with these.

    `clusters` is how many values each convolution and dense layer has, 2 or more; otherwise as `prune`.
    """
    check_numbers(steps=steps, clusters=clusters, learning_rate=learning_rate)
    with waiting("starting tensorflow-model-optimization", verbose):
        from .legacy_keras import tfmot

    tools = tfmot.clustering.keras
    # Spread evenly over a layer's weights: by their density, the few large ones that matter most share a value.
    initial = tools.CentroidInitialization.LINEAR

    def train(wrapped):
        return fit(wrapped, batches, steps, learning_rate, verbose, "clustering")

    def wrap(layer):
        return tools.cluster_weights(layer, min(clusters, layer.kernel.shape.num_elements()), initial)

    return _trained(model, verbose, wrap, train, tools.strip_clustering)


def _trained(model, verbose, wrap: Callable, train: Callable, strip: Callable) -> keras.Model:
    """Wrap each layer that is changed, train, strip the wrappers; `train` yields each step's loss, as `fit`."""
    require_tensorflow("pruning and clustering")
    with waiting("preparing the model", verbose):
        from .legacy_keras import tf_keras
        from .tf_keras_model import to_tf_keras

        classifier = as_classifier(model)
        require_single_label(classifier, "training for compression")
        deployed = deploy(classifier, "litert", verified=False)
        copy = to_tf_keras(deployed)
        wrapped = tf_keras.models.clone_model(
            copy, clone_function=lambda layer: wrap(layer) if type(layer).__name__ in CHANGED else layer
        )
    for _ in train(wrapped):
        pass
    stripped = strip(wrapped)
    compressed = keras.models.clone_model(deployed)
    compressed = keras.Model(compressed.inputs, compressed.outputs, name=model.name)
    for layer in compressed.layers:
        if layer.weights:
            layer.set_weights(stripped.get_layer(layer.name).get_weights())
    return compressed


def file_sizes(model: keras.Model) -> tuple[int, int]:
    """Return the bytes of a classifier as a .tflite file with int8 weights, and of that under gzip."""
    deployed = deploy(as_classifier(model), "litert", verified=False)
    with Conversion(deployed) as conversion:
        content = FORMATS["weight_int8"].convert(conversion, np.zeros((0, *model.input_shape[1:]), np.uint8))
    return len(content), gzip_size(content)


def sparsity_of(model: keras.Model) -> float:
    """Return the share of zeros among the weights that `prune` changes, 0..1."""
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers if type(layer).__name__ in CHANGED]
    return float(np.mean(np.concatenate([kernel.ravel() for kernel in kernels]) == 0))
