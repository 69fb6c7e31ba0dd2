"""Weights from files into a model, and from a model out to PyTorch: exactly, or not at all."""

import logging
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from .atomic import atomic_file
from .backend import keras
from .checkpoint import (
    BLOCK,
    SAFETENSORS_SUFFIX,
    TORCH_SUFFIXES,
    Checkpoint,
    architecture_of,
    first_line,
    read_checkpoint,
)
from .variants import variant_of

KERAS_SUFFIX = ".keras"
# Keras layer -> timm module. Source: `ConvMixer` in timm/models/convmixer.py.
MODULES = (
    (r"stem_conv", r"stem.0"),
    (r"stem_bn", r"stem.2"),
    (r"block_(\d+)_depthwise_conv", r"blocks.\1.0.fn.0"),
    (r"block_(\d+)_depthwise_bn", r"blocks.\1.0.fn.2"),
    (r"block_(\d+)_pointwise_conv", r"blocks.\1.1"),
    (r"block_(\d+)_pointwise_bn", r"blocks.\1.3"),
    (r"head_dense", r"head"),
)
HEAD = ("head.weight", "head.bias")
# Of each kind of layer its weights in Keras's order: name in PyTorch, Keras's axes in PyTorch's order.
TENSORS = {
    "Conv2D": (("weight", (3, 2, 0, 1)), ("bias", (0,))),
    "DepthwiseConv2D": (("weight", (2, 3, 0, 1)), ("bias", (0,))),
    "Dense": (("weight", (1, 0)), ("bias", (0,))),
    "BatchNormalization": (("weight", (0,)), ("bias", (0,)), ("running_mean", (0,)), ("running_var", (0,))),
}

logger = logging.getLogger(__name__)


def load_weights(model: keras.Model, path: Path) -> None:
    """Load a file of weights into a ConvMixer, normalization statistics included: all of it, or nothing.

    Takes timm's .safetensors, the reference's .pth.tar (needs PyTorch; no code in it is run), and Keras's .keras.
    All are read as float32. Where the model has no classifier, or one for another number of classes, the file's
    classifier is left out, a warning in the log says so, and the model's own stays as it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model is no ConvMixer; or the file is damaged, holds NaN or code, or does not fit: the
            sentence lists every missing, extra or misshapen tensor by its name in timm.
        ImportError: a PyTorch file, and PyTorch is not installed or older than 2.10.
        OSError: the file cannot be read.
    """
    path = Path(path)
    layers = _layers(model)
    checkpoint = _open(path)
    needed = _shapes(layers)
    left_out = _head_that_has_no_place(checkpoint.shapes, needed)
    given, wanted = (
        {name: shape for name, shape in shapes.items() if name not in left_out}
        for shapes in (checkpoint.shapes, needed)
    )
    _check_fit(path, given, wanted)
    _check_activation(model, checkpoint)
    loaded = [
        (layer, [np.transpose(_read(checkpoint, name), np.argsort(axes)) for name, axes in tensors])
        for layer, tensors in layers
        if not {name for name, _ in tensors} & set(left_out)
    ]
    for layer, arrays in loaded:
        layer.set_weights(arrays)
    if left_out:
        classes = f"{needed['head.bias'][0]} classes" if "head.bias" in needed else "no classifier"
        tensors = " and ".join(f"{name} {list(checkpoint.shapes[name])}" for name in left_out)
        logger.warning("%s: %s left out, as the model has %s", path.name, tensors, classes)


def save_weights_torch(model: keras.Model, path: Path) -> None:
    """Write a ConvMixer's weights as a .safetensors file that timm's ConvMixer of the same sizes loads strictly.

    float32. With `include_preprocessing=True` the PyTorch model must be given what `preprocess_input` returns: the
    scaling is no weight. The file's metadata hold the activation's name. What was at `path` before stays where
    writing fails.

    Raises:
        ValueError: the model is no ConvMixer, or has other layers with weights, which would be lost; or `path` does
            not end in .safetensors.
        OSError: the folder does not exist, or the disk is full.
    """
    from safetensors.numpy import save

    path = Path(path)
    if not path.name.endswith(SAFETENSORS_SUFFIX):
        raise ValueError(f"{path} must end in .safetensors, which both timm and load_weights read without running code")
    require_convmixer(model)
    tensors = {name: np.ascontiguousarray(array, "float32") for name, array in _tensors(model).items()}
    counters = {
        name.replace("running_var", "num_batches_tracked"): np.zeros((), "int64")  # PyTorch's strict loading asks
        for name in tensors
        if name.endswith("running_var")
    }
    content = save({**tensors, **counters}, {"format": "pt", "activation": _activation(model)})
    with atomic_file(path) as partial:
        partial.write_bytes(content)  # not save_file, which lets nobody else read the file


