import numpy as np

from keras_convmixer.training.step.schedule import PiecewiseLinear


def test_equals_the_references_interpolation():
    steps, peak = 250, 0.05
    schedule = PiecewiseLinear(peak, steps)
    # train.py of locuslab/convmixer-cifar10: np.interp([t], [0, epochs*2//5, epochs*4//5, epochs], [0, lr, lr/20.0, 0])
    expected = np.interp(np.arange(steps + 1), [0, steps * 2 / 5, steps * 4 / 5, steps], [0, peak, peak / 20, 0])
    actual = [float(schedule(step)) for step in range(steps + 1)]
    np.testing.assert_allclose(actual, expected, atol=1e-7)


def test_stays_at_zero_after_the_end():
    assert float(PiecewiseLinear(1.0, 10)(15)) == 0
