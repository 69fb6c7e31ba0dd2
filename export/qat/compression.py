"""Pruning and clustering by tensorflow-model-optimization: weights that compress better.

Neither makes a model faster on a CPU: LiteRT multiplies by zeros and by shared values as by any other. The gain is a
smaller download of files that are sent compressed, as apps are.

Both train and return the form deployed for LiteRT, whose normalizations are folded into its convolutions. A SavedModel
of it has large kernels in pieces too, and its signature `features` returns those before the last normalization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf

from keras_convmixer.deployment import deploy
from keras_convmixer.environment.backend import require_tensorflow
from keras_convmixer.environment.console import waiting
from keras_convmixer.outputs.classifier import as_classifier, require_single_label

from ..formats import FORMATS, gzip_size
from ..tflite.conversion import Conversion
from .arguments import check_numbers
from .quantization_aware import fit

Batches = Iterable[tuple[tf.Tensor, tf.Tensor]]
COMPRESSED = ("Conv2D", "Dense")
"""Types of layers whose weights are pruned or clustered. Depthwise weights are few; tfmot leaves them alone too."""
LEARNING_RATES = {"prune": 2e-2, "cluster": 1e-3}
"""Adafactor's at the first step, shares of a layer's weights. After pruning the weights have far to go: a model of
digits with an accuracy of 99.4 % had, after 60 steps to 80 % zeros, 11 % at 1e-3, 42 % at 5e-3 and 80 % at 2e-2."""
REACHED, UPDATES = 0.6, 20
"""Share of the steps after which the requested sparsity is reached, and the number of rises up to it."""


def prune(
    model: keras.Model,
    batches: Batches,
    steps: int,
    sparsity: float = 0.8,
    learning_rate: float = LEARNING_RATES["prune"],
    verbose: bool = True,
) -> keras.Model:
    """Continue the training of a classifier while its smallest weights are set to 0; return its pruned deployed form.

    Example:
        ```python
        import tensorflow as tf

        from keras_convmixer.export import prune

        one_hot = tf.one_hot(labels, 3)
        batches = tf.data.Dataset.from_tensor_slices((images.astype("float32"), one_hot)).repeat().batch(8)
        pruned = prune(model, batches, steps=2, sparsity=0.5, verbose=False)
        pruned.save("pruned.keras")  # for `convmixer export`
        ```

    Args:
        model: as for `export_bundle`; not changed.
        batches: as for `quantization_aware`.
        steps: number of batches to train on.
        sparsity: share of the weights of each convolution and dense layer that become 0, more than 0 and less than 1.
            Depthwise weights stay.
        learning_rate: at the first step, a share of each layer's weights; it falls to 0.
        verbose: show progress on stderr.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        ImportError: tensorflow-model-optimization or tf_keras is not installed.
        ValueError: an argument is out of its range, or the model has a layer that cannot be rebuilt in tf_keras.
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
        update.on_epoch_end(0)  # applies the masks: the last step moved masked weights too

    return _compress(
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
    """Continue the training of a classifier whose weights share a few values; return its deployed form with them.

    Example:
        ```python
        import tensorflow as tf

        from keras_convmixer.export import cluster

        one_hot = tf.one_hot(labels, 3)
        batches = tf.data.Dataset.from_tensor_slices((images.astype("float32"), one_hot)).repeat().batch(8)
        clustered = cluster(model, batches, steps=2, clusters=8, verbose=False)
        assert len(np.unique(clustered.layers[-1].get_weights()[0])) <= 8
        ```

    Args:
        model: as for `export_bundle`; not changed.
        batches: as for `quantization_aware`.
        steps: number of batches to train on.
        clusters: number of values that the weights of each convolution and dense layer share, 2 or more.
        learning_rate: at the first step, a share of each layer's weights; it falls to 0.
        verbose: show progress on stderr.

    Raises:
        as `prune`.
    """
    check_numbers(steps=steps, clusters=clusters, learning_rate=learning_rate)
    with waiting("starting tensorflow-model-optimization", verbose):
        from .legacy_keras import tfmot

    tools = tfmot.clustering.keras
    # Spread evenly over the range of a layer's weights: placed by density, the few large weights, which matter most,
    # would share a value.
    initial = tools.CentroidInitialization.LINEAR

    def train(wrapped):
        return fit(wrapped, batches, steps, learning_rate, verbose, "clustering")

    def wrap(layer):
        return tools.cluster_weights(layer, min(clusters, layer.kernel.shape.num_elements()), initial)

    return _compress(model, verbose, wrap, train, tools.strip_clustering)


def _compress(model, verbose, wrap: Callable, train: Callable, strip: Callable) -> keras.Model:
    """Wrap each layer to compress, train, remove the wrappers; `train` yields each step's loss, as `fit` does."""
    require_tensorflow("pruning and clustering")
    with waiting("preparing the model", verbose):
        from .legacy_keras import tf_keras
        from .tf_keras_model import to_tf_keras

        classifier = as_classifier(model)
        require_single_label(classifier, "training for compression")
        deployed = deploy(classifier, "litert", verified=False)
        wrapped = tf_keras.models.clone_model(
            to_tf_keras(deployed),
            clone_function=lambda layer: wrap(layer) if type(layer).__name__ in COMPRESSED else layer,
        )
    for _ in train(wrapped):
        pass
    stripped = strip(wrapped)
    # Back to Keras 3: the trained weights in a copy of the deployed model, layer by layer.
    compressed = keras.models.clone_model(deployed)
    compressed = keras.Model(compressed.inputs, compressed.outputs, name=model.name)
    for layer in compressed.layers:
        if layer.weights:
            layer.set_weights(stripped.get_layer(layer.name).get_weights())
    return compressed


def file_sizes(model: keras.Model) -> tuple[int, int]:
    """Return a classifier's size in bytes as a .tflite file with int8 weights, and that of the file under gzip."""
    deployed = deploy(as_classifier(model), "litert", verified=False)
    with Conversion(deployed) as conversion:
        content = FORMATS["weight_int8"].convert(conversion, np.zeros((0, *model.input_shape[1:]), np.uint8))  # pyright: ignore[reportOptionalCall]
    return len(content), gzip_size(content)


def sparsity_of(model: keras.Model) -> float:
    """Return the share of zeros, 0..1, among the weights that `prune` may set to 0."""
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers if type(layer).__name__ in COMPRESSED]
    return float(np.mean(np.concatenate([kernel.ravel() for kernel in kernels]) == 0))  # pyright: ignore[reportAttributeAccessIssue]