def read_keras_model(path: Path) -> keras.Model:
    """Load a .keras file, without its optimizer; code in it is not run.

    Raises:
        ValueError: it is none, is damaged, or holds code or classes that plain Keras does not know.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    with path.open("rb"):
        pass  # Keras says of a file that may not be read, and of a damaged one, that there is none
    if path.suffix == KERAS_SUFFIX and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is damaged, or no .keras file: delete it, get it again")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except MemoryError:
        raise
    except Exception as error:  # of Keras's, h5py's and zipfile's own types, OSError too
        reason = first_line(error)
        if "safe_mode" in str(error):  # not Keras's own words, which advise to switch that off
            reason = "it holds code, which is not run; build the model of Keras's own layers and save it again"
        elif unknown := re.search(r"Could not locate (?:class|function) '([^']+)'", str(error)):
            reason = f"it holds {unknown[1]}, which Keras does not have; build the model of Keras's own layers"
        raise ValueError(f"{path} is not a .keras file that plain Keras can load: {reason}") from error


def require_convmixer(model: keras.Model) -> None:
    """Check that timm's ConvMixer has a place for every weight of the model.

    Raises ValueError: the model is no ConvMixer, or has other layers with weights.
    """
    known = {layer.name for layer, _ in _layers(model)}
    others = [layer.name for layer in model.layers if layer.weights and layer.name not in known]
    if others:
        raise ValueError(
            f"the model {model.name!r} has layers that timm's ConvMixer has no place for: {', '.join(others)}; build "
            "it with ConvMixer(classes=...), or save the part that ConvMixer() returned"
        )


def require_weights_file(weights) -> Path:
    """Check, before a model is built for it, that `weights` names a file of a kind that `load_weights` takes.

    Raises ValueError: it is no path, of another kind, or not there.
    """
    suffixes = (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES, KERAS_SUFFIX)
    if not isinstance(weights, (str, os.PathLike)) or not Path(weights).name.endswith(suffixes):
        raise ValueError(
            f"weights={str(weights)!r}: allowed are None, 'imagenet', and the path of a file that ends in "
            f"{', '.join(suffixes)}"
        )
    if not Path(weights).is_file():
        raise ValueError(f"weights={str(weights)!r}: there is no such file")
    return Path(weights)


def _layers(model):
    """Return the layers that hold weights: each with its tensors' names in timm and axes, in Keras's order."""
    found = []
    for layer in model.layers:
        for pattern, module in MODULES:
            match = re.fullmatch(pattern, layer.name)
            if match and type(layer).__name__ in TENSORS:
                tensors = TENSORS[type(layer).__name__]
                if len(layer.weights) != len(tensors):
                    raise ValueError(
                        f"the layer {layer.name!r} holds {len(layer.weights)} weights, and a ConvMixer's has "
                        f"{len(tensors)}: take LoRA or quantization out of the model first"
                    )
                found.append((layer, [(f"{match.expand(module)}.{name}", axes) for name, axes in tensors]))
    if not found or found[0][0].name != "stem_conv":
        raise ValueError(
            f"the model {model.name!r} has no layer 'stem_conv': give a model that ConvMixer() returned, not one that "
            "wraps it"
        )
    return found


def _shapes(layers):
    return {
        name: tuple(weight.shape[axis] for axis in axes)
        for layer, tensors in layers
        for (name, axes), weight in zip(tensors, layer.weights, strict=True)
    }


def _tensors(model):
    """Return a ConvMixer's weights in PyTorch's layout by timm's names."""
    return {
        name: np.transpose(array, axes)
        for layer, tensors in _layers(model)
        for (name, axes), array in zip(tensors, layer.get_weights(), strict=True)
    }


