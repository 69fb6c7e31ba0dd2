"""A run's data and augmentation once more, to train its model further: quantization-aware, pruned or clustered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.progress import Progress

from .data.batches import InputPipeline
from .data.dataset import Dataset, load_dataset
from .devices.strategy import choose_strategy
from .prepare import input_pipeline
from .runs.run import Run


@dataclass(frozen=True)
class FurtherTraining:
    """Data to train a run's model further with."""

    dataset: Dataset
    pipeline: InputPipeline
    steps: int
    """Number of batches to train on."""

    def batches(self) -> Iterator:
        """Return an iterator over `steps` batches: images float32 `[batch, height, width, channels]`, pixels 0..255,
        and label distributions float32 `[batch, classes]`."""
        return self.pipeline.batches(choose_strategy("one_device"), 0, self.steps)


def load_further_training(
    run: Run,
    data: str,
    *,
    epochs: int,
    steps: int | None = None,
    batch_size: int | None = None,
    data_dir: str = "",
    progress: Progress | None = None,
) -> FurtherTraining:
    """Load data for a run that has a recipe and labels; its augmentation stays.

    Args:
        run: the run.
        data: as `load_dataset` takes it.
        epochs: passes over the training images.
        steps: number of batches, instead of `epochs`.
        batch_size: images in a step; the recipe's by default.
        data_dir: folder of tensorflow-datasets' data.
        progress: shows a bar.

    Raises:
        ValueError: a number is out of its range, the batch is larger than the data, or what `load_dataset` raises.
    """
    if run.recipe is None or run.class_names is None:
        raise ValueError("no recipe.json and labels.txt is beside the model: name a run folder of `convmixer train`")
    batch_size = run.recipe.optimization.batch_size if batch_size is None else batch_size
    recipe = run.recipe.replace(epochs=epochs, batch_size=batch_size, gradient_accumulation_steps=1)
    dataset = load_dataset(
        data,
        run.preprocessing,
        run.class_names,
        progress,
        data_dir,
        keep_originals=recipe.augmentation.random_crop,
    )
    pipeline = input_pipeline(recipe, dataset)
    if not pipeline.steps_per_epoch:
        raise ValueError(f"batch_size={batch_size} is more than the {len(dataset.train)} training images: give less")
    return FurtherTraining(dataset, pipeline, steps or epochs * pipeline.steps_per_epoch)
