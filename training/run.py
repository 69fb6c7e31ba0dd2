"""A training run: from a recipe to a folder that holds the trained model, and back from the folder."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from keras_convmixer.atomic import explaining_full_disk, require_folder_name
from keras_convmixer.backend import require_tensorflow
from keras_convmixer.console import progress_bar
from keras_convmixer.convmixer import ConvMixer
from keras_convmixer.images import Preprocessing
from keras_convmixer.weights import read_keras_model

from . import figures
from .data import load_dataset
from .evaluation import evaluate
from .progress import FitProgress
from .recipe import Recipe
from .schedule import PiecewiseLinear


def train(recipe: Recipe, run: Path, overwrite: bool = False, verbose: bool = True) -> dict:
    """Train a model by a recipe; write the run folder and return its summary.

    The folder then holds recipe.json, labels.txt, model.keras (takes pixels 0..255, loads with plain Keras),
    metrics.csv, curves.png, confusion.png, predictions.png and summary.json. Test images are used once, at
    the end.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        FileExistsError: `run` holds a model already and `overwrite` is False, or is a file.
        FloatingPointError: the loss became NaN or infinite.
        ValueError: the data set does not exist or a value of the recipe is not allowed.
    """
    run = Path(run)
    require_tensorflow("training")
    require_folder_name(run)
    if (run / "model.keras").exists() and not overwrite:
        raise FileExistsError(
            f"{run} holds a trained model already: pass --overwrite to train again, or another --name"
        )
    preprocessing = Preprocessing(recipe.image_size, recipe.image_size, crop_fraction=recipe.crop_fraction)
    if Path(recipe.dataset).is_dir() and recipe.dataset != "digits":  # found again from wherever
        recipe = dataclasses.replace(recipe, dataset=str(Path(recipe.dataset).resolve()))
    with progress_bar(verbose) as progress:
        dataset = load_dataset(recipe.dataset, preprocessing, progress=progress)
    keras.utils.set_random_seed(recipe.seed)
    model = _build(recipe, dataset)

    partial = run / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with explaining_full_disk(run):
            summary = _train_into(partial, model, recipe, dataset, verbose)
        # Not one step, as the folder may hold more than a run: between these, it holds no model.
        (run / "model.keras").unlink(missing_ok=True)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == "model.keras"):
            file.replace(run / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not any(run.iterdir()):
            run.rmdir()
    return summary


def _train_into(folder, model, recipe, dataset, verbose):
    history, seconds = _fit(model, recipe, dataset, folder / "metrics.csv", verbose)
    # Without the optimizer, whose schedule is a class of ours: the file loads with plain Keras.
    keras.Model(model.inputs[0], model.outputs[0], name=model.name).save(folder / "model.keras")
    evaluation = evaluate(model, dataset.test)
    summary = {
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
        "test_images": len(dataset.test),
        "validation_accuracy": history["val_accuracy"][-1],
        "training_images": len(dataset.train),
        "parameters": model.count_params(),
        "epochs": recipe.epochs,
        "seconds": seconds,
        "images_per_second": recipe.epochs * len(dataset.train) / seconds,
    }
    for name, content in (("recipe.json", dataclasses.asdict(recipe)), ("summary.json", summary)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "labels.txt").write_text("\n".join(dataset.class_names) + "\n")
    figures.draw_curves(history, folder / "curves.png")
    figures.draw_confusion(evaluation, dataset.class_names, folder / "confusion.png")
    figures.draw_predictions(dataset.test.images, evaluation, dataset.class_names, folder / "predictions.png")
    return summary


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with what its folder says about it; `recipe` and `class_names` are None where it doesn't."""

    model: keras.Model
    recipe: Recipe | None
    class_names: tuple[str, ...] | None
    crop_fraction: float | None = None
    """Instead of the recipe's, which a model from elsewhere has none of."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures become the model's images; raises ValueError where the model has no fixed image size."""
        shape = self.model.input_shape[1:]
        if len(self.model.inputs) != 1 or len(shape) != 3 or None in shape:
            raise ValueError(
                f"the model takes input {shape}: rebuild it with an input_shape (height, width, channels) of "
                "one size and load the same weights"
            )
        crop_fraction = self.crop_fraction
        if crop_fraction is None:
            crop_fraction = self.recipe.crop_fraction if self.recipe else 1.0
        return Preprocessing(*shape, crop_fraction=crop_fraction)


def load_run(path: Path, crop_fraction: float | None = None) -> Run:
    """Load a run folder, or a .keras file, with the recipe and labels that lie beside it.

    `crop_fraction` instead of the recipe's, or of 1 where there is none.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it holds no model, or one that plain Keras cannot load.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such run folder or .keras file")
    file = path / "model.keras" if path.is_dir() else path
    if file.is_file() and file.suffix not in (".keras", ".h5"):
        raise ValueError(f"{path} is no .keras file: name a run folder of `convmixer train`, or a .keras file")
    if not file.is_file():
        raise ValueError(f"{path} holds no model.keras: name a run folder of `convmixer train`, or a .keras file")
    model = read_keras_model(file)
    labels = file.with_name("labels.txt")
    class_names = tuple(labels.read_text().splitlines()) if labels.is_file() else None
    return Run(model, _read_recipe(file.with_name("recipe.json")), class_names, crop_fraction)


def _read_recipe(path):
    if not path.is_file():
        return None
    try:
        return Recipe(**json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no recipe of this version ({error}): train again, or remove it") from None


def _build(recipe, dataset):
    return ConvMixer(
        dim=recipe.dim,
        depth=recipe.depth,
        kernel_size=recipe.kernel_size,
        patch_size=recipe.patch_size,
        activation=recipe.activation,
        include_preprocessing=True,
        input_shape=(recipe.image_size, recipe.image_size, 3),
        classes=len(dataset.class_names),
    )


def _fit(model, recipe, dataset, metrics, verbose):
    steps = recipe.epochs * -(-len(dataset.train) // recipe.batch_size)
    optimizer = keras.optimizers.AdamW(
        PiecewiseLinear(recipe.learning_rate, steps),
        weight_decay=recipe.weight_decay,
        global_clipnorm=recipe.clip_norm,
        epsilon=1e-3,  # the paper's ImageNet recipe
    )
    optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) == 1])
    model.compile(
        optimizer,
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=_xla_pays(),
    )
    progress = FitProgress(recipe.batch_size, verbose)
    with progress.bar:
        history = model.fit(
            dataset.train.images,
            dataset.train.labels,
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            validation_data=(dataset.validation.images, dataset.validation.labels),
            callbacks=[
                progress,
                keras.callbacks.LambdaCallback(on_train_batch_end=_stop_on_nan),
                keras.callbacks.CSVLogger(metrics),
            ],
            verbose=0,
        )
    return history.history, progress.seconds


def _stop_on_nan(step, logs):
    if not math.isfinite(logs["loss"]):
        raise FloatingPointError(f"the loss became {logs['loss']} at step {step} of an epoch: lower --learning-rate")


def _xla_pays():
    # On a CPU, XLA's depthwise convolution makes training eight times slower; Keras's "auto" uses it there.
    return bool(tf.config.list_physical_devices("GPU"))
