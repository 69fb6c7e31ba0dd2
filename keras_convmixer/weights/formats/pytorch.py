"""PyTorch's files: the groups of named tensors in them, read without running code."""

import argparse
import encodings
import mmap
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from encodings.aliases import aliases
from pathlib import Path
from pkgutil import iter_modules

import numpy as np

from ...files.archives import check_archive
from .kind import TORCH_SUFFIXES, kind_of, unreadable

# The names by which pickles call these functions, and the codecs that the latter takes.
_BYTEARRAY = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")
_ENCODE = re.compile(rb"c_codecs\nencode\n")
_MODULES = (module.name for module in iter_modules(encodings.__path__))
_CODECS = {*aliases, *aliases.values(), *_MODULES}
_LATIN_1 = {"latin1", "latin_1"}
DEPTH = 4
"""How deep dictionaries are searched: checkpoint -> model -> state_dict -> tensors is three."""


@dataclass(frozen=True)
class Contents:
    """A file's tensors as it groups them, each read when it is asked for."""

    groups: dict[str, dict[str, tuple[int, ...]]]
    """Shapes by name in each dictionary that holds tensors; the file itself is the group ""."""
    read: Callable[[str, str], np.ndarray]
    """Of a group the tensor of a name."""
    others: tuple[str, ...] = ()
    """What else the file holds at its top, such as "epoch"."""
    activation: str | None = None
    """Name in Keras, where the file says it; PyTorch's own files do not."""


def open_torch(path: Path) -> Contents:
    """Open a file of torch.save; only tensors are read (`weights_only=True`), and what plain values are beside them.

    Raises:
        ValueError: the file is damaged, is of another kind, or holds Python objects, which could run code.
        ImportError: PyTorch is not installed, or older than 2.10: `weights_only` of earlier ones can be made to run
            code.
    """
    kind = kind_of(path)
    if kind is not None and kind.suffix != TORCH_SUFFIXES[0]:
        raise unreadable(path, TORCH_SUFFIXES[0])
    torch = _import_torch(path)
    with path.open("rb") as file:
        packed = file.read(4) == b"PK\3\4"
    if packed:
        check_archive(path)  # PyTorch does not compare checksums
    _require_no_growth(path, packed)
    try:
        # Namespace, which holds values by name and does nothing, is what timm's training leaves beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a dozen types, OSError and MemoryError too, by where the damage is
        # Not PyTorch's own words, which advise weights_only=False.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise ValueError(
                f"{path} holds Python objects ({refused[1]}), which could run code and are not loaded: get a file of "
                "tensors alone, or, where you trust its origin, save the checkpoint's state_dict alone with torch.save"
            ) from None
        if packed:  # and intact, as its checksums say
            raise ValueError(
                f"{path} holds something else than tensors and plain values, or was not written with torch.save's "
                "default protocol: save the model's state_dict() with torch.save"
            ) from None
        raise unreadable(path, TORCH_SUFFIXES[0]) from None
    tensors = {}
    if isinstance(content, dict):
        _collect(content, "", 1, tensors, set(), torch.Tensor)
    if not tensors:
        raise ValueError(f"{path} holds no state_dict of dense tensors: save the model's state_dict() with torch.save")

    def read(group, name):
        tensor = tensors[group][name].detach()
        if not _is_dense(tensor):
            raise ValueError(f"{path}: {name} is sparse, quantized or without numbers: save dense tensors on the CPU")
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    shapes = {group: {name: _shape(tensor) for name, tensor in named.items()} for group, named in tensors.items()}
    others = tuple(str(key) for key, value in content.items() if not isinstance(value, torch.Tensor))
    return Contents(shapes, read, others)


def _require_no_growth(path, packed):
    """Check that what PyTorch lets a pickle call makes nothing that is much larger than the file.

    A `bytearray` of any size is ten bytes in a file; `_codecs.encode`, which pickles of bytes call with latin1, doubles
    its argument with other codecs, as often as it is called.
    """
    if packed:
        with zipfile.ZipFile(path) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
        growing = _BYTEARRAY.search(content) or (_ENCODE.search(content) and _words(content) & _CODECS - _LATIN_1)
    else:  # as of old, with the tensors' numbers in between
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            growing = bool(_BYTEARRAY.search(content) or _ENCODE.search(content))
    if growing:
        raise ValueError(
            f"{path} holds bytes in a form that may grow without bound when they are read: save the checkpoint's "
            "state_dict alone with torch.save"
        )


def _words(pickle):
    """Return the strings of a pickle, as names of codecs are compared."""
    try:
        strings = [argument for _, argument, _ in pickletools.genops(pickle) if isinstance(argument, str)]
    except Exception:  # pickletools' ValueError and others: what cannot be read so cannot be loaded either
        return _CODECS
    return {re.sub(r"[-\s.]", "_", text).lower() for text in strings}


def _import_torch(path):
    try:
        import torch  # pyright: ignore[reportMissingImports] - of the user, if at all
    except ImportError:
        raise ImportError(
            f"{path} is a PyTorch file, and reading it needs PyTorch: pip install torch, or use a .safetensors file"
        ) from None
    if torch.torch_version.TorchVersion(torch.__version__) < (2, 10):
        raise ImportError(
            f"PyTorch {torch.__version__} can be made to run code by a file (CVE-2025-32434, CVE-2026-24747): upgrade "
            "it to 2.10 or later, or use a .safetensors file"
        )
    return torch


def _collect(content, place, depth, found, seen, kind):
    """Put the tensors of a dictionary, and of those in it, into `found` by place and name; each dictionary once."""
    seen.add(id(content))
    if tensors := {str(key): value for key, value in content.items() if isinstance(value, kind)}:
        found[place] = tensors
    for key, value in content.items():
        if isinstance(value, dict) and id(value) not in seen and depth < DEPTH:
            _collect(value, f"{place}.{key}" if place else str(key), depth + 1, found, seen, kind)


def _shape(tensor):
    return () if tensor.is_nested else tuple(tensor.shape)


def _is_dense(tensor):
    import torch  # pyright: ignore[reportMissingImports]

    return (
        not tensor.is_nested
        and not tensor.is_quantized
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
    )
