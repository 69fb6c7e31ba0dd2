"""Training by a recipe: from images to a run folder, on whatever devices there are, and on again after a stop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_convmixer.backend import require_tensorflow
from keras_convmixer.console import progress_bar, report
from keras_convmixer.files.atomic import require_folder_name
from keras_convmixer.images.preprocessing import Preprocessing
from keras_convmixer.outputs.classifier import NotFinite, as_classifier

from .data.batches import closing_reader_on_error, distributed_batches
from .data.dataset import Dataset, load_dataset
from .evaluation import evaluate
from .launch import INTERRUPTED, STOPPED, touch_heartbeat
from .layers import build_training_model
from .memory import peak_memory
from .model import build_model, fastest_precision
from .recipe import Recipe
from .runs.checkpoints import Checkpoints, History
from .runs.energy import Meter
from .runs.folder import begin, can_resume, locked, publish, write_damaged_list
from .runs.progress import TrainingProgress
from .step import Step
from .strategy import Replicas, StrategyName, choose_strategy

DIVERGED = 4.0
"""How many times the first step's loss, or that of guessing, an epoch's mean may be, before the run has diverged."""


class Diverged(FloatingPointError):
    """The loss became NaN or infinite, or grew far beyond the first step's."""


class Stopped(RuntimeError):
    """Training was asked to stop, saved a checkpoint and can be resumed."""

    def __init__(self, sentence: str, interrupted: bool):
        super().__init__(sentence)
        self.exit_code = INTERRUPTED if interrupted else STOPPED


def train(
    recipe: Recipe,
    run: Path,
    overwrite: bool = False,
    strategy: StrategyName = "auto",
    checkpoint_minutes: float = 10.0,
    steps_per_call: int | None = None,
    rollbacks: int = 0,
    verbose: bool = True,
    look_up_country: bool = False,
) -> dict:
    """Train a model by a recipe; write the run folder and return its summary.

    The folder then holds recipe.json, labels.txt, model.keras (takes pixels 0..255, loads with plain Keras), best.keras
    (the same after the epoch of the highest validation accuracy), metrics.csv, curves.png, confusion.png,
    predictions.png, summary.json, checkpoints/ and tensorboard/. Test images are used once, at the end, by model.keras.
    Where checkpoints of the same recipe are there and the run did not end, it goes on from the last one, on CPUs to the
    same weights bit by bit. With several workers all call this, and worker 0 writes.

    Args:
        recipe: what to train.
        run: folder to write.
        overwrite: train again although the folder holds a trained model, or was begun with another recipe.
        strategy: see `strategy.choose_strategy`.
        checkpoint_minutes: time between checkpoints; each epoch's end is one too.
        steps_per_call: steps that TensorFlow runs before it returns to Python; by default 20 on GPUs and TPUs, 1 on
            CPUs.
        rollbacks: how many times a run that diverges goes back to a checkpoint and on at half the learning rate,
            instead of stopping.
        verbose: show progress.
        look_up_country: ask the network which country's electricity this is, see `energy.Meter`.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        FileExistsError: `run` holds a model already, or one of another recipe or other data was begun there, and
            `overwrite` is False; or it is a file, or another process trains in it.
        Diverged: the loss became NaN or infinite, or grew far beyond the first step's.
        Unreadable: a picture vanished, or was damaged, since training began.
        ValueError: the data set does not exist, a value of the recipe is not allowed, a batch cannot be divided
            among the replicas, or two workers have different recipes.
        Stopped: SIGTERM or Ctrl-C came; a checkpoint was saved.
    """
    run = Path(run)
    require_tensorflow("training")
    require_folder_name(run)
    if Path(recipe.dataset).is_dir() and recipe.dataset != "digits":  # found again from wherever
        recipe = dataclasses.replace(recipe, dataset=str(Path(recipe.dataset).resolve()))
    for name, value, least in (
        ("steps_per_call", 1 if steps_per_call is None else steps_per_call, 1),
        ("rollbacks", rollbacks, 0),
        ("checkpoint_minutes", checkpoint_minutes, 0),
    ):
        if not value >= least:  # nor NaN
            raise ValueError(f"{name}={value}: give {least} or more")
    if recipe.weights and Path(recipe.weights).expanduser().is_file():
        recipe = dataclasses.replace(recipe, weights=str(Path(recipe.weights).expanduser().resolve()))
    replicas = choose_strategy(strategy)
    can_resume(run, recipe, overwrite)  # or raises, before data is read
    recipe.require_divisible(replicas.num_replicas)
    preprocessing = Preprocessing(recipe.image_size, recipe.image_size, crop_fraction=recipe.crop_fraction)
    with progress_bar(verbose) as progress:
        dataset = load_dataset(
            recipe.dataset,
            preprocessing,
            progress=progress,
            data_dir=recipe.data_dir,
            keep_originals=recipe.random_crop,
        )
    if len(dataset.train) < recipe.batch_size:
        raise ValueError(
            f"batch_size={recipe.batch_size} is more than the {len(dataset.train)} training images: give less"
        )
    keras.utils.set_random_seed(recipe.seed)
    model = build_model(recipe, len(dataset.class_names))
    if recipe.weights and not can_resume(run, recipe, overwrite, dataset):
        model.set_weights(build_model(recipe, len(dataset.class_names), weights=recipe.weights).get_weights())
    with locked(run) if replicas.is_chief else contextlib.nullcontext():
        if replicas.is_chief:
            begin(run, recipe, dataset, can_resume(run, recipe, overwrite, dataset))
            write_damaged_list(dataset, run / "damaged.txt", verbose)
        with replicas.explaining_lost_workers():
            same = recipe, steps_per_call, rollbacks
            replicas.require_same(same, "the workers were started with different recipes: give all the same options")
            replicas.require_same(
                dataset.fingerprint,
                f"the workers do not see the same pictures of {recipe.dataset}, or not the same damaged ones "
                f"(here {len(dataset.damaged)}): give all the same data",
            )
            model.set_weights([replicas.broadcast_from_chief(value) for value in model.get_weights()])
            options = checkpoint_minutes, steps_per_call, rollbacks, verbose
            running = _Run(model, run, recipe, dataset, replicas, *options, Meter(look_up_country))
            running.train()
    if not replicas.is_chief:
        return {}
    return json.loads((run / "summary.json").read_text())


