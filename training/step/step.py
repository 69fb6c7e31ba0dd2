"""The training step: the same on one device and on many hosts."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ..devices.replicas import Replicas
from ..recipe import OptimizationConfig
from ..stopping import handling
from .schedule import SCHEDULES, ScaledSchedule

INTERRUPT_NOTICE = b"\nstopping after this step, to save a checkpoint; Ctrl-C again stops at once\n"


class StepResult(NamedTuple):
    """Results of a step, or of several steps in one call; scalars, the same on all replicas."""

    loss: tf.Tensor | float
    """Mean cross-entropy of the batch, in nats; of several steps the mean of them."""
    accuracy: tf.Tensor | float
    """Fraction of the batch, 0..1, that is classified as labeled; of several steps the mean of them."""
    gradient_norm: tf.Tensor | float
    """Global norm of the gradients before clipping, of the last step."""
    stop: tf.Tensor | float
    """More than 0: a worker was asked to stop."""
    save: tf.Tensor | float
    """More than 0: the chief asks for a checkpoint."""


class Step:
    """A model with its optimizer and moving average, and the function that trains them by one step.

    Gradients are summed over the replicas first and then clipped by their global norm, as on one device. Keras itself
    clips each replica's own gradients, which is another algorithm.
    """

    def __init__(self, model: keras.Model, optimization: OptimizationConfig, replicas: Replicas, steps: int):
        """`model` returns logits and was built in the strategy's scope; `steps` is the length of the whole run."""
        self.model, self._optimization, self._replicas = model, optimization, replicas
        with replicas.strategy.scope():
            self.learning_rate_scale = tf.Variable(
                1.0, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
            )
            schedule = SCHEDULES[optimization.schedule](optimization.learning_rate, steps)
            self._schedule = ScaledSchedule(schedule, self.learning_rate_scale)
            self.uses_loss_scaling = any(layer.dtype_policy.name == "mixed_float16" for layer in model.layers)
            self.optimizer = self._build_optimizer()
            averaged = model.variables if optimization.ema_decay else []
            self.average = [
                keras.Variable(variable, dtype="float32", trainable=False, aggregation="only_first_replica")
                for variable in averaged
            ]
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = replicas.num_replicas > 1
        # Not the optimizer's counter, which leaves out a step whose float16 gradients overflowed.
        self.counter = tf.Variable(0, trainable=False, dtype=tf.int64)
        # Set to 1 on any worker, these are seen by all workers in the same step's result.
        self.stop, self.save = (tf.Variable(0.0, trainable=False) for _ in range(2))
        self.interrupted = False
        """Whether Ctrl-C was pressed in this process."""
        # XLA fuses what lies between convolutions; on a CPU its own depthwise convolution is eight times slower.
        xla = replicas.num_replicas == 1 and bool(tf.config.list_logical_devices("GPU"))
        self._gradients = tf.function(self._gradients, jit_compile=True) if xla else self._gradients
        # A call of a compiled step returns to Python, which keeps a GPU waiting; `run_several` loops inside TensorFlow.
        self.run = tf.function(self._run)
        self.run_several = tf.function(self._run_several)

    def _build_optimizer(self):
        optimization, variables = self._optimization, self.model.trainable_variables
        optimizer = keras.optimizers.AdamW(
            self._schedule, weight_decay=optimization.weight_decay, epsilon=optimization.epsilon
        )
        if not optimization.decay_norm_and_bias:
            # Biases and BatchNormalization's scales and shifts are vectors; kernels have more axes.
            optimizer.exclude_from_weight_decay(var_list=[v for v in variables if len(v.shape) == 1])
        if self.uses_loss_scaling:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(variables)
        return optimizer

    @property
    def number(self) -> int:
        """Number of steps trained so far."""
        return int(self.counter.numpy())

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return float(self._schedule(self.number))

    def scale_learning_rate(self, factor: float) -> None:
        """Train from now on at the schedule's rate times `factor`."""
        self.learning_rate_scale.assign(factor)

    def weights(self) -> list[np.ndarray]:
        """Return the weights to evaluate and save, in the model's order: the moving average if there is one."""
        return [np.asarray(keras.ops.convert_to_numpy(value)) for value in (self.average or self.model.variables)]

    @contextlib.contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Make SIGTERM, which clusters send before they take a machine away, and Ctrl-C stop all workers after a step.

        A second Ctrl-C interrupts at once.
        """

        def stop(number, frame):
            if number == signal.SIGINT:
                if self.interrupted:
                    raise KeyboardInterrupt
                self.interrupted = True
                with contextlib.suppress(OSError, ValueError, AttributeError):  # a notebook's stderr has no descriptor
                    os.write(sys.stderr.fileno(), INTERRUPT_NOTICE)  # print() may be what was interrupted
            self.stop.assign(1.0)

        with handling(signal.SIGTERM, stop), handling(signal.SIGINT, stop):
            yield

    @tf.autograph.experimental.do_not_convert  # no `if` or `for` of tensors below; converting Keras takes seconds
    def _run(self, batch) -> StepResult:
        """Train one step on each replica's images `[share, height, width, 3]` and labels `[share, classes]`."""
        results = self._replicas.strategy.run(self._replica_step, args=batch)  # equal on all replicas
        self.counter.assign_add(1)
        return self._replicas.strategy.experimental_local_results(results)[0]

    def _run_several(self, batches, count: tf.Tensor) -> StepResult:
        """Train `count` steps from an iterator in one call."""
        loss_sum = accuracy_sum = tf.zeros([])
        last = StepResult(*(tf.zeros([]) for _ in StepResult._fields))
        for _ in tf.range(count):
            last = self._run(next(batches))
            loss_sum += last.loss
            accuracy_sum += last.accuracy
        steps = tf.cast(count, tf.float32)
        return last._replace(loss=loss_sum / steps, accuracy=accuracy_sum / steps)

    def _replica_step(self, images, labels):
        """Train a replica's share of a batch, together with the other replicas."""
        optimization, context = self._optimization, tf.distribute.get_replica_context()
        share = optimization.batch_size // self._replicas.num_replicas
        images = tf.ensure_shape(images, (share, *images.shape[1:]))  # distributed iterators lose the batch size
        labels = tf.ensure_shape(labels, (share, *labels.shape[1:]))

        # Sums over the parts of the share, then over the replicas.
        sums = None
        parts = optimization.gradient_accumulation_steps
        for part_images, part_labels in zip(tf.split(images, parts), tf.split(labels, parts), strict=True):
            part = self._gradients(part_images, part_labels)
            sums = part if sums is None else [one + other for one, other in zip(sums, part, strict=True)]
        loss, correct, *gradients = sums
        requests = tf.stack([self.stop, self.save])  # on this replica's device, which the all-reduce needs
        loss, correct, requests, *gradients = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [loss, correct, requests, *gradients]
        )

        norm = tf.linalg.global_norm(gradients) / self._current_loss_scale()
        # An infinite norm stays infinite: with loss scaling the optimizer then skips the step, else the run stops.
        # The optimizer sums over the replicas once more, hence the division.
        factor = tf.minimum(optimization.clip_norm / tf.maximum(norm, 1e-12), 1.0) / context.num_replicas_in_sync
        self.optimizer.apply([gradient * factor for gradient in gradients], self.model.trainable_variables)
        self._update_average()
        return StepResult(loss, correct / optimization.batch_size, norm, *tf.unstack(requests))

    def _update_average(self):
        # In the first steps the average follows faster, or a short run would keep its random first weights. Source:
        # `num_updates` of tf.train.ExponentialMovingAverage.
        done = tf.cast(self.counter, tf.float32)
        decay = tf.minimum(self._optimization.ema_decay, (1 + done) / (10 + done))
        # Without ema_decay there is no average.
        for average, variable in zip(self.average, self.model.variables, strict=False):
            average.assign(average * decay + tf.cast(variable, tf.float32) * (1 - decay))

    def _gradients(self, images, labels):
        """Return the part's share of the batch's mean loss, its number of correct images, and its gradients, scaled."""
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)  # [part, classes]
            losses = tf.nn.softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))  # [part]
            loss = tf.reduce_sum(losses) / self._optimization.batch_size
            scaled = loss * self._current_loss_scale()  # small float16 gradients would be rounded to 0 otherwise
        gradients = tape.gradient(scaled, self.model.trainable_variables)
        correct = tf.argmax(logits, -1) == tf.argmax(labels, -1)
        return [loss, tf.reduce_sum(tf.cast(correct, tf.float32)), *gradients]

    def _current_loss_scale(self):
        return tf.convert_to_tensor(self.optimizer.dynamic_scale) if self.uses_loss_scaling else tf.constant(1.0)
