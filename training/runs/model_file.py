"""Find a trained model's file and what stands beside it. Keras is not imported: a wrong path is refused at once."""

import shutil
from pathlib import Path

KINDS = "name a run folder of `convmixer train`, or a .keras file"


def model_file(path: Path) -> Path:
    """Return the .keras file that a run folder holds, or that `path` is.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it is a folder without a model, or another kind of file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such run folder or .keras file")
    file = path / "model.keras" if path.is_dir() else path
    if file.is_file() and file.suffix not in (".keras", ".h5"):
        raise ValueError(f"{path} is not a .keras file: {KINDS}")
    if file.is_file():
        return file
    if (path / "manifest.json").is_file():
        raise ValueError(f"{path} is a bundle, which holds no Keras model: name what it was exported from")
    if (path / "checkpoints").is_dir():
        raise ValueError(f"{path} holds no model.keras yet: run `convmixer train` to its end, as it was begun")
    raise ValueError(f"{path} holds no model.keras: {KINDS}")


def copy_recipe_and_labels(model: Path, folder: Path) -> None:
    """Copy what stands beside the model of a run folder or file, so that `folder` is a run folder of its model."""
    for name in ("recipe.json", "labels.txt"):
        shutil.copy(model_file(model).with_name(name), folder / name)
