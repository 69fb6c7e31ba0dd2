"""Quantization-aware training: continue a model's training as int8 computes it, and convert it to integer operators."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_convmixer.deployment import deploy
from keras_convmixer.environment.backend import require_tensorflow
from keras_convmixer.environment.console import progress_bar, waiting
from keras_convmixer.files.atomic import explaining_full_disk
from keras_convmixer.outputs.classifier import as_classifier, require_single_label

from ..serving.saved_model import INPUT, OUTPUT, SIGNATURE, write_signatures
from ..tflite.conversion import convert_saved_model
from .arguments import check_numbers

LEARNING_RATE = 1e-3
"""Adafactor's, at the first step: how far a weight moves, as a share of the root mean square of its layer's weights."""


def quantization_aware(
    model: keras.Model,
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    steps: int,
    learning_rate: float = LEARNING_RATE,
    verbose: bool = True,
) -> bytes:
    """Continue the training of a classifier as int8 computes it; return a .tflite file of integer operators.

    The deployed form is trained, whose normalizations are folded into its convolutions, so that training sees what the
    file will compute. Folding makes layers' weights very different in size; Adafactor moves each layer by a share of
    its own weights. The learning rate falls to 0 by a cosine. `model` itself is not changed. The file takes and returns
    uint8; give it to `export_bundle` as qat_int8.

    Example:
        ```python
        import tensorflow as tf

        from keras_convmixer.export import quantization_aware

        one_hot = tf.one_hot(labels, 3)
        batches = tf.data.Dataset.from_tensor_slices((images.astype("float32"), one_hot)).repeat().batch(8)
        file = quantization_aware(model, batches, steps=2, verbose=False)
        assert file[4:8] == b"TFL3"
        ```

    Args:
        model: as `export_bundle` takes it.
        batches: at least `steps` pairs of images, float32 `[batch, height, width, channels]` with pixels 0..255, and
            label distributions, float32 `[batch, classes]` with rows that sum to 1.
        steps: number of batches to train on.
        learning_rate: at the first step, a share of each layer's weights.
        verbose: show progress on stderr.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        ImportError: tensorflow-model-optimization or tf_keras is not installed.
        ValueError: the model has a layer that quantization-aware training does not support, or steps is under 1.
        FloatingPointError: the loss became NaN or infinite.
    """
    require_tensorflow("quantization-aware training")
    check_numbers(steps=steps, learning_rate=learning_rate)
    with waiting("preparing the model", verbose):
        trained = build_training_model(model)
    for _ in fit(trained, batches, steps, learning_rate, verbose):
        pass
    with waiting("converting to .tflite", verbose):
        return convert_to_tflite(trained)


def build_training_model(model: keras.Model):
    """Return a classifier's deployed form in tf_keras, computing as int8 does: the model that is trained."""
    from .quantization_scheme import quantize_model
    from .tf_keras_model import to_tf_keras

    classifier = as_classifier(model)
    require_single_label(classifier, "quantization-aware training")
    trained = quantize_model(to_tf_keras(deploy(classifier, "litert", verified=False)))
    # The input's range is not learned: uint8 in the file has to mean pixels 0..255, with scale 1 and zero point 0.
    (pixels,) = (layer for layer in trained.layers if type(layer).__name__ == "QuantizeLayer")
    pixels.set_weights([np.float32(255.0) if "max" in weight.name else 0 * weight.numpy() for weight in pixels.weights])
    return trained


def fit(
    trained, batches, steps: int, learning_rate: float, verbose: bool, description: str = "quantization-aware training"
) -> Iterator[float]:
    """Train a tf_keras classifier; yield each step's loss."""
    from .legacy_keras import tf_keras

    schedule = tf_keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = tf_keras.optimizers.Adafactor(schedule, relative_step=False)
    # Without XLA, whose depthwise convolutions are many times slower on CPUs.
    trained.compile(optimizer, "categorical_crossentropy", jit_compile=False)
    with progress_bar(verbose) as progress:
        task = progress.add_task(description, total=steps, detail="")
        for step, (images, labels) in zip(range(steps), batches, strict=False):
            # Augmentation's noise leaves the range 0..255 that the file's uint8 input can hold.
            loss = float(trained.train_on_batch(tf.clip_by_value(images, 0, 255), labels))
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {step}: give a lower learning rate")
            progress.update(task, advance=1, detail=f"loss {loss:.3f}")
            yield loss


def convert_to_tflite(trained) -> bytes:
    """Convert a trained model of `build_training_model` to a .tflite file: uint8 in and out, integer operators only."""
    images = tf.TensorSpec((1, *trained.input_shape[1:]), tf.float32, name=INPUT)

    def classify(images):
        return {OUTPUT: trained(images, training=False)}

    def configure(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]  # without calibration: training has set the ranges
        converter.inference_input_type = converter.inference_output_type = tf.uint8

    with explaining_full_disk(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as folder:
        write_signatures(Path(folder), {SIGNATURE: (classify, images)})
        return convert_saved_model(folder, configure)
