import json
import os
import subprocess
import sys
import time

import pytest
import requests

from keras_convmixer.training import trainer as loop
from keras_convmixer.training.recipes import RECIPES
from keras_convmixer.training.runs.energy import WORLD, Meter

WORLD_AVERAGE = 0.475
"""kg/kWh. Source: International Energy Agency, Global Energy & CO2 Status Report 2019."""


def test_work_costs_energy(monkeypatch):
    for name in [name for name in os.environ if name.lower().startswith("codecarbon_")]:
        monkeypatch.delenv(name)
    meter = Meter()
    until, first = time.monotonic() + 1.5, meter.read()
    while time.monotonic() < until:
        pass
    last = meter.stop()
    used = last.kilowatt_hours - first.kilowatt_hours
    # A second and a half at 1 to 500 W.
    assert 1.5 / 3.6e6 < used < 500 * 10 / 3.6e6
    assert 0 < last.kilograms_co2 < used * 2 + first.kilograms_co2  # of 1 kWh, at most that of brown coal
    assert last.place == WORLD


def used_where(answer, monkeypatch):
    def get(url, **kwargs):
        if answer is None or "geo" not in url:
            raise requests.ConnectionError
        response = requests.Response()
        response.json = lambda **_: answer
        return response

    monkeypatch.setattr(requests, "get", get)
    meter = Meter(look_up_country=True)
    time.sleep(0.1)
    return meter.stop()


def test_without_an_answer_the_co2_is_the_worlds_average(monkeypatch):
    used = used_where(None, monkeypatch)
    assert used.place == WORLD
    assert used.kilograms_co2 == pytest.approx(used.kilowatt_hours * WORLD_AVERAGE)


def test_with_an_answer_the_co2_is_the_countrys(monkeypatch):
    poland = {"region": "Mazovia", "country_code3": "POL", "country": "Poland", "country_code": "PL"}
    used = used_where(poland | {"latitude": "52.2", "longitude": "21.0"}, monkeypatch)
    assert used.place == "Poland"
    assert used.kilograms_co2 > used.kilowatt_hours * 0.5  # more than half of it is of coal


MEASURE = """
import json, socket, sys, time
asked = []

def refuse(place, *_, **__):
    asked.append(str(place))
    raise OSError("no network here")

socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
socket.socket.connect = socket.socket.connect_ex = lambda self, place: refuse(place)
from keras_convmixer.training.runs.energy import Meter

meter = Meter(**json.loads(sys.argv[1]))
time.sleep(0.1)
meter.read()
used = meter.stop()
print(json.dumps([used.place, used.kilograms_co2 / used.kilowatt_hours, asked]))
"""


def measured(folder, monkeypatch, arguments=None, **named):
    """Place, kg of CO2 for a kWh and the hosts asked, of a process that starts in a folder of its own."""
    for name, value in named.items():
        monkeypatch.setenv(f"CODECARBON_{name.upper()}", value)
    command = [sys.executable, "-c", MEASURE, json.dumps(arguments or {})]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_no_other_host_is_asked_where_this_is(tmp_path, monkeypatch):
    assert measured(tmp_path, monkeypatch) == [WORLD, pytest.approx(WORLD_AVERAGE), []]


@pytest.mark.parametrize("arguments", [{}, {"look_up_country": True}])
def test_a_country_that_is_named_is_taken_without_asking(tmp_path, monkeypatch, arguments):
    place, intensity, asked = measured(tmp_path, monkeypatch, arguments, country_iso_code="FRA")
    assert (place, asked) == ("France", [])
    assert intensity < 0.1  # mostly nuclear


def test_a_country_in_codecarbons_file_is_taken(tmp_path, monkeypatch):
    (tmp_path / ".codecarbon.config").write_text("[codecarbon]\ncountry_iso_code=POL\n")
    place, intensity, asked = measured(tmp_path, monkeypatch)
    assert (place, asked) == ("Poland", [])
    assert intensity > 0.5


def test_hosts_are_asked_when_that_is_wanted(tmp_path, monkeypatch):
    place, _, asked = measured(tmp_path, monkeypatch, {"look_up_country": True})
    assert place == WORLD
    assert any("geojs" in host for host in asked)


def test_training_passes_the_wish_on(tmp_path, monkeypatch):
    class Made(Exception):
        pass

    def meter(look_up_country):
        raise Made(look_up_country)

    monkeypatch.setattr(loop, "Meter", meter)
    for asked in (False, True):
        with pytest.raises(Made, match=str(asked)):
            loop.train(RECIPES["digits"], tmp_path / str(asked), verbose=False, look_up_country=asked)


def test_the_command_passes_the_wish_on(monkeypatch):
    from keras_convmixer import training
    from keras_convmixer.commands.training import train

    given = []
    monkeypatch.setattr(training, "train", lambda *_, **named: given.append(named["look_up_country"]))
    train(RECIPES["digits"], verbose=True)
    train(RECIPES["digits"], verbose=True, look_up_country=True)
    assert given == [False, True]
