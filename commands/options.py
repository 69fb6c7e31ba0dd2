"""Arguments that several commands take, and showing what takes long."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.progress import Progress

from keras_convmixer.environment.console import progress_bar, waiting


def argument(kind: Any, metavar: str, default: str | None = None, help: str | None = None) -> Any:
    """Return `kind` as a command's argument that help shows as `metavar`, with `default` in words."""
    hint = None if default is None else f"(default: {default})"
    return Annotated[kind, tyro.conf.arg(metavar=metavar, help_behavior_hint=hint, help=help)]


Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
"""An option without a value, off where it is not given. A recipe's fields have pairs, --flip and --no-flip."""

# What several commands take is explained here, once, and not in their docstrings.
Verbose = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help_behavior_hint="", help="show tracebacks, and the log of TensorFlow or LiteRT."),
]
Model = tyro.conf.Positional[
    argument(Path, "MODEL", help="run folder of `convmixer train`, or a .keras file whose model takes pixels 0..255.")
]
Bundle = tyro.conf.Positional[argument(Path, "BUNDLE", help="bundle of `convmixer export`.")]
Data = argument(
    str | None,
    "digits|FOLDER|NAME",
    "the run's own",
    '"digits" (they come with scikit-learn); a folder with one subfolder of images for each label; or the name of a '
    "data set of tensorflow-datasets.",
)
DataDir = argument(
    str,
    "FOLDER",
    "the run's own, else tensorflow-datasets'",
    "folder in which tensorflow-datasets keeps its data.",
)
CropFraction = argument(
    float | None,
    "FLOAT",
    "the run's own, else 1",
    "share of an image's shorter side that the model sees, 0.25 to 1; the paper's ImageNet models were "
    "measured with 0.96.",
)


def load_model(model: Path, crop_fraction: float | None = None):
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
