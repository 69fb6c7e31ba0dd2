"""Checkpoint files of PyTorch: which tensors a file holds, under timm's names, read without running its code."""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401, teaches NumPy bfloat16, which safetensors files may hold
import numpy as np

BLOCK = re.compile(r"blocks\.(\d{1,4})\.")
SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".pth", ".pth.tar", ".pt", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors in PyTorch's layout under timm's names, each read when it is asked for."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    """All but PyTorch's counters of normalized batches, which say nothing about the model."""
    read: Callable[[str], np.ndarray]
    activation: str | None = None
    """Name in Keras, where the file says it; PyTorch's own files do not."""


def architecture_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, int] | None:
    """Return `ConvMixer`'s arguments as the shapes tell them, `channels` too; None if they tell no whole one.

    `classes` is missing where there is no classifier.
    """
    stem, depthwise = shapes.get("stem.0.weight", ()), shapes.get("blocks.0.0.fn.0.weight", ())
    blocks = {int(found[1]) for name in shapes if (found := BLOCK.match(name))}
    if len(stem) != 4 or len(depthwise) != 4 or blocks != set(range(len(blocks))):
        return None
    head = {"classes": shapes["head.weight"][0]} if len(shapes.get("head.weight", ())) == 2 else {}
    return {
        "dim": stem[0],
        "depth": len(blocks),
        "kernel_size": depthwise[2],
        "patch_size": stem[2],
        "channels": stem[1],
        **head,
    }


def read_checkpoint(path: Path) -> Checkpoint:
    """Open timm's .safetensors or the reference's .pth.tar, whose nn.Sequential numbers its layers.

    A `module.` before every name, which DataParallel leaves, and nesting under `state_dict` are undone. Of a
    PyTorch file only tensors are read (`weights_only=True`), of a safetensors file at first only names and
    shapes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is of another kind, or holds Python objects, which could run code.
        ImportError: a PyTorch file, and no PyTorch of version 2.10 or later: `weights_only` of earlier ones can be
            made to run code.
        OSError: the file cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file of weights")
    if not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'no ordinary file'}: name a file of weights")
    with path.open("rb"):
        pass  # safetensors says of a file that may not be read that there is none
    if path.name.endswith(SAFETENSORS_SUFFIX):
        shapes, read, activation = _open_safetensors(path)
    elif path.name.endswith(TORCH_SUFFIXES):
        shapes, read, activation = *_open_torch(path), None
    else:
        raise ValueError(
            f"{path} is no file of weights by its name: give one that ends in "
            f"{', '.join((SAFETENSORS_SUFFIX, *TORCH_SUFFIXES))} or .keras"
        )
    names = {ours: theirs for theirs, ours in _timm_names(shapes).items()}
    if len(names) < len(shapes):
        raise ValueError(f"{path} names tensors of the same place twice: save the model's state_dict() anew")
    return Checkpoint(
        path,
        {ours: shapes[theirs] for ours, theirs in names.items() if not ours.endswith(".num_batches_tracked")},
        lambda name: read(names[name]),
        activation,
    )


def _open_safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, no dict
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or is damaged ({error}): delete it, get it again") from None

    def read(name):
        try:
            return file.get_tensor(name)
        except (SafetensorError, TypeError, AttributeError) as error:  # of precisions that NumPy does not know
            raise ValueError(f"{path}: {name} cannot be read ({error}): save it as float32") from None

    return shapes, read, (file.metadata() or {}).get("activation")


def _open_torch(path):
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{path} is a PyTorch file, and reading it needs PyTorch: pip install torch, or use a .safetensors file"
        ) from None
    if torch.torch_version.TorchVersion(torch.__version__) < (2, 10):
        raise ImportError(
            f"PyTorch {torch.__version__} can be made to run code by a file (CVE-2025-32434, CVE-2026-24747): upgrade "
            "it to 2.10 or later, or use a .safetensors file"
        )
    try:
        # Namespace, which holds values by name and does nothing, is what timm's training leaves beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # of a dozen types, OSError too, by where the damage is
        # Not PyTorch's own words, which advise weights_only=False.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise ValueError(
                f"{path} holds Python objects ({refused[1]}), which could run code and are not loaded: get a file of "
                "tensors alone, or save the checkpoint's state_dict alone with torch.save"
            ) from None
        raise ValueError(f"{path} is no PyTorch checkpoint, or is damaged: delete it, get it again") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content or not all(map(_is_plain, content.values())):
        raise ValueError(f"{path} holds no state_dict of dense tensors: save the model's state_dict() with torch.save")

    def read(name):
        tensor = content[name].detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    return {str(name): tuple(tensor.shape) for name, tensor in content.items()}, read


def _is_plain(tensor):
    import torch

    return (
        isinstance(tensor, torch.Tensor)
        and not tensor.is_nested
        and not tensor.is_quantized
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
    )


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).strip().split("\n")[0]


def _timm_names(names):
    """Return a dict from the file's names to timm's."""
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    bare = {name: name.removeprefix(prefix) for name in names}
    if not all(re.match(r"\d{1,4}\.", name) for name in bare.values()):
        return bare
    head = max((int(name.split(".")[0]) for name in bare.values()), default=0)
    return {name: _name_of_sequential(number, head) for name, number in bare.items()}


def _name_of_sequential(name, head):
    """Translate a name in the reference's nn.Sequential: 0 and 2 are the stem, 3 and on the blocks, last the head."""
    first, rest = name.split(".", 1)
    number = int(first)
    if number in (0, 2):
        return f"stem.{name}"
    if rest in ("weight", "bias") and number == head:
        return f"head.{rest}"
    return f"blocks.{number - 3}.{rest}" if number > 2 else name
