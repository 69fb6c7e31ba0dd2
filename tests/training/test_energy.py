import time

from keras_convmixer.training.energy import Meter


def test_work_costs_energy():
    meter = Meter()
    until, first = time.monotonic() + 1.5, meter.read()
    while time.monotonic() < until:
        pass
    last = meter.stop()
    used = last.kilowatt_hours - first.kilowatt_hours
    # A second and a half at 1 to 500 W.
    assert 1.5 / 3.6e6 < used < 500 * 10 / 3.6e6
    assert 0 < last.kilograms_co2 < used * 2 + first.kilograms_co2  # of 1 kWh, at most that of brown coal
    assert last.place
