"""Arguments that several commands take, and what they mean where they are left out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.progress import Progress

from keras_convmixer.environment.console import progress_bar, waiting

from .command_line import UsageError


def argument(kind: Any, metavar: str, default: str | None = None) -> Any:
    """Return `kind` as a command's argument that help shows as `metavar`, with `default` in words."""
    hint = None if default is None else f"(default: {default})"
    return Annotated[kind, tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)]


Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
"""An option without a value, off where it is not given. A recipe's fields have pairs, --flip and --no-flip."""

ModelArgument = tyro.conf.Positional[argument(Path, "MODEL")]
DataOption = argument(str | None, "digits|FOLDER|NAME", "the run's own")
DataFolderOption = argument(str, "FOLDER", "the run's own, else tensorflow-datasets'")
CropOption = argument(float | None, "FLOAT", "the run's own, else 1")


def loaded_run(model: Path, crop_fraction: float | None = None):
    """Load a run folder or a .keras file, see `load_run`, and show that this takes a while."""
    from keras_convmixer.training import load_run

    with waiting(f"loading {model}"):
        return load_run(model, crop_fraction)


@contextmanager
def reading(data: str) -> Iterator[Progress]:
    """Show that a data set is being read in this context, before and while its images are counted."""
    with progress_bar() as progress:
        progress.add_task(f"reading {data}", total=None, detail="")
        yield progress


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress in this context; it is given a function that counts on by some images."""
    with progress_bar() as progress:
        task = progress.add_task(what, total=total, detail="")
        yield lambda count: progress.advance(task, count)


def data_dir_of(run, given: str) -> str:
    """Return tensorflow-datasets' folder: what was given, else the run's own."""
    return given or (run.recipe.data.data_dir if run.recipe else "")


def own_data(run, path: Path) -> str:
    """Return what a run was trained on; raise where that is not known or not there."""
    what_to_do = "name pictures with --data, digits or a folder with one subfolder for each label"
    if run.recipe is None:
        raise UsageError(f"{path} has no recipe.json beside it: {what_to_do}")
    if Path(run.recipe.data.dataset).is_absolute() and not Path(run.recipe.data.dataset).is_dir():
        raise FileNotFoundError(f"{path} was trained on {run.recipe.data.dataset}, which is not there: {what_to_do}")
    return run.recipe.data.dataset


def folder_of(model: Path) -> Path:
    """Return where what belongs to a model lies: a run folder, or that of a .keras file."""
    return model if model.is_dir() else model.parent


def qat_file(model: Path) -> Path:
    """Return where quantization-aware training leaves a run's, or a .keras file's, int8 file."""
    return folder_of(model) / "qat_int8.tflite"