def _activation(model):
    return model.get_layer("stem_activation").activation.__name__


def _open(path):
    if not (path.suffix == KERAS_SUFFIX and path.is_file()):
        return read_checkpoint(path)
    source = read_keras_model(path)
    try:
        tensors = _tensors(source)
    except ValueError as error:
        raise ValueError(f"{path} holds no ConvMixer: {error}") from None
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Checkpoint(path, shapes, tensors.__getitem__, _activation(source))


def _head_that_has_no_place(shapes, needed):
    head = [name for name in HEAD if name in shapes]
    if "head.weight" not in needed:
        return head
    # Only the number of classes may differ; another width is a misfit as any other.
    fits = [shapes[name][:1] == needed[name][:1] for name in head]
    same_width = shapes.get("head.weight", ())[1:] == needed["head.weight"][1:]
    return head if head == list(HEAD) and same_width and not any(fits) else []


def _check_fit(path, shapes, wanted):
    groups = {
        "missing": {(name, f"{list(wanted[name])}") for name in wanted.keys() - shapes.keys()},
        "extra": {(name, f"{list(shapes[name])}") for name in shapes.keys() - wanted.keys()},
        "of another shape": {
            (name, f"{list(shapes[name])}, not {list(wanted[name])}")
            for name in shapes.keys() & wanted.keys()
            if shapes[name] != wanted[name]
        },
    }
    faults = "; ".join(f"{kind}: {_listed(tensors)}" for kind, tensors in groups.items() if tensors)
    if not faults:
        return
    architecture = architecture_of(shapes)
    if architecture and architecture == architecture_of(wanted):
        remedy = "The file is incomplete, or not of timm's or the reference's ConvMixer: get it again"
    elif architecture:
        holds = ", ".join(f"{name}={value}" for name, value in architecture.items())
        remedy = f"The file holds a ConvMixer with {holds}: build the model like that"
    else:
        remedy = "The file holds no whole ConvMixer: get timm's model.safetensors or the reference's .pth.tar"
    raise ValueError(f"{path} does not fit the model. {remedy}. {faults}")


def _listed(tensors):
    """Name every tensor; those that differ only by the block's number together: "blocks.{0-19}.1.bias [8]"."""
    together = {}
    for name, note in tensors:
        name = name if name.isprintable() else repr(name)  # a file may say anything
        block = BLOCK.match(name)
        place = ("blocks", name[block.end() :]) if block else (name, name)
        together.setdefault((*place, note), []).extend([int(block[1])] if block else [])
    return ", ".join(
        f"blocks.{_ranges(sorted(numbers))}.{name} {note}" if numbers else f"{name} {note}"
        for (_, name, note), numbers in sorted(together.items())
    )


def _ranges(numbers):
    if len(numbers) == 1:
        return str(numbers[0])
    runs = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return "{" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) + "}"


def _check_activation(model, checkpoint):
    ours = _activation(model)
    if checkpoint.activation not in (None, ours):
        raise ValueError(
            f"{checkpoint.path} is of a model with activation={checkpoint.activation!r}, and this one has {ours!r}: "
            "pass the activation that the weights were trained with"
        )
    sizes = architecture_of(checkpoint.shapes) or {}
    variant = variant_of(*(sizes.get(name, 0) for name in ("dim", "depth", "kernel_size", "patch_size")))
    if variant and variant.weights and checkpoint.activation is None and variant.activation != ours:
        logger.warning(
            "%s has the sizes of published weights that are for activation=%r, and the model has %r",
            checkpoint.path.name,
            variant.activation,
            ours,
        )


def _read(checkpoint, name):
    array = checkpoint.read(name)
    if array.dtype.kind not in "fV":  # V: bfloat16
        raise ValueError(f"{checkpoint.path}: {name} is of {array.dtype}: get a file of floating-point weights")
    with np.errstate(over="ignore"):  # of float64: infinity is named below
        array = array.astype("float32")
    if not np.isfinite(array).all() or (name.endswith("running_var") and (array < 0).any()):
        raise ValueError(
            f"{checkpoint.path} is damaged: {name} holds NaN, infinity or a negative variance; delete it, get it again"
        )
    return array
