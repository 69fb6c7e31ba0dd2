"""How far `convmixer plan` is off here: a measured step of some sizes beside the planned one.

`python benchmarks/plan.py`, on a machine that does nothing else.
"""

import dataclasses
import time

import numpy as np
import tensorflow as tf

from keras_convmixer.console import print_table
from keras_convmixer.training import RECIPES
from keras_convmixer.training.layers import trainable
from keras_convmixer.training.loop import _build
from keras_convmixer.training.plan import plan
from keras_convmixer.training.step import Step
from keras_convmixer.training.strategy import choose

SIZES = ((64, 4, 5, 2), (128, 8, 5, 2), (256, 8, 5, 2), (128, 4, 9, 1), (256, 4, 7, 2))
"""Channels, layers, kernel size, patch size."""
BATCH, STEPS = 64, 9


def measured(recipe) -> float:
    """Return a step's seconds, the median of some."""
    step = Step(trainable(_build(recipe, 10, classifier_activation=None), 1), recipe, choose("one_device"), 100)
    batch = tf.zeros((BATCH, 32, 32, 3)), tf.one_hot(np.zeros(BATCH, int), 10)
    step.run(batch)
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        step.run(batch).numpy()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def main() -> None:
    """Measure and print."""
    rows = []
    for dim, depth, kernel_size, patch_size in SIZES:
        sizes = {"dim": dim, "depth": depth, "kernel_size": kernel_size, "patch_size": patch_size}
        recipe = dataclasses.replace(RECIPES["cifar10"], batch_size=BATCH, **sizes)
        planned, found = sum(plan(recipe, 49_000, 10).step_seconds.values()), measured(recipe)
        name = f"{dim}/{depth}, {kernel_size}x{kernel_size} kernels, patches of {patch_size}"
        rows.append((name, f"{planned:.3f}", f"{found:.3f}", f"{planned / found:.2f}"))
    print_table(f"A step of {BATCH} images", ("model", "planned s", "measured s", "ratio"), rows)


if __name__ == "__main__":
    main()
