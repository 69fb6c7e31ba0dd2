import json
import shutil

import pytest
from PIL import Image
from processes import convmixer

from keras_convmixer.export import benchmark, read_manifest


@pytest.mark.slow
def test_every_file_and_thread_count_is_measured(toy_bundle):
    said = []
    timings = benchmark(toy_bundle, threads=(1, 2), seconds=0.03, done=said.append)
    names = ("float32", "float16", "dynamic", "int8")
    assert [(timing.name, timing.threads) for timing in timings] == [(n, t) for n in names for t in (1, 2)]
    assert len(said) == 3 * len(timings)
    for timing in timings:
        assert 0 < timing.median <= timing.p90 < timing.cold_start
        assert timing.size == (toy_bundle / f"litert/{timing.name}.tflite").stat().st_size
        assert 100_000 < timing.peak_memory < 200e6
        assert timing.images >= 15


def test_a_changed_file_is_not_timed(toy_bundle, tmp_path):
    shutil.copytree(toy_bundle, tmp_path / "bundle")
    with (tmp_path / "bundle/litert/float32.tflite").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"float32.tflite was changed"):
        benchmark(tmp_path / "bundle", seconds=0.01)


@pytest.mark.slow
def test_the_command(toy_bundle, tmp_path):
    figure = tmp_path / "speed.png"
    arguments = ["benchmark", toy_bundle, "--threads", "1", "--seconds", "0.03"]
    process = convmixer(*arguments, "--figure", figure, blocked=("tensorflow", "keras"))
    assert process.returncode == 0, process.stderr
    assert "median ms" in process.stdout
    assert Image.open(figure).format == "PNG"
    (first, *_) = json.loads(convmixer(*arguments, "--json").stdout)
    assert first["name"] == read_manifest(toy_bundle)["artifacts"][1]["name"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--threads", "0"], "--threads 0"), (["--seconds", "0"], "give more than 0"), (["--figure", "a.jpg"], ".png")],
)
def test_wrong_arguments(toy_bundle, arguments, words):
    process = convmixer("benchmark", toy_bundle, *arguments)
    assert process.returncode == 2
    assert words in process.stderr
    assert convmixer("benchmark", toy_bundle.parent / "none").returncode == 1
