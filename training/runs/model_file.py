"""Find a trained model's file. Keras is not imported, so that commands refuse a wrong path at once."""

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
