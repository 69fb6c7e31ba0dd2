"""Fixtures of the export tests."""

import pytest
from mediapipe_peer import mediapipe  # noqa: F401

from keras_convmixer.export import formats


@pytest.fixture(scope="session")
def all_formats(toy, once):
    """A bundle of the toy model with every format that is converted."""
    names = tuple(name for name, format in formats.FORMATS.items() if format.convert)
    return once("all_formats", lambda folder: toy.republish(folder / "bundle", formats=names)) / "bundle"
