"""Training by a recipe: from images to a run folder, on whatever devices there are, resumed after a stop."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_convmixer.environment.console import report
from keras_convmixer.outputs.classifier import NotFinite, as_classifier

from .data.batches import InputPipeline, closing_reader_on_error
from .data.dataset import Split
from .devices.accelerators import fastest_precision, has_accelerator, missing_gpu_advice, peak_memory_by_device
from .devices.replicas import Replicas
from .devices.strategy import StrategyName
from .evaluation import evaluate
from .launch import touch_heartbeat
from .prepare import TrainingOptions, build_initial_model, input_pipeline, lock_of_chief, prepare, resume_or_begin
from .recipe import OptimizationConfig, Recipe
from .runs.checkpoints import Checkpoints, History
from .runs.energy import Meter, UsageClock
from .runs.folder import publish
from .runs.progress import TrainingProgress
from .step.model import build_training_model
from .step.step import Step, StepResult
from .stopping import Diverged, Stopped

DIVERGENCE_FACTOR = 4.0
"""The run has diverged when an epoch's mean loss exceeds this multiple of its starting loss."""


def train(
    recipe: Recipe,
    run: str | os.PathLike[str],
    overwrite: bool = False,
    strategy: StrategyName = "auto",
    checkpoint_minutes: float = 10.0,
    steps_per_call: int | None = None,
    rollbacks: int = 0,
    verbose: bool = True,
    look_up_country: bool = False,
) -> dict[str, Any]:
    """Train a model by a recipe; write the run folder and return its summary.

    The folder then holds recipe.json, labels.txt, model.keras (takes pixels 0..255, loads with plain Keras), best.keras
    (the same after the epoch of the highest validation accuracy), metrics.csv, curves.png, confusion.png,
    predictions.png, summary.json, checkpoints/ and tensorboard/. model.keras is evaluated on the test images once, at
    the end.

    If the folder has checkpoints of the same recipe and the run did not end, training resumes from the last one; on
    CPUs to the same weights bit by bit. With several workers all call this function, and worker 0 writes.

    Example:
        ```python
        from pathlib import Path
        from keras_convmixer.training import RECIPES, train

        recipe = RECIPES["digits"].replace(name="short", epochs=1, dim=16, depth=1)
        summary = train(recipe, Path("runs/short"), verbose=False)
        print(f"{summary['test_accuracy']:.0%} of {summary['test_images']} images")
        ```

    Args:
        recipe: what to train.
        run: folder to write the run's files to.
        overwrite: train again although the folder holds a trained model, or was begun with another recipe.
        strategy: devices to train on, see `devices.strategy.choose_strategy`.
        checkpoint_minutes: time between checkpoints; each epoch's end is one too.
        steps_per_call: steps that TensorFlow runs before it returns to Python; by default 20 on GPUs and TPUs, 1 on
            CPUs.
        rollbacks: how many times a run that diverges goes back to a checkpoint and continues at half the learning
            rate, instead of stopping.
        verbose: report progress on stderr.
        look_up_country: ask the network in which country this machine is, for its electricity's CO2; see
            `runs.energy.Meter`.

    Returns:
        The content of summary.json: accuracies and losses, times in seconds, energy in kWh, CO2 in kg, memory in
        bytes. Empty on workers other than 0.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        FileExistsError: `run` holds a model already, or one of another recipe or other data was begun there, and
            `overwrite` is False; or it is a file, or another process trains in it.
        Diverged: the loss became NaN or infinite, or grew far beyond its starting value.
        Unreadable: an image file vanished, or was damaged, since training began.
        ValueError: the data set does not exist, a value of the recipe is not allowed, a batch cannot be divided
            among the replicas, or two workers have different recipes.
        Stopped: SIGTERM or Ctrl-C came; a checkpoint was saved.
    """
    run = Path(run)
    options = TrainingOptions(checkpoint_minutes, steps_per_call, rollbacks, verbose)
    recipe, dataset, replicas = prepare(recipe, run, overwrite, strategy, options)
    with lock_of_chief(run, replicas), replicas.explaining_lost_workers():
        resumes = resume_or_begin(run, recipe, dataset, replicas, options, overwrite)
        model = build_initial_model(recipe, len(dataset.class_names), replicas, resumes)
        trainer = Trainer(
            folder=run,
            model=model,
            optimization=recipe.optimization,
            pipeline=input_pipeline(recipe, dataset),
            validation=dataset.validation,
            replicas=replicas,
            options=options,
            meter=Meter(look_up_country),
        )
        if verbose and replicas.is_chief:
            report(replicas.describe(recipe.optimization.batch_size))
            if advice := missing_gpu_advice():
                report(advice)
            report(dataset.describe())
        measured = trainer.train()
        if not replicas.is_chief:
            return {}
        publish(run, model, trainer.checkpoints.best, recipe, dataset, trainer.history, measured)
    return json.loads((run / "summary.json").read_text())


