"""Learning-rate schedules."""

import math

import keras
from keras import ops

WARMUP = 0.05
"""Fraction of the steps in which `Cosine` rises."""


class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Rise from 0 to the peak at 40 % of the steps, fall to a twentieth at 80 %, to 0 at the end.

    Source: `lr_schedule` in train.py of locuslab/convmixer-cifar10, there by fractions of epochs.
    """

    def __init__(self, peak: float, steps: int):
        self.peak = peak
        self.steps = steps

    def __call__(self, step):
        done = ops.cast(step, "float32") / self.steps
        rise = done / 0.4
        fall = 1 - (done - 0.4) / 0.4 * (1 - 1 / 20)
        end = (1 - done) / 0.2 / 20  # from a twentieth at 80 % to 0
        return self.peak * ops.where(done < 0.4, rise, ops.where(done < 0.8, fall, ops.maximum(end, 0.0)))

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rise from 0 to the peak over the first 5 % of the steps, then fall to 0 as half a cosine."""

    def __init__(self, peak: float, steps: int):
        self.peak = peak
        self.steps = steps

    def __call__(self, step):
        done = ops.cast(step, "float32") / self.steps
        fall = (1 + ops.cos(math.pi * ops.clip((done - WARMUP) / (1 - WARMUP), 0, 1))) / 2
        return self.peak * ops.minimum(done / WARMUP, fall)

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}


class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule multiplied by a variable, with which a rollback halves the learning rate."""

    def __init__(self, schedule, factor):
        self.schedule = schedule
        self.factor = factor

    def __call__(self, step):
        return self.schedule(step) * ops.convert_to_tensor(self.factor)

    def get_config(self):
        return {"schedule": self.schedule, "factor": float(self.factor)}


SCHEDULES = {"piecewise_linear": PiecewiseLinear, "cosine": Cosine}
"""Schedules by the names that recipes use."""
