"""Preparation of a training run: checks, data, the run folder, the initial model."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import keras

from keras_convmixer.environment.backend import require_tensorflow
from keras_convmixer.environment.console import progress_bar
from keras_convmixer.files.atomic import require_folder_name
from keras_convmixer.images.preprocessing import Preprocessing

from .data.batches import InputPipeline
from .data.dataset import Dataset, load_dataset
from .devices.replicas import Replicas
from .devices.strategy import StrategyName, choose_strategy
from .recipe import Recipe
from .runs.folder import begin, can_resume, locked, write_damaged_list
from .step.model import build_model


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a run that are not part of its recipe; see `train`."""

    checkpoint_minutes: float = 10.0
    steps_per_call: int | None = None
    rollbacks: int = 0
    verbose: bool = True

    def __post_init__(self):
        for name, least in (("steps_per_call", 1), ("rollbacks", 0), ("checkpoint_minutes", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:  # `not >=` rejects NaN too
                raise ValueError(f"{name}={value}: give {least} or more")


def prepare(
    recipe: Recipe, run: Path, overwrite: bool, strategy: StrategyName, options: TrainingOptions
) -> tuple[Recipe, Dataset, Replicas]:
    """Check the arguments, choose the devices and load the data; return the recipe, with absolute paths, and these.

    Raises:
        ValueError: the workers have different recipes.
    """
    require_tensorflow("training")
    require_folder_name(run)
    recipe = _with_absolute_paths(recipe)
    replicas = choose_strategy(strategy)
    with replicas.explaining_lost_workers():
        # Before the run folder is looked at: it may hold what a faster worker has begun there.
        replicas.require_same(
            (recipe, options.steps_per_call, options.rollbacks),
            "the workers were started with different recipes: give all the same options",
        )
    can_resume(run, recipe, overwrite)  # raises at once, as reading the data may take minutes
    recipe.require_divisible(replicas.num_replicas)
    image_size, batch_size = recipe.model.image_size, recipe.optimization.batch_size
    with progress_bar(options.verbose) as progress:
        dataset = load_dataset(
            recipe.data.dataset,
            Preprocessing(image_size, image_size, crop_fraction=recipe.data.crop_fraction),
            progress=progress,
            data_dir=recipe.data.data_dir,
            keep_originals=recipe.augmentation.random_crop,
        )
    if len(dataset.train) < batch_size:
        raise ValueError(
            f"batch_size={batch_size} is more than the {len(dataset.train)} training images: give a smaller one"
        )
    return recipe, dataset, replicas


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths of data and weights."""
    dataset, weights = Path(recipe.data.dataset), Path(recipe.model.weights).expanduser()
    if recipe.data.dataset != "digits" and dataset.is_dir():
        recipe = recipe.replace(dataset=str(dataset.resolve()))
    if recipe.model.weights and weights.is_file():
        recipe = recipe.replace(weights=str(weights.resolve()))
    return recipe


def lock_of_chief(run: Path, replicas: Replicas) -> contextlib.AbstractContextManager:
    """Return a context in which no other process trains in the run folder; the chief locks it for all workers."""
    return locked(run) if replicas.is_chief else contextlib.nullcontext()


def resume_or_begin(
    run: Path, recipe: Recipe, dataset: Dataset, replicas: Replicas, options: TrainingOptions, overwrite: bool
) -> bool:
    """Prepare the run folder; return whether it has a checkpoint from which training resumes.

    Raises:
        ValueError: the workers have different images.
    """
    resumes = can_resume(run, recipe, overwrite, dataset)
    if replicas.is_chief:
        begin(run, recipe, dataset, resumes)
        write_damaged_list(dataset, run / "damaged.txt", options.verbose)
    replicas.require_same(
        dataset.fingerprint,
        f"the workers do not see the same images of {recipe.data.dataset}, or not the same damaged ones "
        f"({len(dataset.damaged)} in this process): give all the same data",
    )
    return resumes


def build_initial_model(recipe: Recipe, classes: int, replicas: Replicas, resumes: bool) -> keras.Model:
    """Build the recipe's model; every worker gets the chief's initial weights."""
    keras.utils.set_random_seed(recipe.seed)
    # A checkpoint's weights replace the initial ones, so that a resumed run needs no file, and no download, of them.
    load_weights = recipe.model.weights and replicas.is_chief and not resumes
    model = build_model(recipe.model, classes, recipe.model.weights if load_weights else None)
    model.set_weights([replicas.broadcast_from_chief(value) for value in model.get_weights()])
    return model


def input_pipeline(recipe: Recipe, dataset: Dataset) -> InputPipeline:
    """Return the training batches of a recipe."""
    return InputPipeline(
        split=dataset.train,
        classes=len(dataset.class_names),
        augmentation=recipe.augmentation,
        batch_size=recipe.optimization.batch_size,
        seed=recipe.seed,
        gradient_accumulation_steps=recipe.optimization.gradient_accumulation_steps,
    )