class Trainer:
    """A run in progress: epochs of steps, each epoch with an evaluation and a checkpoint."""

    def __init__(
        self,
        *,
        folder: Path,
        model: keras.Model,
        optimization: OptimizationConfig,
        pipeline: InputPipeline,
        validation: Split,
        replicas: Replicas,
        options: TrainingOptions,
        meter: Meter,
    ):
        """Build the training step, the checkpoints and the progress display.

        Args:
            folder: the run folder; checkpoints/ and tensorboard/ are written in it.
            model: the model with its initial weights, which is evaluated; at the end it has the trained weights.
            optimization: how to train it.
            pipeline: training batches.
            validation: images for the evaluation after each epoch.
            replicas: devices.
            options: options of `train` that are not in the recipe.
            meter: measures energy.
        """
        self.model = model
        self._classifier = as_classifier(model)  # compiled once for all evaluations
        self._folder, self._pipeline, self._validation = folder, pipeline, validation
        self._replicas, self._options, self._meter = replicas, options, meter
        self._epochs, self._steps_per_epoch = optimization.epochs, pipeline.steps_per_epoch
        self._steps = self._steps_per_epoch * self._epochs
        on_accelerator = has_accelerator(replicas)
        self._steps_per_call = options.steps_per_call or (20 if on_accelerator else 1)
        precision = optimization.precision
        if precision == "auto":
            precision = fastest_precision() if on_accelerator else "float32"
        with replicas.strategy.scope():
            training_model = build_training_model(model, replicas.num_replicas, precision)
        self.step = Step(training_model, optimization, replicas, self._steps)
        self.history = History()
        self.checkpoints = Checkpoints(
            folder / "checkpoints", self.step, self.history, replicas.is_chief, options.checkpoint_minutes
        )
        self._reports = options.verbose and replicas.is_chief
        self._progress = TrainingProgress(self._epochs, self._steps_per_epoch, pipeline.batch_size, self._reports)
        self._usage = UsageClock(meter, replicas, self.history)

    def train(self) -> dict[str, Any]:
        """Train to the end; return what was measured, for summary.json."""
        with self._progress.bar, self.step.stopping_on_signals():
            start = self._restore()
            while not self._is_done:
                try:
                    with closing_reader_on_error(self._pipeline.split):
                        self._train_epochs(start)
                except Diverged as diverged:
                    start = self._roll_back(diverged)
        self.model.set_weights(self.step.weights())
        measured = self._measured()
        self._meter.stop()
        return measured

    @property
    def _is_done(self) -> bool:
        return len(self.history.epochs) >= self._epochs

    def _restore(self) -> int:
        """Restore the last checkpoint, if there is one; return its step."""
        start = self.checkpoints.restore()
        self._replicas.require_same(
            start, "the workers do not see the same checkpoints: train in a folder that all of them share"
        )
        if start and self._reports:
            report(f"resuming at step {start:,} of {self._steps:,}")
        if self._options.rollbacks and not self.checkpoints.any:  # something to go back to in the first epoch
            self.checkpoints.save()
        return start

    def _train_epochs(self, start: int) -> None:
        """Train from a step to the end."""
        batches = self._pipeline.batches(self._replicas, start, self._steps)
        self._progress.begin(start)
        while not self._is_done:
            self._usage.start()
            self._train_epoch(batches)
            self._end_epoch()
            self.checkpoints.save()

    def _train_epoch(self, batches: Iterator) -> None:
        """Train the remaining steps of the current epoch."""
        end = (len(self.history.epochs) + 1) * self._steps_per_epoch
        while (step := self.step.number) < end:
            count = min(self._steps_per_call, end - step)
            if self._replicas.is_chief and self.checkpoints.due:
                self.step.save.assign(1.0)  # all workers save after the same step: the chief's clock decides
            result, waited = self._run_steps(batches, count)
            touch_heartbeat()
            self._require_finite(result, step + count)
            self.history.add(count, result.loss, result.accuracy)
            self._progress.advance(count, waited, result.loss, result.accuracy, self.step.learning_rate)
            if result.stop > 0:  # the step's all-reduce has told all workers, so that all stop here
                self._stop()
            if result.save > 0:
                self._usage.lap()
                self.checkpoints.save()
                self.step.save.assign(0.0)
        self._usage.lap()

    def _run_steps(self, batches: Iterator, count: int) -> tuple[StepResult, float]:
        """Train `count` steps; return the result and the wait for images in seconds (0 if count > 1: not measured)."""
        waited = 0.0
        if count > 1:
            result = self.step.run_several(batches, tf.constant(count))
        else:
            started = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - started
            result = self.step.run(batch)
        return StepResult(*map(float, result)), waited

    def _stop(self) -> None:
        """Save a checkpoint and raise Stopped."""
        self._usage.lap()
        self.checkpoints.save()
        self._replicas.all_reduce_sum([0.0])  # a barrier: when one worker ends, the launcher kills the others
        raise Stopped(
            f"stopped at step {self.step.number:,} of {self._steps:,}: run the same command to resume",
            self.step.interrupted,
        )

    def _end_epoch(self) -> None:
        """Evaluate, and record the epoch."""
        epoch = len(self.history.epochs)
        step = (epoch + 1) * self._steps_per_epoch
        loss, accuracy = (total / self._steps_per_epoch for total in self.history.sums)
        # Initial weights may be better than guessing, whose cross-entropy is log(classes).
        starting_loss = max(self.history.first_loss, math.log(self._pipeline.classes))
        if loss > DIVERGENCE_FACTOR * starting_loss:
            raise self._diverged(f"the loss grew from {starting_loss:.3g} to {loss:.3g}", step)
        val_accuracy, val_loss = self._evaluate(self._validation)
        self._usage.lap("evaluation_seconds")
        if not math.isfinite(val_loss):
            raise self._diverged(f"the validation loss became {val_loss}", step)
        metrics = {
            "epoch": epoch,
            "accuracy": accuracy,
            "learning_rate": self.step.learning_rate,
            "loss": loss,
            "val_accuracy": val_accuracy,
            "val_loss": val_loss,
        }
        self.history.end_epoch(metrics)
        self.checkpoints.keep_if_best(self.model.get_weights())
        self._progress.end_epoch(metrics)
        if self._replicas.is_chief:
            with tf.summary.create_file_writer(str(self._folder / "tensorboard")).as_default(step):
                for name, value in metrics.items():
                    tf.summary.scalar(name, value)

    def _evaluate(self, split: Split) -> tuple[float, float]:
        """Return accuracy and loss of the current weights; each worker evaluates its share of the images."""
        self.model.set_weights(self.step.weights())
        share = split.take(np.arange(self._replicas.worker, len(split), self._replicas.workers))
        sums = [0.0, 0.0]
        if len(share):  # not of a worker beyond the number of images
            try:
                result = evaluate(self._classifier, share)
                sums = [result.accuracy * len(share), result.loss * len(share)]
            except NotFinite:  # sent to all workers as NaN, so that all of them raise
                sums = [0.0, math.nan]
        accuracy, loss = (value / len(split) for value in self._replicas.all_reduce_sum(sums))
        return accuracy, loss

    def _require_finite(self, result: StepResult, step: int) -> None:
        """Raise Diverged if a step's loss or gradients are not finite."""
        if not math.isfinite(result.loss):
            raise self._diverged(f"the loss became {result.loss}", step)
        if not math.isfinite(result.gradient_norm) and not self.step.uses_loss_scaling:
            raise self._diverged(f"the gradients' norm became {result.gradient_norm}", step)

    def _diverged(self, problem: str, step: int) -> Diverged:
        checkpoints = self._folder / "checkpoints"
        saved = f"the last checkpoint is in {checkpoints}" if self.checkpoints.any else "no checkpoint was saved"
        advice = "" if self._options.rollbacks else ", or let rollbacks=3 halve it"
        return Diverged(
            f"{problem} at step {step:,}, at a learning rate of {self.step.learning_rate:.3g}",
            f"lower learning_rate and begin again with overwrite=True{advice}; {saved}",
        )

    def _roll_back(self, diverged: Diverged) -> int:
        """Restore the checkpoint before the epoch that diverged and halve the learning rate; return the step.

        At the same rate the same images would lead to the same end.
        """
        if self.history.rollbacks >= self._options.rollbacks:
            raise diverged
        used, rollbacks = self.history.used, self.history.rollbacks + 1
        start = self.checkpoints.restore(before=len(self.history.epochs) * self._steps_per_epoch)
        self._replicas.require_same(  # it also waits for all, before the chief overwrites what others still read
            start, "the workers do not see the same checkpoints: check that the shared folder is healthy"
        )
        self.step.scale_learning_rate(2.0**-rollbacks)
        self.history.used, self.history.rollbacks = used, rollbacks
        self.checkpoints.save()
        if self._reports:
            report(f"{diverged.problem}: going back to step {start:,}, continuing at half the learning rate")
        return start

    def _measured(self) -> dict[str, Any]:
        energy = self._usage.last
        return {
            "replicas": self._replicas.num_replicas,
            **self.history.used,
            "rollbacks": self.history.rollbacks,
            "energy_measured": energy.measured,
            "co2_of": energy.place,
            "images_per_second": self._steps * self._pipeline.batch_size / self.history.used["seconds"],
            "input_share": self._progress.input_share,
            "step_seconds": self._progress.step_seconds,
            "peak_memory_bytes": peak_memory_by_device(),
        }
