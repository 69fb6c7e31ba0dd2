"""What a run leaves in its folder, and whether an unfinished run goes on in it."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import keras

from keras_convmixer.files.atomic import atomic_file, explaining_full_disk
from keras_convmixer.files.folder_lock import Lock, lock_folder
from keras_convmixer.files.labels import write_labels
from keras_convmixer.files.printable import printable
from keras_convmixer.files.regular_files import read_json
from keras_convmixer.images.folders import report_left_out

from ..data.dataset import Dataset
from ..evaluation import evaluate
from ..recipe import Recipe
from . import figures
from .checkpoints import History, drop_damaged_list

BEGIN_AGAIN = "put it back, pass --overwrite to begin again, or give another --name"


def can_resume(run: Path, recipe: Recipe, overwrite: bool, dataset: Dataset | None = None) -> bool:
    """Tell whether an unfinished run of this recipe, on these pictures if they are given, has a checkpoint in a folder.

    Raises FileExistsError: it holds a trained model, or the beginning of a run of another recipe or on other pictures,
    and not `overwrite`. Raises ValueError: recipe.json or data.json of its checkpoints is damaged, and not `overwrite`.
    """
    begun = run / "checkpoints/recipe.json"
    ended = (run / "checkpoints/ended").exists() or not begun.exists()
    if (run / "model.keras").exists() and ended and not overwrite:
        raise FileExistsError(
            f"{run} holds a trained model already: pass --overwrite to train again, or another --name"
        )
    try:
        former = {} if ended else read_json(begun, BEGIN_AGAIN)
        fingerprint = None if ended else _fingerprint(run)
        if not ended and "dataset" not in former:
            raise ValueError(f"{begun} is damaged (it is no recipe): {BEGIN_AGAIN}")
    except ValueError:
        if not overwrite:
            raise
        return False
    changed = [f"{k}={former.get(k)!r}" for k, v in dataclasses.asdict(recipe).items() if former.get(k) != v]
    if not ended and changed and not overwrite:
        raise FileExistsError(
            f"{run} was begun with {', '.join(changed)}: pass --overwrite to begin again, or another --name"
        )
    if ended or changed:
        return False
    if dataset is not None and fingerprint not in (None, dataset.fingerprint):
        if not overwrite:
            raise FileExistsError(
                f"{run} was begun with other pictures than {recipe.dataset} has now: put those back, pass --overwrite "
                "to begin again, or give another --name"
            )
        return False
    return any((run / "checkpoints").glob("ckpt-*.index"))


def _fingerprint(run):
    """Return that of the pictures that a run was begun with; None where it did not get so far."""
    file = run / "checkpoints/data.json"
    if not file.exists():
        return None
    content = read_json(file, BEGIN_AGAIN)
    if type(content.get("fingerprint")) is not int:  # nor a bool
        raise ValueError(f"{file} is damaged (it has no fingerprint): {BEGIN_AGAIN}")
    return content["fingerprint"]


@contextlib.contextmanager
def locked(run: Path):
    """Keep a run's folder for this process; raises FileExistsError where another one has it."""
    run.mkdir(parents=True, exist_ok=True)
    handle = os.open(run, os.O_RDONLY)
    try:
        unguarded = f"make sure that no other process trains in {run}"
        if lock_folder(handle, seconds=0, unguarded=unguarded) is Lock.HELD:
            raise FileExistsError(f"{run} is being trained by another process: wait for it, or give another --name")
        yield
    finally:
        os.close(handle)


def begin(run: Path, recipe: Recipe, dataset: Dataset, again: bool) -> None:
    """Make the folder of checkpoints, empty unless a run goes on in it `again`."""
    checkpoints = run / "checkpoints"
    if not again:
        for folder in (checkpoints, run / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)
    checkpoints.mkdir(parents=True, exist_ok=True)
    for partial in checkpoints.glob("*_temp"):  # what a process that was killed in writing left
        shutil.rmtree(partial, ignore_errors=True)
    for partial in checkpoints.glob("checkpoint.tmp*"):
        partial.unlink()
    drop_damaged_list(checkpoints)
    with explaining_full_disk(run), atomic_file(checkpoints / "recipe.json") as partial:
        partial.write_text(json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")
    with explaining_full_disk(run), atomic_file(checkpoints / "data.json") as partial:
        partial.write_text(json.dumps({"fingerprint": dataset.fingerprint}) + "\n")


def write_damaged_list(dataset: Dataset, file: Path, verbose: bool) -> None:
    """List the damaged pictures that were left out in a file, one line each, and report them."""
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
    best: list,
    recipe: Recipe,
    dataset: Dataset,
    history: History,
    measured: dict,
) -> None:
    """Evaluate a trained model on the test images and write what the folder holds; the model last.

    That it is there says that the run is done. `best` are the best epoch's weights; `history`'s epochs are what
    metrics.csv lists, `measured` goes into summary.json with the accuracy.
    """
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with explaining_full_disk(folder):
            last = model.get_weights()
            model.set_weights(best)
            model.save(partial / "best.keras")
            model.set_weights(last)
            _write(partial, model, recipe, dataset, history, measured)
        # Not one step, as the folder may hold more than a run: between these, it holds no model.
        (folder / "model.keras").unlink(missing_ok=True)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == "model.keras"):
            file.replace(folder / file.name)
        (folder / "checkpoints/ended").touch()
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
        "epochs": recipe.epochs,
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
