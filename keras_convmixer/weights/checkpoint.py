"""Open files of weights: the tensors of the ConvMixer in one, under timm's names, without running code in it."""

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
"""Epsilon of every BatchNormalization in PyTorch's ConvMixer and in `ConvMixer`."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors in PyTorch's layout under timm's names, each read when it is asked for."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    """Shape of each tensor by name, without PyTorch's counters of batches, which say nothing about the model."""
    read: Callable[[str], np.ndarray]
    activation: str | None = None
    """Name in Keras; None where the file does not say it, as PyTorch's own do not."""
    epsilon: Callable[[str], float | None] = lambda name: EPSILON
    """Return a BatchNormalization's epsilon by its name in timm, such as "stem.2"; None where the file has none."""
    extra: dict[str, tuple[int, ...]] | None = None
    """Shapes of tensors beside the ConvMixer's that are not part of one."""
    others: tuple[str, ...] = ()
    """Keys of the file's other entries, such as "optimizer"."""
    average_instead_of: str | None = None
    """If these tensors are a moving average and the file has the weights themselves too: the place of the latter."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Open .safetensors, PyTorch's files (.pth, .pth.tar, .pt, .bin, .ckpt, .t7), or Keras's .weights.h5.

    Names may be timm's, or the reference's, whose nn.Sequential numbers its layers. A prefix of all names, such as
    `module.`, and dictionaries around them, such as `state_dict`, are recognized: those are taken that make the most
    names fit. Of a PyTorch file only tensors are read (`weights_only=True`); of the others, names and shapes first.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is of another kind, or holds Python objects, which could run code.
        ImportError: a PyTorch file, and no PyTorch of version 2.10 or later: `weights_only` of earlier ones can be
            made to run code.
        OSError: the file cannot be read.
    """
    path = local_path(path)
    with open_file(path, "a file of weights"):
        pass  # safetensors says of a file that may not be read that it does not exist
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
    # A tensor may repeat one number of the file (PyTorch's `expand`), and many share the same numbers.
    count = sum(math.prod(shape) for shape in checkpoint.shapes.values())
    if count > 2 * path.stat().st_size:  # the smallest have four bits
        raise ValueError(
            f"{path} says that it holds {count:,} numbers, in {path.stat().st_size:,} bytes: save each tensor with "
            "numbers of its own"
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
        except (SafetensorError, TypeError, AttributeError) as error:  # of precisions that NumPy does not know
            raise ValueError(f"{path}: {name} cannot be read ({error}): save it as float32") from None

    return Contents({"": shapes}, read, activation=(file.metadata() or {}).get("activation"))
