"""A run folder, or another Keras model: what a trained model is taken from."""

import dataclasses
from pathlib import Path

import keras

from keras_convmixer.files.labels import read_labels
from keras_convmixer.files.regular_files import read_json
from keras_convmixer.images.preprocessing import Preprocessing
from keras_convmixer.weights.formats.keras_model import read_keras_model

from ..recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with what its folder says about it; `recipe` and `class_names` are None where it doesn't."""

    model: keras.Model
    recipe: Recipe | None
    class_names: tuple[str, ...] | None
    crop_fraction: float | None = None
    """Instead of the recipe's, which a model from elsewhere has none of."""
    accuracy: float | None = None
    """Accuracy on the test images, 0..1, from summary.json; None without that file."""

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
    class_names = read_labels(labels) if labels.is_file() else None
    recipe = _read_recipe(file.with_name("recipe.json"))
    return Run(model, recipe, class_names, crop_fraction, _read_accuracy(file.with_name("summary.json")))


TRAIN_AGAIN = "train again, or remove it"


def _read_recipe(path):
    if not path.is_file():
        return None
    content = read_json(path, TRAIN_AGAIN)
    try:
        return Recipe(**content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a recipe of this version ({error}): {TRAIN_AGAIN}") from None


def _read_accuracy(path):
    if not path.is_file():
        return None
    accuracy = read_json(path, TRAIN_AGAIN).get("test_accuracy")
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float):
        raise ValueError(f"{path} is damaged (it has no test_accuracy): {TRAIN_AGAIN}")
    return float(accuracy) if 0 <= accuracy <= 1 else None
