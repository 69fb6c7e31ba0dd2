import time

import pytest
import requests

from keras_convmixer.training.energy import WORLD, Meter


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


def used_where(answer, monkeypatch):
    def get(url, **kwargs):
        if answer is None or "geo" not in url:
            raise requests.ConnectionError
        response = requests.Response()
        response.json = lambda **_: answer
        return response

    monkeypatch.setattr(requests, "get", get)
    meter = Meter()
    time.sleep(0.1)
    return meter.stop()


def test_without_network_the_co2_is_the_worlds_average(monkeypatch):
    used = used_where(None, monkeypatch)
    assert used.place == WORLD
    # Source: International Energy Agency, Global Energy & CO2 Status Report 2019: 475 g/kWh.
    assert used.kilograms_co2 == pytest.approx(used.kilowatt_hours * 0.475)


def test_with_network_the_co2_is_the_countrys(monkeypatch):
    poland = {"region": "Mazovia", "country_code3": "POL", "country": "Poland", "country_code": "PL"}
    used = used_where(poland | {"latitude": "52.2", "longitude": "21.0"}, monkeypatch)
    assert used.place == "Poland"
    assert used.kilograms_co2 > used.kilowatt_hours * 0.5  # more than half of it is of coal
