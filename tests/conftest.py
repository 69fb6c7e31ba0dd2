"""What several tests need: a toy classifier that trains in a second, and one quickstart for the whole session."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from processes import convmixer

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command line

COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Toy:
    """A model that tells red, green and blue 8x8 images apart, with images it did and did not see."""

    model: object
    train_images: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

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


@pytest.fixture(scope="session")
def toy():
    import keras

    from keras_convmixer import ConvMixer

    keras.utils.set_random_seed(0)
    images, labels = colour_images(192, seed=0)
    model = ConvMixer(8, 2, kernel_size=3, patch_size=2, input_shape=(8, 8, 3), classes=3, include_preprocessing=True)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.optimizer.learning_rate = 0.02
    model.fit(images, labels, epochs=5, verbose=0)
    test_images, test_labels = colour_images(60, seed=1)
    assert (np.argmax(model(test_images.astype("float32")), -1) == test_labels).all()
    return Toy(keras.Model(model.input, model.output), images[:100], test_images, test_labels)


@pytest.fixture(scope="session")
def toy_bundle(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("toy") / "bundle"
    toy.export(out)
    return out


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
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    return Quickstart(folder, convmixer("quickstart", cwd=folder))


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
