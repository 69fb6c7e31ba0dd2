"""Two copies of the package on one machine: a checkout that Python runs in, and the one that is installed."""

import shutil
from pathlib import Path

import pytest
from processes import run_python

ROOT = Path(__file__).parents[2]
PACKAGES = ("training", "export", "commands")


@pytest.fixture
def library_alone(tmp_path):
    """A copy of keras_convmixer/ without its links to the folders beside it, as unpacked where links are not known."""
    skipped = shutil.ignore_patterns("__pycache__", *PACKAGES)
    shutil.copytree(ROOT / "keras_convmixer", tmp_path / "keras_convmixer", symlinks=True, ignore=skipped)
    return tmp_path


@pytest.mark.parametrize("package", PACKAGES)
def test_an_import_that_would_mix_two_copies_says_so(library_alone, package):
    process = run_python(f"import keras_convmixer.{package}", check=False, cwd=library_alone)
    assert process.stderr.strip().splitlines()[-1] == (
        f"ImportError: keras_convmixer is imported from {library_alone / 'keras_convmixer'} and "
        f"keras_convmixer.{package} from {ROOT / package}, which are two copies of the package: run Python in another "
        f"folder than {library_alone}, or install that copy (pip install --editable {library_alone})"
    )


def test_a_checkout_that_is_not_installed_imports_its_own_folders(library_alone):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, library_alone / package, ignore=shutil.ignore_patterns("__pycache__"))
        (library_alone / "keras_convmixer" / package).symlink_to(f"../{package}")
        found = run_python(f"import keras_convmixer.{package} as package; print(package.__file__)", cwd=library_alone)
        assert Path(found.stdout.strip()).resolve().parent == library_alone / package


@pytest.mark.parametrize("package", PACKAGES)
def test_the_library_has_a_link_to_each_folder_beside_it(package):
    assert (ROOT / "keras_convmixer" / package).readlink() == Path("..", package)
