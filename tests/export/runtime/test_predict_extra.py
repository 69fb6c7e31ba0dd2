"""The extra `predict` of setup.cfg: what it installs is all that the use of exported files imports."""

import configparser
import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from processes import run_python

SETUP = Path(__file__).parents[3] / "setup.cfg"
COMMAND = """
import importlib.machinery, json, sys

hidden, find = set(json.loads(sys.argv.pop(1))), importlib.machinery.PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else find(name, path, target)

importlib.machinery.PathFinder.find_spec = find_spec
from keras_convmixer.__main__ import main

main()
"""
"""The command line where some packages are hidden, as if they had not been installed."""


def installed_by(extra):
    """The distributions that pip installs for the package with an extra, and for what these require in turn."""
    config = configparser.ConfigParser()
    config.read(SETUP)
    lines = (config["options"]["install_requires"] + config["options.extras_require"][extra]).splitlines()
    waiting = [Requirement(line.partition(" #")[0]) for line in lines if line.strip()]
    names = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in names or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        names.add(name)
        waiting += map(Requirement, importlib.metadata.requires(name) or ())
    return names


def modules_outside(names):
    """The importable top-level modules that other distributions than `names` and this package have installed."""
    return [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {"keras-convmixer", *names} & set(map(canonicalize_name, owners))
        and module not in sys.stdlib_module_names
    ]


@pytest.mark.parametrize(
    "arguments",
    ["predict BUNDLE PHOTO", "predict FILE PHOTO", "inspect FILE", "benchmark BUNDLE --threads 1 --seconds 0.1"],
)
def test_the_extra_is_enough_for(arguments, toy_bundle, tmp_path):
    names = installed_by("predict")
    outside = modules_outside(names)
    assert "tensorflow" in outside
    assert {"ai-edge-litert", "numpy", "pillow"} <= names
    places = {"BUNDLE": toy_bundle, "FILE": toy_bundle / "litert/int8.tflite", "PHOTO": tmp_path / "photo.png"}
    Image.new("RGB", (20, 30), (60, 200, 60)).save(places["PHOTO"])
    words = [places.get(word, word) for word in arguments.split()]
    process = run_python(COMMAND, json.dumps(outside), *words, check=False)
    assert process.returncode == 0, process.stderr
