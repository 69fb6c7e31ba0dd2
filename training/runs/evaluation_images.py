"""Images to evaluate a trained model on: the test images of a data set, or all images of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
from rich.progress import Progress

from keras_convmixer.images.folders import subfolders
from keras_convmixer.model import imagenet

from ..data.dataset import Split, load_dataset, load_images
from .run import Run


@dataclass(frozen=True)
class EvaluationImages:
    """Images with labels, and their description."""

    class_names: tuple[str, ...]
    split: Split
    described: str
    """Such as "the 360 test images of digits"."""
    damaged: tuple[str, ...]
    """A sentence for each image that was left out because it cannot be read."""
    left_out: tuple[str, ...]
    """A sentence that counts the files that were left out because of their ending, if there are any."""


def load_evaluation_images(
    run: Run, data: str, data_dir: str = "", progress: Progress | None = None
) -> EvaluationImages:
    """Load a data set's test images; of a folder that the run was not trained on, all images.

    Args:
        run: the trained model. Without labels of its own, one of ImageNet's 1,000 classes takes folders that are
            named by ImageNet's ids.
        data: as `load_dataset` takes it.
        data_dir: folder of tensorflow-datasets' data.
        progress: shows a bar.

    Raises:
        ValueError: the data has another number of labels than the model has classes, or what `load_dataset` and
            `load_images` raise.
    """
    class_names = run.class_names or _imagenet_ids(run.model, data)
    trained_on = run.recipe is not None and Path(data).resolve() == Path(run.recipe.data.dataset).resolve()
    if Path(data).is_dir() and data != "digits" and not trained_on:
        images = load_images(data, run.preprocessing, class_names, progress)
        split, which = images.split, "all {} images"
    else:
        images = load_dataset(data, run.preprocessing, class_names, progress, data_dir)
        split, which = images.test, "the {} test images"
    classes = max(run.model.output_shape[-1], 2)  # one output tells two classes apart
    if len(images.class_names) != classes:
        raise ValueError(
            f"{data} has {len(images.class_names)} labels, and the model has {classes} classes: write the label of "
            "each class, one a line, to labels.txt beside the model"
        )
    described = f"{which.format(f'{len(split):,}')} of {data}"
    return EvaluationImages(images.class_names, split, described, images.damaged, images.left_out)


def _imagenet_ids(model: keras.Model, data: str) -> tuple[str, ...] | None:
    """Return ImageNet's ids where the model has its classes and the data has folders of their names, else None."""
    ids = tuple(wordnet_id for wordnet_id, _ in imagenet.class_names())
    folders = {path.name for path in subfolders(Path(data))} if Path(data).is_dir() else set()
    return ids if folders and folders <= set(ids) and model.output_shape[-1] == len(ids) else None
