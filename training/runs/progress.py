"""What a person sees while a model trains."""

import time

from keras_convmixer.console import progress_bar


class TrainingProgress:
    """A bar with time left, images/s, loss, accuracy and learning rate; a line for each epoch.

    Enter `bar` around the training.
    """

    def __init__(self, recipe, steps_per_epoch: int, visible: bool):
        self._recipe, self._steps_per_epoch = recipe, steps_per_epoch
        self._visible = visible
        self.bar = progress_bar(visible)
        self._waited = self._trained = 0.0
        self._steps = 0
        self._task = None

    @property
    def input_share(self) -> float | None:
        """Share of the time, 0..1, in which training waited for images; None where several steps are one call."""
        return self._waited / self._trained if self._trained and self._waited else None

    @property
    def step_seconds(self) -> dict[str, float] | None:
        """Of a step: time waiting for images and time computing, means; None as above."""
        if not (self._steps and self._waited):
            return None
        return {"input": self._waited / self._steps, "compute": (self._trained - self._waited) / self._steps}

    def begin(self, step: int) -> None:
        """Start at a step."""
        total = self._recipe.epochs * self._steps_per_epoch
        if self._task is not None:
            self.bar.remove_task(self._task)
        self._task = self.bar.add_task(self._name(step), total=total, completed=step, detail="")
        self._last = time.monotonic()

    def advance(self, steps: int, waited: float, loss: float, accuracy: float, learning_rate: float) -> None:
        """Count steps, of which `waited` seconds went into waiting for images."""
        now = time.monotonic()
        rate = steps * self._recipe.batch_size / (now - self._last)
        self._trained += now - self._last
        self._waited += waited
        self._steps += steps
        self._last = now
        detail = f"{rate:,.0f} images/s, loss {loss:.3f}, accuracy {accuracy:.1%}, learning rate {learning_rate:.2g}"
        self.bar.update(self._task, advance=steps, detail=detail)

    def epoch_done(self, measured: dict) -> None:
        """Print an epoch's line."""
        if self._visible:
            self.bar.console.print(
                f"epoch {measured['epoch'] + 1}/{self._recipe.epochs}: loss {measured['loss']:.3f}, "
                f"accuracy {measured['accuracy']:.1%}, validation loss {measured['val_loss']:.3f}, "
                f"validation accuracy {measured['val_accuracy']:.1%}",
                highlight=False,
                soft_wrap=True,
            )
        self.bar.update(self._task, description=self._name((measured["epoch"] + 1) * self._steps_per_epoch))
        self._last = time.monotonic()

    def _name(self, step):
        return f"epoch {min(step // self._steps_per_epoch + 1, self._recipe.epochs)}/{self._recipe.epochs}"
