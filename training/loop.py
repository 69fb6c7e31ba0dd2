"""Training by a recipe: from images to a run folder, on whatever devices there are, and on again after a stop."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
import shutil
import signal
import sys
import time
import zlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_convmixer.atomic import atomic_file, explaining_full_disk, require_folder_name
from keras_convmixer.backend import require_tensorflow
from keras_convmixer.console import progress_bar
from keras_convmixer.convmixer import ConvMixer
from keras_convmixer.images import Preprocessing

from . import figures
from .checkpoints import Checkpoints, History
from .data import Dataset, load_dataset
from .energy import Meter
from .evaluation import evaluate
from .input import distributed_batches
from .launch import STOPPED, beat
from .layers import trainable
from .progress import TrainingProgress
from .recipe import Recipe
from .step import Step
from .strategy import Name, Replicas, choose

DIVERGED = 4.0
"""How many times the first step's loss an epoch's mean may be, before the run counts as diverged."""


class Stopped(RuntimeError):
    """Training was asked to stop, saved a checkpoint and can be resumed."""

    exit_code = STOPPED


def train(
    recipe: Recipe,
    run: Path,
    overwrite: bool = False,
    strategy: Name = "auto",
    checkpoint_minutes: float = 10.0,
    steps_per_call: int | None = None,
    verbose: bool = True,
) -> dict:
    """Train a model by a recipe; write the run folder and return its summary.

    The folder then holds recipe.json, labels.txt, model.keras (takes pixels 0..255, loads with plain Keras),
    metrics.csv, curves.png, confusion.png, predictions.png, summary.json, checkpoints/ and tensorboard/. Test images
    are used once, at the end. Where checkpoints of the same recipe are there and the run did not end, it goes on from
    the last one, on CPUs to the same weights bit by bit. With several workers all call this, and worker 0 writes.

    Args:
        recipe: what to train.
        run: folder to write.
        overwrite: train again although the folder holds a trained model, or was begun with another recipe.
        strategy: see `strategy.choose`.
        checkpoint_minutes: time between checkpoints; each epoch's end is one too.
        steps_per_call: steps that TensorFlow runs before it returns to Python; by default 20 on GPUs and TPUs, 1 on
            CPUs.
        verbose: show progress.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        FileExistsError: `run` holds a model already, or one of another recipe was begun there, and `overwrite` is
            False; or it is a file.
        FloatingPointError: the loss became NaN or infinite, or grew far beyond the first step's.
        ValueError: the data set does not exist, a value of the recipe is not allowed, a batch cannot be divided
            among the replicas, or two workers have different recipes.
        Stopped: SIGTERM came; a checkpoint was saved.
    """
    run = Path(run)
    require_tensorflow("training")
    require_folder_name(run)
    if Path(recipe.dataset).is_dir() and recipe.dataset != "digits":  # found again from wherever
        recipe = dataclasses.replace(recipe, dataset=str(Path(recipe.dataset).resolve()))
    replicas = choose(strategy)
    goes_on = _goes_on(run, recipe, overwrite)
    _check_batch(recipe, replicas)
    preprocessing = Preprocessing(recipe.image_size, recipe.image_size, crop_fraction=recipe.crop_fraction)
    with progress_bar(verbose) as progress:
        dataset = load_dataset(
            recipe.dataset, preprocessing, progress=progress, data_dir=recipe.data_dir, crops=recipe.crops
        )
    if len(dataset.train) < recipe.batch_size:
        raise ValueError(
            f"batch_size={recipe.batch_size} is more than the {len(dataset.train)} training images: give less"
        )
    keras.utils.set_random_seed(recipe.seed)
    model = _build(recipe, len(dataset.class_names))
    if recipe.weights:
        model.set_weights(_build(recipe, len(dataset.class_names), weights=recipe.weights).get_weights())
    if replicas.is_chief:
        _begin(run, recipe, goes_on)
        _name_damaged(dataset.damaged, run / "damaged.txt", verbose)
    if replicas.workers > 1:
        _check_same_recipe(recipe, replicas)  # and so wait for the chief
    _Run(model, run, recipe, dataset, replicas, checkpoint_minutes, steps_per_call, verbose).train()
    if not replicas.is_chief:
        return {}
    return json.loads((run / "summary.json").read_text())


def _goes_on(run, recipe, overwrite) -> bool:
    """Tell whether an unfinished run of this recipe is in a folder; raise where the folder is not to be written to."""
    begun = run / "checkpoints/recipe.json"
    ended = (run / "checkpoints/ended").exists() or not begun.exists()
    if (run / "model.keras").exists() and ended and not overwrite:
        raise FileExistsError(
            f"{run} holds a trained model already: pass --overwrite to train again, or another --name"
        )
    former = {} if ended else json.loads(begun.read_text())
    changed = [f"{k}={former.get(k)!r}" for k, v in dataclasses.asdict(recipe).items() if former.get(k) != v]
    if not ended and changed and not overwrite:
        raise FileExistsError(
            f"{run} was begun with {', '.join(changed)}: pass --overwrite to begin again, or another --name"
        )
    return not ended and not changed


def _begin(run, recipe, goes_on):
    """Make the folder of checkpoints, empty unless a run goes on in it."""
    checkpoints = run / "checkpoints"
    if not goes_on:
        shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True, exist_ok=True)
    for partial in checkpoints.glob("*_temp"):  # what a process that was killed in writing left
        shutil.rmtree(partial, ignore_errors=True)
    for partial in checkpoints.glob("checkpoint.tmp*"):
        partial.unlink()
    with explaining_full_disk(run), atomic_file(checkpoints / "recipe.json") as partial:
        partial.write_text(json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")


def _name_damaged(damaged, file, verbose):
    file.unlink(missing_ok=True)
    if damaged:
        with explaining_full_disk(file), atomic_file(file) as partial:
            partial.write_text("\n".join(damaged) + "\n")
        if verbose:
            which = "1 picture is" if len(damaged) == 1 else f"{len(damaged)} pictures are"
            print(f"{which} damaged and left out, see {file}", file=sys.stderr)


def _check_batch(recipe: Recipe, replicas: Replicas):
    parts = replicas.count * recipe.accumulation
    if recipe.batch_size % parts:
        of_each = f" in {recipe.accumulation} parts" if recipe.accumulation > 1 else ""
        raise ValueError(
            f"batch_size={recipe.batch_size} cannot be divided among {replicas.count} replicas{of_each}: give a "
            f"multiple of {parts}, as {max(1, round(recipe.batch_size / parts)) * parts}"
        )
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size // parts % 2:
        raise ValueError(
            f"batch_size={recipe.batch_size} is {recipe.batch_size // parts} images at once on each of "
            f"{replicas.count} replicas, and mixup and cutmix need pairs: give a multiple of {2 * parts}"
        )


def _check_same_recipe(recipe, replicas):
    number = zlib.crc32(json.dumps(dataclasses.asdict(recipe), sort_keys=True).encode())
    if _differs(replicas, number):
        raise ValueError("the workers were started with different recipes: give all the same options")


def _differs(replicas, number: int) -> bool:
    """Tell whether a whole number of under 2**32 is not the same on every worker."""
    return abs(_sum_over_workers(replicas, [float(number)])[0] - number * replicas.workers) > 0.5


def _sum_over_workers(replicas, values: list[float]) -> list[float]:
    """Return the sums of numbers of every worker."""
    if replicas.workers == 1:
        return values

    @tf.function
    def summed(numbers):
        def of_replica():
            here = tf.identity(numbers)  # on the replica's device, without which they cannot be summed
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

        return replicas.strategy.experimental_local_results(replicas.strategy.run(of_replica))[0]

    return [float(value) for value in summed(tf.constant(values, tf.float64) / replicas.here)]


class _Run:
    """A run in progress."""

    def __init__(self, model, folder, recipe, dataset: Dataset, replicas: Replicas, minutes, steps_per_call, verbose):
        self._folder, self._recipe, self._dataset, self._replicas = folder, recipe, dataset, replicas
        self._verbose = verbose
        self._classes = len(dataset.class_names)
        self._steps_per_epoch = len(dataset.train) // recipe.batch_size
        self._steps = self._steps_per_epoch * recipe.epochs
        accelerated = bool(tf.config.list_logical_devices("GPU")) or replicas.name == "tpu"
        self._steps_per_call = steps_per_call or (20 if accelerated else 1)
        precision = recipe.precision
        if precision == "auto":
            precision = _fastest_precision() if accelerated else "float32"
        self.model = model  # what is evaluated and saved
        with replicas.strategy.scope():
            trained = trainable(_build(recipe, self._classes, precision, classifier_activation=None), replicas.count)
            trained.set_weights(self.model.get_weights())
        self.step = Step(trained, recipe, replicas, self._steps)
        self.history = History()
        self.checkpoints = Checkpoints(
            folder / "checkpoints", self.step, self.history, replicas.is_chief, minutes=minutes
        )
        self._progress = TrainingProgress(recipe, self._steps_per_epoch, verbose and replicas.is_chief)
        self._meter = Meter()
        self._read = self._meter.read()

    def train(self):
        start, says = self.checkpoints.restore(), self._verbose and self._replicas.is_chief
        if _differs(self._replicas, start):
            raise ValueError("the workers do not see the same checkpoints: give --runs a folder that all of them share")
        if says:
            print(self._replicas.described(self._recipe.batch_size), file=sys.stderr)
        if start and says:
            print(f"resuming at step {start:,} of {self._steps:,}", file=sys.stderr)
        with self._progress.bar, _stopping_on_sigterm(self.step):
            batches = distributed_batches(
                self._dataset.train, self._classes, self._recipe, self._replicas, start, self._steps
            )
            self._progress.begin(start)
            while len(self.history.epochs) < self._recipe.epochs:
                self._epoch(batches)
        self._publish()

    def _epoch(self, batches):
        number = len(self.history.epochs) + 1
        end = number * self._steps_per_epoch
        started = time.monotonic()
        while (step := self.step.number) < end:
            count = min(self._steps_per_call, end - step)
            waited = time.monotonic()
            if count == 1:
                batch = next(batches)
                waited = time.monotonic() - waited
                results = self.step.run(batch)
            else:
                results, waited = self.step.run_several(batches, tf.constant(count)), 0.0
            loss, accuracy, norm, stop = (float(value) for value in results)
            beat()
            self._check(loss, norm, step + count)
            self.history.add(count, loss, accuracy)
            self._progress.advance(count, waited, loss, accuracy, self.step.learning_rate)
            if stop:
                self._count(started)
                self.checkpoints.save()
                _sum_over_workers(self._replicas, [0.0])  # nobody leaves, and has others killed, before it is saved
                raise Stopped(f"stopped at step {self.step.number:,} of {self._steps:,}: the same command goes on")
            if self.checkpoints.due:
                started = self._count(started)
                self.checkpoints.save()
        self._count(started)
        loss, accuracy = (total / self._steps_per_epoch for total in self.history.sums)
        if loss > DIVERGED * self.history.first_loss:  # before a checkpoint says that this epoch is over
            raise self._divergence(f"the loss grew from {self.history.first_loss:.3g} to {loss:.3g}", end)
        validation = self._evaluate(self._dataset.validation)
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
        self._progress.epoch_done(self.history.epochs[-1])
        self._log_for_tensorboard(number * self._steps_per_epoch)
        self.checkpoints.save()

    def _log_for_tensorboard(self, step):
        if self._replicas.is_chief:
            with tf.summary.create_file_writer(str(self._folder / "tensorboard")).as_default(step):
                for name, value in self.history.epochs[-1].items():
                    tf.summary.scalar(name, value)

    def _count(self, started):
        """Add what was used since the last time; return the time of now."""
        before, self._read = self._read, self._meter.read()
        energy = [now - then for now, then in zip(self._read[:2], before[:2], strict=True)]
        energy = _sum_over_workers(self._replicas, energy)
        used = (time.monotonic() - started, *energy)
        for name, amount in zip(self.history.used, used, strict=True):
            self.history.used[name] += amount
        return time.monotonic()

    def _check(self, loss, norm, step):
        if not math.isfinite(loss):
            raise self._divergence(f"the loss became {loss}", step)
        if not math.isfinite(norm) and not self.step.leaves_out_overflows:
            raise self._divergence(f"the gradients' norm became {norm}", step)

    def _divergence(self, what, step):
        last = self._folder / "checkpoints"
        saved = f"the last checkpoint is in {last}" if any(last.glob("*.index")) else "no checkpoint was saved"
        return FloatingPointError(
            f"{what} at step {step:,}, at a learning rate of {self.step.learning_rate:.3g}: lower --learning-rate "
            f"and begin again with --overwrite; {saved}"
        )

    def _evaluate(self, split):
        """Return accuracy and loss, each worker having evaluated its share."""
        self.model.set_weights(self.step.weights())
        worker, workers = self._replicas.worker, self._replicas.workers
        share = split.take(np.arange(worker, len(split), workers))
        if len(share):
            result = evaluate(self.model, share)
            sums = [result.accuracy * len(share), result.loss * len(share)]
        else:
            sums = [0.0, 0.0]
        return [value / len(split) for value in _sum_over_workers(self._replicas, sums)]

    def _publish(self):
        """Write what the run folder holds; the model, which says that it is done, last."""
        if not self._replicas.is_chief:
            return
        partial = self._folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            with explaining_full_disk(self._folder):
                self._write(partial)
            # Not one step, as the folder may hold more than a run: between these, it holds no model.
            (self._folder / "model.keras").unlink(missing_ok=True)
            for file in sorted(partial.iterdir(), key=lambda file: file.name == "model.keras"):
                file.replace(self._folder / file.name)
            (self._folder / "checkpoints/ended").touch()
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write(self, folder):
        recipe, dataset, epochs = self._recipe, self._dataset, self.history.epochs
        self.model.set_weights(self.step.weights())
        self.model.save(folder / "model.keras")
        evaluation = evaluate(self.model, dataset.test)
        used = self.history.used
        summary = {
            "test_accuracy": evaluation.accuracy,
            "test_loss": evaluation.loss,
            "test_images": len(dataset.test),
            "validation_accuracy": epochs[-1]["val_accuracy"],
            "training_images": len(dataset.train),
            "damaged_pictures": len(dataset.damaged),
            "parameters": self.model.count_params(),
            "epochs": recipe.epochs,
            "replicas": self._replicas.count,
            **used,
            "energy_measured": self._read.measured,
            "co2_of": self._read.place,
            "images_per_second": self._steps * recipe.batch_size / used["seconds"],
            "input_share": self._progress.input_share,
        }
        for name, content in (("recipe.json", dataclasses.asdict(recipe)), ("summary.json", summary)):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        (folder / "labels.txt").write_text("\n".join(dataset.class_names) + "\n")
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, epochs[0])
            writer.writeheader()
            writer.writerows(epochs)
        figures.draw_curves({key: [epoch[key] for epoch in epochs] for key in epochs[0]}, folder / "curves.png")
        figures.draw_confusion(evaluation, dataset.class_names, folder / "confusion.png")
        figures.draw_predictions(dataset.test.images, evaluation, dataset.class_names, folder / "predictions.png")


def _build(recipe, classes, precision="float32", **changes):
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return ConvMixer(
            dim=recipe.dim,
            depth=recipe.depth,
            kernel_size=recipe.kernel_size,
            patch_size=recipe.patch_size,
            activation=recipe.activation,
            include_preprocessing=True,
            input_shape=(recipe.image_size, recipe.image_size, 3),
            classes=classes,
            **changes,
        )
    finally:
        keras.config.set_dtype_policy(former)


def _fastest_precision():
    """Return mixed_bfloat16, or mixed_float16 on GPUs before Ampere, whose matrix units have no bfloat16."""
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    old = any(detail.get("compute_capability", (8, 0)) < (8, 0) for detail in details)
    return "mixed_float16" if old else "mixed_bfloat16"


@contextlib.contextmanager
def _stopping_on_sigterm(step):
    """Let SIGTERM, which clusters send before they take a machine away, stop all workers after the same step."""

    def stop(number, frame):
        step.stop.assign(1.0)

    try:
        former = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
