"""Open a file of weights of any format: find the ConvMixer's tensors in it, without running code."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401, teaches NumPy bfloat16, which safetensors files may hold
import numpy as np

from ..files.regular_files import open_file
from .formats.keras_weights import open_keras_weights
from .formats.kind import KERAS_WEIGHTS_SUFFIX, SAFETENSORS_SUFFIX, SUFFIXES, TORCH_SUFFIXES, local_path, unreadable
from .formats.pytorch import Contents, open_torch
from .tensor_names import find_names, require_few_names

EPSILON = 1e-5
"""Epsilon of every BatchNormalization of a ConvMixer, in PyTorch and here."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a ConvMixer in a file, by timm's names and in PyTorch's layout."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    """Shape of each tensor, without PyTorch's counters of batches."""
    read: Callable[[str], np.ndarray]
    """Read a tensor by its name."""
    activation: str | None = None
    """The activation's name in Keras; None if the file does not name it, as PyTorch's do not."""
    epsilon: Callable[[str], float | None] = lambda name: EPSILON
    """Return a BatchNormalization's epsilon by its name in timm, such as "stem.2"; None if the file lacks it."""
    extra: dict[str, tuple[int, ...]] | None = None
    """Shapes of tensors beside the ConvMixer's, which are ignored."""
    others: tuple[str, ...] = ()
    """Keys of the file's other entries, such as "optimizer"."""
    average_instead_of: str | None = None
    """The place of the weights themselves, if the file has them too and these tensors are their moving average."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a file of weights: .safetensors, PyTorch's (.pth, .pth.tar, .pt, .bin, .ckpt, .t7), or Keras's .weights.h5.

    Names and shapes are read now, the tensors when `Checkpoint.read` is called (those of a PyTorch file now, too).
    tensor_names.py has which names are understood.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is of another kind, or holds Python objects, which could run code.
        ImportError: it is a PyTorch file, and PyTorch is not installed or older than 2.10, whose `weights_only` can be
            made to run code.
        OSError: the file cannot be read.
    """
    path = local_path(path)
    with open_file(path, "a file of weights"):
        pass  # safetensors itself calls a file that may not be read missing
    if path.name.endswith(KERAS_WEIGHTS_SUFFIX):
        weights = open_keras_weights(path)
        checkpoint = Checkpoint(
            path, weights.shapes, weights.read, epsilon=lambda name: EPSILON if weights.ours else None
        )
    elif path.name.endswith(SAFETENSORS_SUFFIX):
        checkpoint = _found(path, _open_safetensors(path))
    elif path.name.endswith(TORCH_SUFFIXES):
        checkpoint = _found(path, open_torch(path))
    else:
        raise ValueError(
            f"{path} does not have the name of a file of weights: give one that ends in {', '.join(SUFFIXES)}"
        )
    # A tensor may be one number of the file, repeated (PyTorch's `expand`), and tensors may share numbers.
    count = sum(math.prod(shape) for shape in checkpoint.shapes.values())
    if count > 2 * path.stat().st_size:  # the smallest numbers have 4 bits
        raise ValueError(
            f"{path} states {count:,} numbers and has {path.stat().st_size:,} bytes: save each tensor with numbers of "
            "its own"
        )
    return checkpoint


def _found(path, contents):
    try:
        found = find_names(contents.groups)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    shapes = contents.groups[found.group]
    return Checkpoint(
        path,
        {ours: shapes[theirs] for ours, theirs in found.tensors.items()},
        lambda name: contents.read(found.group, found.tensors[name]),
        contents.activation,
        extra={name: shapes[name] for name in found.ignored},
        others=tuple(name for name in contents.others if found.group.split(".")[0] != name),
        average_instead_of=found.average_instead_of,
    )


def _open_safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
        names = file.keys()
        require_few_names(len(names))
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except SafetensorError as error:
        raise unreadable(path, SAFETENSORS_SUFFIX, str(error)) from None
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None

    def read(_, name):
        try:
            return file.get_tensor(name)
        except (SafetensorError, TypeError, AttributeError) as error:  # a dtype that NumPy does not have
            raise ValueError(f"{path}: {name} cannot be read ({error}): save it as float32") from None

    return Contents({"": shapes}, read, activation=(file.metadata() or {}).get("activation"))
