"""Progress of training on stderr."""

import time
from typing import Any

from keras_convmixer.environment.console import progress_bar


class TrainingProgress:
    """A progress bar with time left, images/s, loss, accuracy and learning rate; a line for each epoch.

    Enter the context `bar` around the training.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, batch_size: int, visible: bool):
        self._epochs, self._steps_per_epoch, self._batch_size = epochs, steps_per_epoch, batch_size
        self._visible = visible
        self.bar = progress_bar(visible)
        self._waited = self._trained = 0.0
        self._steps = 0
        self._task = None

    @property
    def input_share(self) -> float | None:
        """Fraction of the time, 0..1, in which training waited for images; None where several steps are one call."""
        return self._waited / self._trained if self._trained and self._waited else None

    @property
    def step_seconds(self) -> dict[str, float] | None:
        """Mean seconds of a step, divided into waiting for images and computing; None where `input_share` is None."""
        if not (self._steps and self._waited):
            return None
        return {"input": self._waited / self._steps, "compute": (self._trained - self._waited) / self._steps}

    def begin(self, step: int) -> None:
        """Show a bar that starts at a step."""
        total = self._epochs * self._steps_per_epoch
        if self._task is not None:
            self.bar.remove_task(self._task)
        self._task = self.bar.add_task(self._name(step), total=total, completed=step, detail="")
        self._last = time.monotonic()

    def advance(self, steps: int, waited: float, loss: float, accuracy: float, learning_rate: float) -> None:
        """Show the results of `steps` steps, of which `waited` seconds were waiting for images."""
        now = time.monotonic()
        rate = steps * self._batch_size / (now - self._last)
        self._trained += now - self._last
        self._waited += waited
        self._steps += steps
        self._last = now
        detail = f"{rate:,.0f} images/s, loss {loss:.3f}, accuracy {accuracy:.1%}, learning rate {learning_rate:.2g}"
        self.bar.update(self._task, advance=steps, detail=detail)

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        """Print an epoch's line."""
        if self._visible:
            self.bar.console.print(
                f"epoch {metrics['epoch'] + 1}/{self._epochs}: loss {metrics['loss']:.3f}, "
                f"accuracy {metrics['accuracy']:.1%}, validation loss {metrics['val_loss']:.3f}, "
                f"validation accuracy {metrics['val_accuracy']:.1%}",
                highlight=False,
                soft_wrap=True,
            )
        self.bar.update(self._task, description=self._name((metrics["epoch"] + 1) * self._steps_per_epoch))
        self._last = time.monotonic()

    def _name(self, step):
        return f"epoch {min(step // self._steps_per_epoch + 1, self._epochs)}/{self._epochs}"
