"""A type checker sees every public name: right calls pass, wrong ones are reported."""

from pathlib import Path

import pytest
from type_checker import reported

import keras_convmixer as kc

ROOT = Path(__file__).parents[2]
RIGHT, WRONG = (Path(__file__).with_name(name) for name in ("public_calls.py", "wrong_calls.py"))


@pytest.mark.slow
def test_right_calls_pass_and_each_wrong_one_is_reported():
    found = reported(RIGHT, WRONG, folder=ROOT)
    assert [error for error in found if error[0] == RIGHT.name] == []
    wrong = {number for number, line in enumerate(WRONG.read_text().splitlines(), 1) if line.endswith("# wrong")}
    assert len(wrong) == 10
    assert {line for name, line, _ in found if name == WRONG.name} == wrong


def test_every_public_name_is_called():
    text = RIGHT.read_text()
    for package, prefix in ((kc, "kc"), (kc.training, "kc.training"), (kc.export, "kc.export")):
        assert [name for name in package.__all__ if f"{prefix}.{name}" not in text] == []
