"""What the examples in docstrings and documents find: a small model, its images, and files in the current folder."""

import linecache
import shutil

import numpy as np
import pytest
from PIL import Image

NAMES = ("red", "green", "blue")


def write_photos(folder, images, labels):
    """Write photos/LABEL/NUMBER.png and photo.png, of twice the model's size."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "photos" / NAMES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.repeat(2, axis=0).repeat(2, axis=1)).save(path)
    shutil.copy(folder / "photos/red/0.png", folder / "photo.png")


@pytest.fixture(scope="session")
def example_files(toy, toy_bundle, once):
    """A folder with run/, bundle/, photos/, photo.png, model.keras and model.safetensors; tests leave it as it is."""

    def fill(folder):
        import keras_convmixer as kc
        from keras_convmixer.training import RECIPES, train

        write_photos(folder, toy.test_images, toy.test_labels)
        shutil.copytree(toy_bundle, folder / "bundle")
        toy.model.save(folder / "model.keras")
        kc.save_weights_torch(toy.model, folder / "model.safetensors")
        recipe = RECIPES["digits"].replace(
            **{"name": "run", "dataset": str(folder / "photos"), "image_size": 8, "patch_size": 2},
            **{"dim": 8, "depth": 2, "kernel_size": 3, "batch_size": 8, "epochs": 2},
        )
        train(recipe, folder / "run", verbose=False)

    return once("example_files", fill)


@pytest.fixture
def run_example(toy, example_files, tmp_path, monkeypatch):
    """A function that runs an example's code in a fresh folder with those files; returns the names that it leaves.

    `title` says in a traceback whose example it is. `names` go on from an example that ran before.
    """
    import keras

    import keras_convmixer as kc

    folder = tmp_path / "example"
    shutil.copytree(example_files, folder)
    monkeypatch.chdir(folder)

    def run(code: str, title: str, names: dict | None = None) -> dict:
        if names is None:
            keras.utils.set_random_seed(0)
            model = keras.saving.load_model(folder / "model.keras")  # a fresh one: an example may train it
            names = {"kc": kc, "np": np, "model": model, "images": toy.test_images.copy()}
            names["labels"] = toy.test_labels.copy()
        linecache.cache[title] = (len(code), None, code.splitlines(keepends=True), title)
        exec(compile(code, title, "exec"), names)
        return names

    return run
