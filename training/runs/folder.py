"""The files of a run's folder, and whether an unfinished run can be resumed in it."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_convmixer.files.atomic import atomic_file, explaining_full_disk
from keras_convmixer.files.folder_lock import Lock, lock_folder
from keras_convmixer.files.labels import write_labels
from keras_convmixer.files.printable import printable
from keras_convmixer.files.regular_files import read_json
from keras_convmixer.images.folders import report_left_out

from ..data.dataset import Dataset
from ..evaluation import evaluate
from ..recipe import Recipe, flat_fields
from . import figures
from .checkpoints import History, drop_damaged_list

ANOTHER_FOLDER = "train in another folder (--name)"
BEGIN_AGAIN = f"put it back, pass overwrite=True to begin again, or {ANOTHER_FOLDER}"


def can_resume(run: Path, recipe: Recipe, overwrite: bool, dataset: Dataset | None = None) -> bool:
    """Tell whether a folder has a checkpoint of an unfinished run of this recipe, and of `dataset` if it is given.

    Raises:
        FileExistsError: the folder holds a trained model, or an unfinished run of another recipe or on other images;
            not with `overwrite`.
        ValueError: recipe.json or data.json of its checkpoints is damaged; not with `overwrite`.
    """
    begun = run / "checkpoints/recipe.json"
    unfinished = begun.exists() and not (run / "checkpoints/ended").exists()
    if not unfinished:
        if (run / "model.keras").exists() and not overwrite:
            raise FileExistsError(
                f"{run} holds a trained model already: pass overwrite=True to train again, or {ANOTHER_FOLDER}"
            )
        return False
    try:
        _require_same_recipe(run, begun, recipe)
        fingerprint = _fingerprint(run)
        if dataset is not None and fingerprint not in (None, dataset.fingerprint):
            raise FileExistsError(
                f"{run} was begun with other images than {recipe.data.dataset} has now: put those back, pass "
                f"overwrite=True to begin again, or {ANOTHER_FOLDER}"
            )
    except (ValueError, FileExistsError):
        if not overwrite:
            raise
        return False
    return any((run / "checkpoints").glob("ckpt-*.index"))


def _require_same_recipe(run, begun, recipe):
    content = read_json(begun, BEGIN_AGAIN)
    if not isinstance(content.get("data"), dict):
        raise ValueError(f"{begun} is damaged (it is not a recipe): {BEGIN_AGAIN}")
    # Compared without the division into parts, so that the message names a field as options do.
    before, now = flat_fields(content), flat_fields(dataclasses.asdict(recipe))
    changed = [f"{name}={before.get(name)!r}" for name, value in now.items() if before.get(name) != value]
    if changed:
        raise FileExistsError(
            f"{run} was begun with {', '.join(changed)}: pass overwrite=True to begin again, or {ANOTHER_FOLDER}"
        )


def _fingerprint(run):
    """Return the fingerprint of the images that a run was begun with; None if it did not get so far."""
    file = run / "checkpoints/data.json"
    if not file.exists():
        return None
    content = read_json(file, BEGIN_AGAIN)
    if type(content.get("fingerprint")) is not int:  # nor a bool
        raise ValueError(f"{file} is damaged (it has no fingerprint): {BEGIN_AGAIN}")
    return content["fingerprint"]


@contextlib.contextmanager
def locked(run: Path):
    """Lock a run's folder for this process.

    Raises:
        FileExistsError: another process has locked it.
    """
    run.mkdir(parents=True, exist_ok=True)
    handle = os.open(run, os.O_RDONLY)  # the system removes the lock when the process ends, however it ends
    try:
        unguarded = f"make sure that no other process trains in {run}"
        if lock_folder(handle, seconds=0, unguarded=unguarded) is Lock.HELD:
            raise FileExistsError(f"{run} is being trained by another process: wait for it, or {ANOTHER_FOLDER}")
        yield
    finally:
        os.close(handle)


def begin(run: Path, recipe: Recipe, dataset: Dataset, resumes: bool) -> None:
    """Make the folder of checkpoints; empty it unless the run `resumes`."""
    checkpoints = run / "checkpoints"
    if not resumes:
        for folder in (checkpoints, run / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)
    checkpoints.mkdir(parents=True, exist_ok=True)
    for partial in checkpoints.glob("*_temp"):  # left by a process that was killed while it wrote
        shutil.rmtree(partial, ignore_errors=True)
    for partial in checkpoints.glob("checkpoint.tmp*"):
        partial.unlink()
    drop_damaged_list(checkpoints)
    with explaining_full_disk(run), atomic_file(checkpoints / "recipe.json") as partial:
        partial.write_text(json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")
    with explaining_full_disk(run), atomic_file(checkpoints / "data.json") as partial:
        partial.write_text(json.dumps({"fingerprint": dataset.fingerprint}) + "\n")


def write_damaged_list(dataset: Dataset, file: Path, verbose: bool) -> None:
    """Write the damaged images that were left out to a file, one line each, and report them."""
    damaged = dataset.damaged
    file.unlink(missing_ok=True)
    if damaged:
        with explaining_full_disk(file), atomic_file(file) as partial:
            partial.write_text("".join(f"{printable(sentence)}\n" for sentence in damaged), encoding="utf-8")
    if verbose:
        report_left_out(damaged, dataset.left_out, file)


def publish(
    folder: Path,
    model: keras.Model,
    best: list[np.ndarray],
    recipe: Recipe,
    dataset: Dataset,
    history: History,
    measured: dict[str, Any],
) -> None:
    """Evaluate a trained model on the test images and write the run's files; then mark it as finished.

    Args:
        folder: of the run.
        model: with the trained weights.
        best: weights of the best epoch, for best.keras.
        recipe: for recipe.json.
        dataset: test images and class names.
        history: its epochs are written to metrics.csv.
        measured: written to summary.json, beside the accuracy.
    """
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with explaining_full_disk(folder):
            last = model.get_weights()  # the model holds one set of weights at a time
            model.set_weights(best)
            model.save(partial / "best.keras")
            model.set_weights(last)
            _write(partial, model, recipe, dataset, history, measured)
        # Files are replaced one by one, as the folder may hold more than a run; meanwhile it has no model.keras.
        (folder / "model.keras").unlink(missing_ok=True)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == "model.keras"):
            file.replace(folder / file.name)
        (folder / "checkpoints/ended").touch()  # from now on `can_resume` finds nothing to resume
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder, model, recipe, dataset, history, measured):
    model.save(folder / "model.keras")
    epochs, best = history.epochs, history.best
    evaluation = evaluate(model, dataset.test)
    summary = {
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
        "test_images": len(dataset.test),
        "validation_accuracy": epochs[-1]["val_accuracy"],
        "best_epoch": best["epoch"],
        "best_validation_accuracy": best["val_accuracy"],
        "training_images": len(dataset.train),
        "damaged_images": len(dataset.damaged),
        "parameters": model.count_params(),
        "epochs": recipe.optimization.epochs,
        **measured,
    }
    for name, content in (("recipe.json", dataclasses.asdict(recipe)), ("summary.json", summary)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    write_labels(folder, dataset.class_names)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, epochs[0])
        writer.writeheader()
        writer.writerows(epochs)
    figures.draw_curves({key: [epoch[key] for epoch in epochs] for key in epochs[0]}, folder / "curves.png")
    figures.draw_confusion(evaluation, dataset.class_names, folder / "confusion.png")
    figures.draw_predictions(dataset.test.images, evaluation, dataset.class_names, folder / "predictions.png")
