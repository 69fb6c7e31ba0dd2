"""Loading of trained models: from a run folder, or from a .keras file."""

import dataclasses
import os
from pathlib import Path

import keras

from keras_convmixer.files.labels import read_labels
from keras_convmixer.files.regular_files import read_json
from keras_convmixer.images.preprocessing import Preprocessing
from keras_convmixer.model import imagenet
from keras_convmixer.weights.formats.keras_model import read_keras_model

from ..recipe import Recipe
from .model_file import model_file


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with its recipe, class names and accuracy.

    Example:
        ```python
        from keras_convmixer.training import load_run

        run = load_run("run")
        image = run.preprocessing.load("photo.png")  # uint8 [height, width, 3]
        probabilities = run.model.predict(image[None].astype("float32"), verbose=0)[0]
        print(run.class_names[probabilities.argmax()])
        ```
    """

    model: keras.Model
    recipe: Recipe | None
    """None without recipe.json."""
    class_names: tuple[str, ...] | None
    """In the order of the model's outputs; None without labels.txt."""
    crop_fraction: float | None = None
    """Side of the center crop in evaluation, as a fraction of the shorter side; None: the recipe's, or 1."""
    accuracy: float | None = None
    """Accuracy on the test images, 0..1, from summary.json; None without that file."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of image files for this model.

        Raises:
            ValueError: the model has no fixed image size.
        """
        shape = self.model.input_shape[1:]
        if len(self.model.inputs) != 1 or len(shape) != 3 or None in shape:
            raise ValueError(
                f"the model takes input {shape}: rebuild it with an input_shape (height, width, channels) of "
                "one size and load the same weights"
            )
        crop_fraction = self.crop_fraction
        if crop_fraction is None:
            crop_fraction = self.recipe.data.crop_fraction if self.recipe else 1.0
        return Preprocessing(*shape, crop_fraction=crop_fraction)

    def data_or_own(self, data: str | None) -> str:
        """Return `data` if it is given, else the name of the data set that the model was trained on.

        Raises:
            FileNotFoundError: that was a folder which is not there any more.
            ValueError: that is not known.
        """
        choices = "digits, or a folder with one subfolder of images for each label"
        if data:
            return data
        if self.recipe is None:
            raise ValueError(f"data=None, and the model has no recipe.json beside it: name {choices}")
        own = self.recipe.data.dataset
        if Path(own).is_absolute() and not Path(own).is_dir():
            raise FileNotFoundError(f"the model was trained on {own}, which is not there: name other data, {choices}")
        return own

    def names_or_imagenet(self) -> tuple[str, ...] | None:
        """Return the labels; ImageNet's where the model has none of its own and as many classes; else None."""
        if self.class_names is None and self.model.output_shape[1:] == (imagenet.CLASSES,):
            return tuple(name for _, name in imagenet.class_names())
        return self.class_names

    def data_dir_or_own(self, data_dir: str) -> str:
        """Return the folder of tensorflow-datasets' data: `data_dir` unless it is empty, else the recipe's."""
        return data_dir or (self.recipe.data.data_dir if self.recipe else "")


def load_run(path: str | os.PathLike[str], crop_fraction: float | None = None) -> Run:
    """Load a run folder, or a .keras file, with the recipe and the labels beside it.

    Example:
        ```python
        from keras_convmixer.training import load_run

        run = load_run("run")
        print(run.recipe.name, run.class_names, run.model.count_params())
        ```

    Args:
        path: run folder of `convmixer train`, or a .keras file.
        crop_fraction: see `Run.crop_fraction`.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it holds no model, or one that plain Keras cannot load.
    """
    file = model_file(Path(path))
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
        return Recipe.from_dict(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a recipe of this version ({error}): {TRAIN_AGAIN}") from None


def _read_accuracy(path):
    if not path.is_file():
        return None
    accuracy = read_json(path, TRAIN_AGAIN).get("test_accuracy")
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float):  # a bool is an int in Python
        raise ValueError(f"{path} is damaged (it has no test_accuracy): {TRAIN_AGAIN}")
    return float(accuracy) if 0 <= accuracy <= 1 else None
