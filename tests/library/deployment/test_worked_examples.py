"""The worked examples in deployment's docstrings, which a reader checks by hand, are right."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["pending", "depthwise.geometry", "depthwise.cover", "depthwise.blocks"])
def test_worked_examples(name):
    result = doctest.testmod(importlib.import_module(f"keras_convmixer.deployment.{name}"))
    assert result.attempted >= 3
    assert not result.failed, "see the examples above"
