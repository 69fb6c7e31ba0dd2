"""A run's checkpoints: everything that training needs to continue as if it had never stopped."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_convmixer.files.atomic import explaining_full_disk

from ..step.step import Step

log = logging.getLogger(__name__)
KEPT = 3
"""Number of checkpoints that are kept."""
KEPT_FACTS = ("epochs", "sums", "first_loss", "used", "rollbacks")
"""Attributes of `History` that a checkpoint contains."""


class History(tf.train.experimental.PythonState):
    """Metrics and resources of a run so far, which checkpoints contain."""

    def __init__(self):
        self.epochs: list[dict[str, Any]] = []
        """Metrics of each finished epoch."""
        self.sums = [0.0, 0.0]
        """Sums of loss and accuracy over the steps of the current epoch."""
        self.first_loss: float | None = None
        """Loss of the run's first step."""
        self.used = dict.fromkeys(("seconds", "evaluation_seconds", "kilowatt_hours", "kilograms_co2"), 0.0)
        """Sums over all processes of the run, resumed ones included; `seconds` are of training alone, energy of all."""
        self.rollbacks = 0
        """Number of times that the run diverged and was rolled back."""

    @property
    def best(self) -> dict:
        """The epoch with the highest validation accuracy; among equal ones, with the lowest validation loss."""
        return max(self.epochs, key=lambda epoch: (epoch["val_accuracy"], -epoch["val_loss"]))

    # TensorFlow stores a PythonState as a string in the checkpoint, and calls these two methods for it.
    def serialize(self) -> str:
        """Return the history as JSON."""
        return json.dumps({name: getattr(self, name) for name in KEPT_FACTS})

    def deserialize(self, string_value) -> None:
        """Restore what `serialize` returned."""
        for name, value in json.loads(string_value).items():
            setattr(self, name, value)

    def add(self, steps: int, loss: float, accuracy: float) -> None:
        """Add steps of the current epoch, with their mean loss and accuracy."""
        if self.first_loss is None:
            self.first_loss = loss
        self.sums = [self.sums[0] + steps * loss, self.sums[1] + steps * accuracy]

    def use(self, seconds: float, kind: str, kilowatt_hours: float, kilograms_co2: float) -> None:
        """Add resources that were used; `kind` of the seconds is seconds (training) or evaluation_seconds."""
        for name, amount in ((kind, seconds), ("kilowatt_hours", kilowatt_hours), ("kilograms_co2", kilograms_co2)):
            self.used[name] += amount

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        """Add the metrics of the current epoch, and begin the next."""
        self.epochs.append(metrics)
        self.sums = [0.0, 0.0]


def drop_damaged_list(folder: Path) -> None:
    """Remove TensorFlow's list of a folder's checkpoints if it cannot be read; its manager would fail on it."""
    try:
        readable = tf.train.get_checkpoint_state(str(folder)) is not None
    except (ValueError, tf.errors.OpError):
        readable = False
    if not readable:
        (folder / "checkpoint").unlink(missing_ok=True)


class Checkpoints:
    """The last checkpoints of a run.

    They contain the model, the optimizer with its step, the moving average, the weights of the best epoch, and the
    history. The order of the images and their augmentation are functions of the recipe's seed and the step, and need no
    state. Only the chief writes; a file gets its name when it is complete.
    """

    def __init__(self, folder: Path, step: Step, history: History, writes: bool, minutes: float):
        self._step, self._history, self._writes, self._seconds_between = step, history, writes, minutes * 60
        with tf.device("CPU:0"):  # no computation needs them
            self._best = [tf.Variable(value, trainable=False) for value in step.weights()]
        checkpoint = tf.train.Checkpoint(
            model=step.model,
            optimizer=step.optimizer,
            average=step.average,
            best=self._best,
            step=step.counter,
            learning_rate_scale=step.learning_rate_scale,  # halved by each rollback
            history=history,
        )
        self._folder = folder
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=KEPT)
        self._last_saved = time.monotonic()

    @property
    def any(self) -> bool:
        """Whether there is a checkpoint."""
        return bool(self._paths())

    def _paths(self):
        """Return the paths of the checkpoints, the last one first: as in TensorFlow's list, or without one, by time.

        The manager's own list holds only those that this process saved.
        """
        files = {str(file.with_suffix("")): file.stat().st_mtime_ns for file in self._folder.glob("ckpt-*.index")}
        state = tf.train.get_checkpoint_state(str(self._folder))
        listed = [str(self._folder / Path(path).name) for path in state.all_model_checkpoint_paths] if state else []
        present = [path for path in reversed(listed) if path in files]
        return present or sorted(files, key=files.get, reverse=True)

    def restore(self, before: int | None = None) -> int:
        """Restore the last complete checkpoint; return its step, or 0 without one.

        With `before`, the last checkpoint up to that step, or else the oldest that is kept. A damaged checkpoint is
        named in the log, and the one before it is taken.
        """
        paths = self._paths()
        if before is not None:  # a rollback: later checkpoints already led to divergence
            paths = [path for path in paths if int(path.rsplit("-", 1)[1]) <= before] or paths[-1:]
        for path in paths:
            try:
                # Restored at once: a missing or damaged tensor is an error here, and not when it is first used.
                self._manager.checkpoint.restore(path).assert_existing_objects_matched()
            except (tf.errors.OpError, ValueError, AssertionError, IndexError) as error:
                log.warning("checkpoint %s is damaged (%s): going back to the one before", path, _short(error))
                continue
            return self._step.number
        if paths:
            raise ValueError(
                f"every checkpoint in {self._folder} is damaged, or of another version of this package: continue with "
                "that version, or remove the folder to begin again"
            )
        return 0

    @property
    def best(self) -> list[np.ndarray]:
        """The weights after the best epoch, in the order of the model's."""
        return [variable.numpy() for variable in self._best]

    def keep_if_best(self, weights: list[np.ndarray]) -> None:
        """Keep the weights for `best` if the last finished epoch is the best one."""
        if self._history.best is self._history.epochs[-1]:
            for variable, value in zip(self._best, weights, strict=True):
                variable.assign(value)

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._last_saved >= self._seconds_between

    def save(self) -> None:
        """Save a checkpoint now.

        Raises:
            OSError: the disk is full; earlier checkpoints stay.
        """
        if self._writes:
            with explaining_full_disk(self._folder):
                self._manager.save(checkpoint_number=self._step.number)
        self._last_saved = time.monotonic()


def _short(error):
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
