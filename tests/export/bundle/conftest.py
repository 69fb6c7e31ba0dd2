"""Where a failing export must leave things as they were."""

import shutil

import pytest
from bundles import files_of


@pytest.fixture
def former(toy_bundle, tmp_path):
    """A bundle that is there before; whatever fails must leave it, and nothing else beside it."""
    out = shutil.copytree(toy_bundle, tmp_path / "bundle")
    before = files_of(out)
    yield out
    assert files_of(out) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


@pytest.fixture
def no_former(tmp_path):
    """A folder with no bundle; whatever fails must leave none."""
    yield tmp_path / "bundle"
    assert list(tmp_path.iterdir()) == []
