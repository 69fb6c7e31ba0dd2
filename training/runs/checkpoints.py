"""A run's checkpoints: all that training needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import tensorflow as tf

from keras_convmixer.files.atomic import explaining_full_disk

from ..step import Step

log = logging.getLogger(__name__)
KEPT = 3
KEPT_FACTS = ("epochs", "sums", "first_loss", "used", "rollbacks")


class History(tf.train.experimental.PythonState):
    """What was measured after each epoch, as a checkpoint keeps it."""

    def __init__(self):
        self.epochs: list[dict] = []
        self.sums = [0.0, 0.0]
        """Of the steps of the epoch that is not over: losses and accuracies."""
        self.first_loss: float | None = None
        self.used = dict.fromkeys(("seconds", "evaluation_seconds", "kilowatt_hours", "kilograms_co2"), 0.0)
        """In all processes that trained one after the other; `seconds` by training alone, energy by all."""
        self.rollbacks = 0
        """How often the run diverged and went back."""

    @property
    def best(self) -> dict:
        """The epoch of the highest validation accuracy; of equal ones, that of the lowest validation loss."""
        return max(self.epochs, key=lambda epoch: (epoch["val_accuracy"], -epoch["val_loss"]))

    def serialize(self) -> str:
        """As JSON."""
        return json.dumps({name: getattr(self, name) for name in KEPT_FACTS})

    def deserialize(self, string_value) -> None:
        """Take back what `serialize` returned."""
        for name, value in json.loads(string_value).items():
            setattr(self, name, value)

    def add(self, steps: int, loss: float, accuracy: float) -> None:
        """Count steps of the epoch, with their mean loss and accuracy."""
        if self.first_loss is None:
            self.first_loss = loss
        self.sums = [self.sums[0] + steps * loss, self.sums[1] + steps * accuracy]

    def use(self, seconds: float, what: str, kilowatt_hours: float, kilograms_co2: float) -> None:
        """Count what was used, `what` being seconds or evaluation_seconds."""
        for name, amount in ((what, seconds), ("kilowatt_hours", kilowatt_hours), ("kilograms_co2", kilograms_co2)):
            self.used[name] += amount

    def end_epoch(self, measured: dict) -> None:
        """Keep what was measured of an epoch."""
        self.epochs.append(measured)
        self.sums = [0.0, 0.0]


def drop_damaged_list(folder: Path) -> None:
    """Remove TensorFlow's list of a folder's checkpoints where it cannot be read, which would stop its manager."""
    try:
        readable = tf.train.get_checkpoint_state(str(folder)) is not None
    except (ValueError, tf.errors.OpError):
        readable = False
    if not readable:
        (folder / "checkpoint").unlink(missing_ok=True)


class Checkpoints:
    """The last checkpoints of a run, in a folder.

    Model, optimizer with its step, moving average, the best epoch's weights and history are in them. The order of the
    images and their augmentation are functions of the recipe's seed and the step, and need no state. The chief alone
    writes; a file takes its name when it is whole.
    """

    def __init__(self, folder: Path, step: Step, history: History, writes: bool, minutes: float):
        self._step, self._history, self._writes, self._seconds = step, history, writes, minutes * 60
        with tf.device("CPU:0"):  # nothing computes with them
            self._best = [tf.Variable(value, trainable=False) for value in step.weights()]
        checkpoint = tf.train.Checkpoint(
            model=step.model,
            optimizer=step.optimizer,
            average=step.average,
            best=self._best,
            step=step.counter,
            learning_rate_scale=step.learning_rate_scale,
            history=history,
        )
        self._folder = folder
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=KEPT)
        self._saved = time.monotonic()

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._paths())

    def _paths(self):
        """Return the checkpoints, the last one first: as TensorFlow's list says, or where there is none, by time.

        Not the manager's list, which holds what this process saved.
        """
        files = {str(file.with_suffix("")): file.stat().st_mtime_ns for file in self._folder.glob("ckpt-*.index")}
        state = tf.train.get_checkpoint_state(str(self._folder))
        listed = [str(self._folder / Path(path).name) for path in state.all_model_checkpoint_paths] if state else []
        found = [path for path in reversed(listed) if path in files]
        return found or sorted(files, key=files.get, reverse=True)

    def restore(self, before: int | None = None) -> int:
        """Restore the last checkpoint that is whole; return its step, 0 where there is none.

        With `before`, the last one up to that step, or else the first that is kept. One that is damaged is named in
        the log and passed over for the one before.
        """
        paths = self._paths()
        if before is not None:
            paths = [path for path in paths if int(path.rsplit("-", 1)[1]) <= before] or paths[-1:]
        for path in paths:
            try:
                # Eager: a missing or damaged tensor is an error here, and not later.
                self._manager.checkpoint.restore(path).assert_existing_objects_matched()
            except (tf.errors.OpError, ValueError, AssertionError, IndexError) as error:
                log.warning("checkpoint %s is damaged (%s): going back to the one before", path, _short(error))
                continue
            return self._step.number
        if paths:
            raise ValueError(
                f"every checkpoint in {self._folder} is damaged, or of another version of this package: go on with "
                "that one, or remove the folder to begin again"
            )
        return 0

    @property
    def best(self) -> list:
        """The weights after the best epoch, in the order of the model's."""
        return [variable.numpy() for variable in self._best]

    def keep_if_best(self, weights: list) -> None:
        """Keep the weights of the epoch that is over, to be saved, where none was better."""
        if self._history.best is self._history.epochs[-1]:
            for variable, value in zip(self._best, weights, strict=True):
                variable.assign(value)

    @property
    def due(self) -> bool:
        """Whether the last one is older than it may be."""
        return time.monotonic() - self._saved >= self._seconds

    def save(self) -> None:
        """Save now; a full disk is an OSError that says so, and leaves the former checkpoints."""
        if self._writes:
            with explaining_full_disk(self._folder):
                self._manager.save(checkpoint_number=self._step.number)
        self._saved = time.monotonic()


def _short(error):
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