class _Run:
    """A run in progress."""

    def __init__(
        self,
        model,
        folder,
        recipe,
        dataset: Dataset,
        replicas: Replicas,
        minutes,
        steps_per_call,
        rollbacks,
        verbose,
        meter: Meter,
    ):
        self._folder, self._recipe, self._dataset, self._replicas = folder, recipe, dataset, replicas
        self._rollbacks = rollbacks
        self._classes = len(dataset.class_names)
        self._steps_per_epoch = len(dataset.train) // recipe.batch_size
        self._steps = self._steps_per_epoch * recipe.epochs
        accelerated = bool(tf.config.list_logical_devices("GPU")) or replicas.name == "tpu"
        self._steps_per_call = steps_per_call or (20 if accelerated else 1)
        precision = recipe.precision
        if precision == "auto":
            precision = fastest_precision() if accelerated else "float32"
        self.model = model  # what is evaluated and saved
        self._classifier = as_classifier(model)  # which is compiled once
        with replicas.strategy.scope():
            trained = build_training_model(
                build_model(recipe, self._classes, precision, classifier_activation=None), replicas.num_replicas
            )
            trained.set_weights(self.model.get_weights())
        self.step = Step(trained, recipe, replicas, self._steps)
        self.history = History()
        self.checkpoints = Checkpoints(
            folder / "checkpoints", self.step, self.history, replicas.is_chief, minutes=minutes
        )
        self._says = verbose and replicas.is_chief
        self._progress = TrainingProgress(recipe, self._steps_per_epoch, self._says)
        self._meter = meter
        self._read = self._meter.read()

    def train(self):
        with self._progress.bar, self.step.stopping_on_signals():
            start = self._begin()
            while len(self.history.epochs) < self._recipe.epochs:
                try:
                    with closing_reader_on_error(self._dataset.train):
                        self._epochs(start)
                except Diverged as diverged:
                    start = self._roll_back(diverged)
        self._publish()

    def _begin(self):
        """Restore the last checkpoint, and say what trains; return the step."""
        start = self.checkpoints.restore()
        self._replicas.require_same(
            start, "the workers do not see the same checkpoints: give --runs a folder that all of them share"
        )
        if self._says:
            report(self._replicas.described(self._recipe.batch_size))
            report(self._dataset.described())
        if start and self._says:
            report(f"resuming at step {start:,} of {self._steps:,}")
        if self._rollbacks and not self.checkpoints.any:
            self.checkpoints.save()
        return start

    def _epochs(self, start):
        """Train from a step to the end."""
        split = self._dataset.train
        batches = distributed_batches(split, self._classes, self._recipe, self._replicas, start, self._steps)
        self._progress.begin(start)
        while len(self.history.epochs) < self._recipe.epochs:
            self._epoch(batches)

    def _epoch(self, batches):
        number = len(self.history.epochs) + 1
        end = number * self._steps_per_epoch
        started = time.monotonic()
        while (step := self.step.number) < end:
            count = min(self._steps_per_call, end - step)
            if self._replicas.is_chief and self.checkpoints.due:  # whose clock counts: saving is for all at one step
                self.step.save.assign(1.0)
            waited = time.monotonic()
            if count == 1:
                batch = next(batches)
                waited = time.monotonic() - waited
                results = self.step.run(batch)
            else:
                results, waited = self.step.run_several(batches, tf.constant(count)), 0.0
            loss, accuracy, norm, stop, save = (float(value) for value in results)
            touch_heartbeat()
            if problem := self._problem(loss, norm):
                raise self._divergence(problem, step + count)
            self.history.add(count, loss, accuracy)
            self._progress.advance(count, waited, loss, accuracy, self.step.learning_rate)
            if stop:
                self._count(started)
                self.checkpoints.save()
                self._replicas.all_reduce_sum([0.0])  # nobody leaves, and has others killed, before it is saved
                sentence = f"stopped at step {self.step.number:,} of {self._steps:,}: the same command goes on"
                raise Stopped(sentence, self.step.interrupted)
            if save:
                started = self._count(started)
                self.checkpoints.save()
                self.step.save.assign(0.0)
        started = self._count(started)
        loss, accuracy = (total / self._steps_per_epoch for total in self.history.sums)
        # Weights that know something already begin lower than guessing.
        start = max(self.history.first_loss, math.log(self._classes))
        if loss > DIVERGED * start:  # before a checkpoint says that this epoch is over
            raise self._divergence(f"the loss grew from {start:.3g} to {loss:.3g}", end)
        validation = self._evaluate(self._dataset.validation)
        self._count(started, "evaluation_seconds")
        if not math.isfinite(validation[1]):
            raise self._divergence(f"the validation loss became {validation[1]}", end)
        self.history.end_epoch(
            {
                "epoch": number - 1,
                "accuracy": accuracy,
                "learning_rate": self.step.learning_rate,
                "loss": loss,
                "val_accuracy": validation[0],
                "val_loss": validation[1],
            }
        )
        self.checkpoints.keep_if_best(self.model.get_weights())
        self._progress.epoch_done(self.history.epochs[-1])
        self._log_for_tensorboard(number * self._steps_per_epoch)
        self.checkpoints.save()

    def _log_for_tensorboard(self, step):
        if self._replicas.is_chief:
            with tf.summary.create_file_writer(str(self._folder / "tensorboard")).as_default(step):
                for name, value in self.history.epochs[-1].items():
                    tf.summary.scalar(name, value)

    def _count(self, started, what="seconds"):
        """Add the time since `started` to what was used, and the energy since the last time; return the time of now."""
        before, self._read = self._read, self._meter.read()
        local_workers = self._replicas.local_workers  # asks all workers, so not only where there is a counter
        parts = local_workers if self._read.measured else 1  # a counter is the whole host's
        energy = [(now - then) / parts for now, then in zip(self._read[:2], before[:2], strict=True)]
        now = time.monotonic()
        self.history.use(now - started, what, *self._replicas.all_reduce_sum(energy))
        return now

    def _problem(self, loss, norm):
        """Say what is wrong with a step; None if nothing."""
        if not math.isfinite(loss):
            return f"the loss became {loss}"
        if not math.isfinite(norm) and not self.step.uses_loss_scaling:
            return f"the gradients' norm became {norm}"
        return None

    def _divergence(self, what, step):
        last = self._folder / "checkpoints"
        saved = f"the last checkpoint is in {last}" if any(last.glob("*.index")) else "no checkpoint was saved"
        advice = "" if self._rollbacks else ", or let --rollbacks halve it"
        return Diverged(
            f"{what} at step {step:,}, at a learning rate of {self.step.learning_rate:.3g}: lower --learning-rate "
            f"and begin again with --overwrite{advice}; {saved}"
        )

    def _roll_back(self, diverged):
        """Go back to the checkpoint before an epoch that diverged, and on from there at half the learning rate.

        Going on as before would, the images being the same, end as before.
        """
        if self.history.rollbacks >= self._rollbacks:
            raise diverged
        used, rollbacks = self.history.used, self.history.rollbacks + 1
        start = self.checkpoints.restore(before=len(self.history.epochs) * self._steps_per_epoch)
        self._replicas.require_same(  # which waits for all, too, before the chief writes what others still read
            start, "the workers do not see the same checkpoints: see that the shared folder is healthy"
        )
        self.step.scale_learning_rate(2.0**-rollbacks)
        self.history.used, self.history.rollbacks = used, rollbacks
        self.checkpoints.save()
        if self._says:
            report(str(diverged))
            report(f"going back to step {start:,}, on at half the learning rate")
        return start

    def _evaluate(self, split):
        """Return accuracy and loss, each worker having evaluated its share."""
        self.model.set_weights(self.step.weights())
        worker, workers = self._replicas.worker, self._replicas.workers
        share = split.take(np.arange(worker, len(split), workers))
        sums = [0.0, 0.0]
        if len(share):
            try:
                result = evaluate(self._classifier, share)
                sums = [result.accuracy * len(share), result.loss * len(share)]
            except NotFinite:  # for all workers to hear of
                sums = [0.0, math.nan]
        return [value / len(split) for value in self._replicas.all_reduce_sum(sums)]

    def _publish(self):
        used, energy = self.history.used, self._read
        measured = {
            "replicas": self._replicas.num_replicas,
            **used,
            "rollbacks": self.history.rollbacks,
            "energy_measured": energy.measured,
            "co2_of": energy.place,
            "images_per_second": self._steps * self._recipe.batch_size / used["seconds"],
            "input_share": self._progress.input_share,
            "step_seconds": self._progress.step_seconds,
            "peak_memory_bytes": peak_memory(),
        }
        self._meter.stop()
        if self._replicas.is_chief:
            self.model.set_weights(self.step.weights())
            best = self.checkpoints.best
            publish(self._folder, self.model, best, self._recipe, self._dataset, self.history, measured)
