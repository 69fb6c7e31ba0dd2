"""A progress bar for Keras's fit."""

import time

import keras

from keras_convmixer.console import progress_bar


class FitProgress(keras.callbacks.Callback):
    """Show steps done, time left, images/s, loss and accuracy while `fit` runs; measure the whole fit.

    Enter `bar` around the fit. After it `seconds` holds how long it took, validation included.
    """

    def __init__(self, batch_size: int, visible: bool):
        super().__init__()
        self.batch_size = batch_size
        self.bar = progress_bar(visible)

    def on_train_begin(self, logs=None):
        self.started = time.monotonic()
        self.task = self.bar.add_task("training", total=self.params["epochs"] * self.params["steps"], detail="")

    def on_epoch_begin(self, epoch, logs=None):
        self.bar.update(self.task, description=f"epoch {epoch + 1}/{self.params['epochs']}")

    def on_train_batch_end(self, batch, logs=None):
        done = self.bar.tasks[0].completed + 1
        rate = done * self.batch_size / (time.monotonic() - self.started)
        detail = f"{rate:,.0f} images/s, loss {logs['loss']:.3f}, accuracy {logs['accuracy']:.1%}"
        self.bar.update(self.task, advance=1, detail=detail)

    def on_train_end(self, logs=None):
        self.seconds = time.monotonic() - self.started
