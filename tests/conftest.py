"""What several tests need: a toy classifier that trains in a second, and one quickstart for the whole session.

A session's fixtures are made once by each of pytest-xdist's workers; those that cost most, once for all of them.
"""

import dataclasses
import gc
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command line

from processes import convmixer, save_time  # it remembers the environment

# So that a failing assertion in them shows its values, as one in a test does.
pytest.register_assert_rewrite("bundles", "deployed", "figure_layout", "gpu_engine", "image_encodings", "refused")

COLOURS = ("red", "green", "blue")


def pytest_collection_finish():
    """Make small exports and trainings quicker, and leave what was imported to itself."""
    save_time()
    gc.collect()
    gc.freeze()  # what was imported is never garbage; to look through it takes a second each time


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that returns a folder, which `fill(folder)` fills, once for all of pytest-xdist's workers.

    Tests share it, so they leave it as it is.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each worker has a folder of its own in it

    def make(name, fill):
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@dataclass(frozen=True)
class Toy:
    """A model that tells red, green and blue 8x8 images apart, with images it did and did not see."""

    model: object
    train_images: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    formats: dict
    """`export.formats.FORMATS` before any test patched it."""
    once: Callable[[str, Callable[[Path], None]], Path]

    def republish(self, out, **changes):
        """Export with the SavedModel and files of the session's first conversion; do everything else anew.

        For tests of what follows the conversion, which takes most of an export's time. What a change or a patch of
        the test's concerns is converted, as in `export`.
        """
        from keras_convmixer.export import formats
        from keras_convmixer.export.serving import artifact, signatures

        write_serving_model = artifact.write_serving_model

        def saved_model(model, path, *arguments):
            made = self.once("toy_saved_model", lambda folder: write_serving_model(model, folder / "1", *arguments))
            shutil.copytree(made / "1", path)

        def file(name, convert):
            def converted(*arguments):
                made = self.once(f"toy_{name}", lambda folder: (folder / "file").write_bytes(convert(*arguments)))
                return (made / "file").read_bytes()

            return converted

        assert "model" not in changes, "another model has to be converted"
        other_signatures = {"class_names", "crop_fraction"} & set(changes)
        with pytest.MonkeyPatch.context() as patched:
            if write_serving_model is signatures.write_serving_model and not other_signatures:
                patched.setattr(artifact, "write_serving_model", saved_model)
            for name, format in formats.FORMATS.items():
                calibrated_anew = format.calibrated and "calibration_images" in changes
                if format is self.formats.get(name) and format.convert and not calibrated_anew:
                    shared = dataclasses.replace(format, convert=file(name, format.convert))
                    patched.setitem(formats.FORMATS, name, shared)
            return self.export(out, **changes)

    def export(self, out, **changes):
        from keras_convmixer.export import export_bundle

        arguments = {
            "model": self.model,
            "out": out,
            "class_names": COLOURS,
            "calibration_images": self.train_images,
            "validation_images": self.test_images,
            "validation_labels": self.test_labels,
            "verbose": False,
        }
        return export_bundle(**{**arguments, **changes})


def colour_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = random.integers(0, 120, (count, 8, 8, 3))
    images[np.arange(count), :, :, labels] += 100
    images[:, 0, 0], images[:, 7, 7] = 0, 255  # the range that int8 input must cover
    return images.astype(np.uint8), labels


def train_toy(folder):
    import keras

    from keras_convmixer import ConvMixer

    keras.utils.set_random_seed(0)
    images, labels = colour_images(192, seed=0)
    model = ConvMixer(8, 2, kernel_size=3, patch_size=2, input_shape=(8, 8, 3), classes=3, include_preprocessing=True)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.optimizer.learning_rate = 0.02
    model.fit(images, labels, epochs=5, verbose=0)
    keras.Model(model.input, model.output).save(folder / "model.keras")


@pytest.fixture(scope="session")
def toy(once):
    import keras

    from keras_convmixer.export import formats

    model = keras.saving.load_model(once("toy_model", train_toy) / "model.keras")
    images, _ = colour_images(192, seed=0)
    test_images, test_labels = colour_images(60, seed=1)
    assert (np.argmax(model(test_images.astype("float32")), -1) == test_labels).all()
    return Toy(model, images[:100], test_images, test_labels, dict(formats.FORMATS), once)


@pytest.fixture(scope="session")
def toy_bundle(toy, once):
    return once("toy", lambda folder: toy.republish(folder / "bundle")) / "bundle"


@dataclass(frozen=True)
class Quickstart:
    """The folder in which `convmixer quickstart` ran, and what the command printed."""

    folder: Path
    process: subprocess.CompletedProcess

    @property
    def run(self):
        return self.folder / "runs" / "quickstart"

    @property
    def bundle(self):
        return self.run / "bundle"


@pytest.fixture(scope="session")
def quickstart(once):
    def fill(folder):
        process = convmixer("quickstart", cwd=folder, new=True)
        (folder / "process.json").write_text(json.dumps(vars(process)))

    folder = once("quickstart", fill)
    return Quickstart(folder, subprocess.CompletedProcess(**json.loads((folder / "process.json").read_text())))


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of a size such as "300k"; skips where this user may not mount."""
    mounted = []

    def mount(size):
        folder = tmp_path / f"disk_of_{size}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a tmpfs needs root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)
