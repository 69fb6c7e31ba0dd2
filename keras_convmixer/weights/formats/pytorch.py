"""Read PyTorch's files without running code in them.

A file of torch.save is a pickle, a program that may call any function. PyTorch's `weights_only=True` allows only the
few that rebuild tensors. Some of these can still be made to fill the memory, so the file is checked before.
"""

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

# How a pickle names these two functions, and the codecs that the second one takes.
_BYTEARRAY = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")
_ENCODE = re.compile(rb"c_codecs\nencode\n")
_MODULES = (module.name for module in iter_modules(encodings.__path__))
_CODECS = {*aliases, *aliases.values(), *_MODULES}
_LATIN_1 = {"latin1", "latin_1"}
DEPTH = 4
"""How deep dictionaries are searched: checkpoint -> model -> state_dict -> tensors is three."""


@dataclass(frozen=True)
class Contents:
    """The groups of tensors in a file."""

    groups: dict[str, dict[str, tuple[int, ...]]]
    """For each dictionary of tensors its place, such as "checkpoint.model", and the tensors' shapes by name. The file
    itself is the group ""."""
    read: Callable[[str, str], np.ndarray]
    """Read a tensor by the names of its group and its own."""
    others: tuple[str, ...] = ()
    """Keys of the file's other entries, such as "epoch"."""
    activation: str | None = None
    """The activation's name in Keras; None if the file does not name it, as PyTorch's do not."""


def open_torch(path: Path) -> Contents:
    """Open a file of torch.save: its tensors, and the names of plain values beside them.

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
        check_archive(path)  # PyTorch does not check the checksums
    _require_no_growth(path, packed)
    try:
        # timm's training saves its options beside the weights as a Namespace, a class that only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types, by where the damage is, OSError and MemoryError too
        # PyTorch's own message advises weights_only=False, which would run the code.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise ValueError(
                f"{path} holds Python objects ({refused[1]}), which could run code and are not loaded: get a file of "
                "tensors alone, or, where you trust its origin, save the checkpoint's state_dict alone with torch.save"
            ) from None
        if packed:  # its checksums are right, so it is not damaged
            raise ValueError(
                f"{path} holds other things than tensors and plain values, or was written with another pickle protocol "
                "than torch.save's default: save the model's state_dict() with torch.save"
            ) from None
        raise unreadable(path, TORCH_SUFFIXES[0]) from None
    tensors = {}
    if isinstance(content, dict):
        _collect(content, "", 1, tensors, set(), torch.Tensor)
    if not tensors:
        raise ValueError(
            f"{path} does not hold a state_dict of dense tensors: save the model's state_dict() with torch.save"
        )

    def read(group, name):
        tensor = tensors[group][name].detach()
        if not _is_dense(tensor):
            raise ValueError(f"{path}: {name} is sparse, quantized or without numbers: save dense tensors on the CPU")
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    shapes = {group: {name: _shape(tensor) for name, tensor in named.items()} for group, named in tensors.items()}
    others = tuple(str(key) for key, value in content.items() if not isinstance(value, torch.Tensor))
    return Contents(shapes, read, others)


def _require_no_growth(path, packed):
    """Check that the functions which PyTorch lets a pickle call cannot fill the memory.

    Two can: `bytearray(n)` takes ten bytes in the file for any n. `_codecs.encode`, which pickles of bytes call with
    the codec latin1, doubles its argument with other codecs, and calls may be nested.
    """
    if packed:
        with zipfile.ZipFile(path) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
        growing = _BYTEARRAY.search(content) or (_ENCODE.search(content) and _words(content) & _CODECS - _LATIN_1)
    else:  # a file of PyTorch before 1.6: one stream of pickles and numbers
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            growing = bool(_BYTEARRAY.search(content) or _ENCODE.search(content))
    if growing:
        raise ValueError(
            f"{path} holds bytes in a form that may grow without bound when they are read: save the checkpoint's "
            "state_dict alone with torch.save"
        )


def _words(pickle):
    """Return the strings in a pickle, spelled as Python compares names of codecs."""
    try:
        strings = [argument for _, argument, _ in pickletools.genops(pickle) if isinstance(argument, str)]
    except Exception:  # ValueError and others: the pickle is damaged, and must not pass
        return _CODECS
    return {re.sub(r"[-\s.]", "_", text).lower() for text in strings}


def _import_torch(path):
    try:
        import torch  # pyright: ignore[reportMissingImports] - not a dependency: the user may have it
    except ImportError:
        raise ImportError(
            f"{path} is a PyTorch file, and reading it needs PyTorch: pip install torch, or use a .safetensors file"
        ) from None
    if torch.torch_version.TorchVersion(torch.__version__) < (2, 10):  # pyright: ignore[reportAttributeAccessIssue]
        raise ImportError(
            f"PyTorch {torch.__version__} can be made to run code by a file (CVE-2025-32434, CVE-2026-24747): upgrade "
            "it to 2.10 or later, or use a .safetensors file"
        )
    return torch


def _collect(content, place, depth, found, seen, kind):
    """Add the tensors of a dictionary, and of dictionaries inside it, to `found`: place -> name -> tensor.

    Args:
        content: the dictionary.
        place: its keys from the top of the file, joined by dots.
        depth: 1 at the top of the file; it is searched down to DEPTH.
        found: what was found so far.
        seen: ids of the dictionaries that were searched already, as a pickle may hold itself.
        kind: the class of tensors.
    """
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
