"""One training step, the same on one device and on many hosts."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import keras
import tensorflow as tf

from .recipe import Recipe
from .schedule import SCHEDULES, ScaledSchedule
from .stop_signals import handling
from .strategy import Replicas

INTERRUPTED = b"\nstopping after this step, to save a checkpoint; Ctrl-C again stops at once\n"


class Step:
    """A model with its optimizer and moving average, and the function that trains them by a step.

    Gradients are summed over the replicas first and clipped by their global norm then, as on one device: Keras
    itself clips each replica's own, which is another algorithm.
    """

    def __init__(self, model: keras.Model, recipe: Recipe, replicas: Replicas, steps: int):
        """`model` returns logits and was built in the strategy's scope; `steps` are those of the whole run."""
        self.model, self._recipe, self._replicas = model, recipe, replicas
        schedule = SCHEDULES[recipe.schedule](recipe.learning_rate, steps)
        with replicas.strategy.scope():
            self.learning_rate_scale = tf.Variable(
                1.0, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
            )
            schedule = ScaledSchedule(schedule, self.learning_rate_scale)
            optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, epsilon=recipe.epsilon)
            if not recipe.decay_norm_and_bias:
                flat = [variable for variable in model.trainable_variables if len(variable.shape) == 1]
                optimizer.exclude_from_weight_decay(var_list=flat)
            self._schedule = schedule
            self.uses_loss_scaling = any(layer.dtype_policy.name == "mixed_float16" for layer in model.layers)
            if self.uses_loss_scaling:
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            optimizer.build(model.trainable_variables)
            self.optimizer = optimizer
            averaged = model.variables if recipe.ema_decay else []
            self.average = [
                keras.Variable(variable, dtype="float32", trainable=False, aggregation="only_first_replica")
                for variable in averaged
            ]
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = replicas.num_replicas > 1
        # Not the optimizer's, which does not count a step that is left out as its float16 gradients overflowed.
        self.counter = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.stop, self.save = (tf.Variable(0.0, trainable=False) for _ in range(2))
        """Set to 1 on any worker, they are seen by all at the same step."""
        self.interrupted = False
        """Whether Ctrl-C was pressed here."""
        # XLA fuses what lies between convolutions; on a CPU its own depthwise convolution is eight times slower.
        xla = replicas.num_replicas == 1 and bool(tf.config.list_logical_devices("GPU"))
        self._gradients = tf.function(self._gradients, jit_compile=True) if xla else self._gradients
        self.run = tf.function(self._run)
        self.run_several = tf.function(self._run_several)

    @property
    def number(self) -> int:
        """Steps that were trained."""
        return int(self.counter.numpy())

    @property
    def learning_rate(self) -> float:
        """What the next step's is."""
        return float(self._schedule(self.number))

    def scale_learning_rate(self, factor: float) -> None:
        """Train from now on at the schedule's rate times a factor."""
        self.learning_rate_scale.assign(factor)

    def weights(self) -> list:
        """Return what is to be evaluated and saved, in the order of the model's: the average where there is one."""
        return [keras.ops.convert_to_numpy(value) for value in (self.average or self.model.variables)]

    @contextlib.contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Let SIGTERM, which clusters send before they take a machine away, and Ctrl-C stop all workers after a step.

        A second Ctrl-C interrupts at once.
        """

        def stop(number, frame):
            if number == signal.SIGINT:
                if self.interrupted:
                    raise KeyboardInterrupt
                self.interrupted = True
                with contextlib.suppress(OSError, ValueError, AttributeError):  # a notebook's has no descriptor
                    os.write(sys.stderr.fileno(), INTERRUPTED)  # print() may be what was interrupted
            self.stop.assign(1.0)

        with handling(signal.SIGTERM, stop), handling(signal.SIGINT, stop):
            yield

    def _run(self, batch):
        """Train a step: return mean loss, accuracy, the gradients' norm, whether to stop and to save, float32 `[5]`."""
        results = self._replicas.strategy.run(self._replica_step, args=batch)
        self.counter.assign_add(1)
        return self._replicas.strategy.experimental_local_results(results)[0]

    def _run_several(self, batches, count: tf.Tensor):
        """Train `count` steps from an iterator in one call; return the means, and the rest of the last."""
        total = tf.zeros([2])
        last = tf.zeros([5])
        for _ in tf.range(count):
            last = self._run(next(batches))
            total += last[:2]
        return tf.concat([total / tf.cast(count, tf.float32), last[2:]], 0)

    def _replica_step(self, images, labels):
        recipe, context = self._recipe, tf.distribute.get_replica_context()
        share = recipe.batch_size // self._replicas.num_replicas  # which distributed iterators forget
        images = tf.ensure_shape(images, (share, *images.shape[1:]))
        labels = tf.ensure_shape(labels, (share, *labels.shape[1:]))
        parts = zip(
            tf.split(images, recipe.gradient_accumulation_steps),
            tf.split(labels, recipe.gradient_accumulation_steps),
            strict=True,
        )
        total = None
        for part_images, part_labels in parts:
            results = self._gradients(part_images, part_labels)
            total = results if total is None else [one + other for one, other in zip(total, results, strict=True)]
        asked = tf.stack([self.stop, self.save])  # on the replica's device, without which they cannot be summed
        loss, right, asked, *gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, [*total[:2], asked, *total[2:]])
        scale = self._current_loss_scale()
        norm = tf.linalg.global_norm(gradients) / scale
        # The optimizer sums over the replicas once more. An infinite norm stays one: with loss scaling such a step
        # is left out, without it the run stops.
        factor = tf.minimum(recipe.clip_norm / tf.maximum(norm, 1e-12), 1.0) / context.num_replicas_in_sync
        self.optimizer.apply([gradient * factor for gradient in gradients], self.model.trainable_variables)
        # At first the average follows fast, or a short run would keep its first weights. Source: `num_updates` of
        # tf.train.ExponentialMovingAverage.
        done = tf.cast(self.counter, tf.float32)
        decay = tf.minimum(recipe.ema_decay, (1 + done) / (10 + done))
        for average, variable in zip(self.average, self.model.variables, strict=False):
            average.assign(average * decay + tf.cast(variable, tf.float32) * (1 - decay))
        return tf.concat([[loss, right / recipe.batch_size, norm], asked], 0)

    def _gradients(self, images, labels):
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
            loss = tf.reduce_sum(losses) / self._recipe.batch_size
            scaled = loss * self._current_loss_scale()
        gradients = tape.gradient(scaled, self.model.trainable_variables)
        right = tf.argmax(logits, -1) == tf.argmax(labels, -1)
        return [loss, tf.reduce_sum(tf.cast(right, tf.float32)), *gradients]

    def _current_loss_scale(self):
        return tf.convert_to_tensor(self.optimizer.dynamic_scale) if self.uses_loss_scaling else tf.constant(1.0)
