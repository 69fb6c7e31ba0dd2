"""Load a file of weights into a ConvMixer, and save a ConvMixer's weights for PyTorch."""

import logging
import math
import os
from pathlib import Path

import numpy as np

from ..environment.backend import keras
from ..files.atomic import atomic_file
from ..model.variants import variant_of
from .checkpoint import EPSILON, Checkpoint, read_checkpoint
from .formats.keras_model import read_keras_model
from .formats.kind import KERAS_SUFFIX, SAFETENSORS_SUFFIX, SUFFIXES, local_path
from .model_layers import convmixer_layers
from .tensor_fit import described, head_without_place, require_fit
from .tensor_names import architecture_of

STEM = "stem.0.weight"
RGB = 3

logger = logging.getLogger(__name__)


def load_weights(model: keras.Model, path: str | Path) -> None:
    """Load a file of weights into a ConvMixer, with the statistics of its normalizations.

    It reads timm's .safetensors, PyTorch's files (.pth, .pth.tar, .pt, .bin, .ckpt, .t7), for which PyTorch must be
    installed, and Keras's .keras and .weights.h5. Code in a file is not run. Weights are converted to float32. Prefixes
    of names, such as `module.`, and dictionaries around the weights, such as `state_dict`, are recognized. If a file
    has both the weights and their moving average, the average is loaded.

    If the model has no classifier, or one for another number of classes, the file's classifier is left out, and the
    model's own stays as it is. Weights for RGB images are adapted to other numbers of channels as in timm: summed for
    one channel, otherwise repeated and scaled. Warnings in the log say what was ignored or adapted. If an error is
    raised, the model stays as it was.

    Args:
        model: a ConvMixer; it may be inside another model, and its layers may have any names.
        path: the file; `~` is expanded.

    Example:
        ```python
        kc.load_weights(model, "model.safetensors")
        ```

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model does not hold a ConvMixer, or the file is damaged, holds NaN or code, or does not fit. If
            it does not fit, the message lists every missing, extra or misshapen tensor by its name in timm.
        ImportError: it is a PyTorch file, and PyTorch is not installed or older than 2.10.
        OSError: the file cannot be read.
    """
    target = convmixer_layers(model)
    checkpoint = _open(local_path(path))
    needed = target.shapes
    left_out = head_without_place(checkpoint.shapes, needed)
    given = {name: shape for name, shape in checkpoint.shapes.items() if name not in left_out}
    wanted = {name: shape for name, shape in needed.items() if name not in left_out}
    channels = _channels_to_adapt(given, wanted)
    if channels:
        given[STEM] = wanted[STEM]
    require_fit(checkpoint.path, given, wanted, checkpoint.extra)
    _check_activation(target.activation, checkpoint)
    loaded = []
    for layer, tensors in target.layers:
        if {name for name, _ in tensors} & set(left_out):
            continue
        arrays = {name: _read(checkpoint, name) for name, _ in tensors}
        if channels and STEM in arrays:
            arrays[STEM] = _adapt_channels(arrays[STEM], channels)
        if isinstance(layer, keras.layers.BatchNormalization):
            module = tensors[0][0].rsplit(".", 1)[0]
            _adapt_epsilon(arrays, module, checkpoint.epsilon(module), layer.epsilon)
        loaded.append((layer, [np.transpose(arrays[name], np.argsort(axes)) for name, axes in tensors]))
    for layer, arrays in loaded:
        layer.set_weights(arrays)
    _say_what_was_done(checkpoint, target, left_out, channels)


def save_weights_torch(model: keras.Model, path: str | Path) -> None:
    """Write a ConvMixer's weights as a .safetensors file, for timm's ConvMixer of the same sizes.

    timm loads it with `strict=True`. The tensors are float32, and the file's metadata name the activation. If writing
    fails, what was at `path` before stays. ImageNet's scaling, which `include_preprocessing=True` puts into the Keras
    model, is not a weight: give the PyTorch model what `preprocess_input` returns.

    Args:
        model: a ConvMixer; it may be inside another model.
        path: the file to write, which ends in .safetensors; `~` is expanded.

    Example:
        ```python
        kc.save_weights_torch(model, "mine.safetensors")
        kc.load_weights(model, "mine.safetensors")  # back again
        ```

    Raises:
        ValueError: the model does not hold a ConvMixer, or has other layers with weights, which would be lost; or
            `path` does not end in .safetensors.
        OSError: the folder does not exist, or the disk is full.
    """
    from safetensors.numpy import save

    path = local_path(path)
    if not path.name.endswith(SAFETENSORS_SUFFIX):
        raise ValueError(f"{path} must end in .safetensors, which both timm and load_weights read without running code")
    source = convmixer_layers(model)
    if source.others:
        raise ValueError(
            f"the model {model.name!r} has layers that timm's ConvMixer has no place for: {', '.join(source.others)}; "
            "build it with ConvMixer(classes=...), or save the part that ConvMixer() returned"
        )
    tensors = source.tensors
    for module, epsilon in source.epsilons.items():
        _adapt_epsilon(tensors, module, epsilon, EPSILON)
    tensors = {name: np.ascontiguousarray(array, "float32") for name, array in tensors.items()}
    counters = {
        name.replace("running_var", "num_batches_tracked"): np.zeros((), "int64")  # PyTorch's strict loading asks
        for name in tensors
        if name.endswith("running_var")
    }
    metadata = {"format": "pt", **({"activation": source.activation} if source.activation else {})}
    content = save({**tensors, **counters}, metadata)
    with atomic_file(path) as partial:
        partial.write_bytes(content)  # not save_file, which lets nobody else read the file


def require_weights_file(weights: str | Path) -> Path:
    """Check, before a model is built, that `weights` is the path of a file that `load_weights` may read.

    Raises:
        ValueError: it is not a path, has another suffix, or does not exist.
    """
    path = local_path(weights) if isinstance(weights, (str, os.PathLike)) else None
    if path is None or not path.name.endswith(SUFFIXES):
        raise ValueError(
            f"weights={str(weights)!r}: allowed are None, 'imagenet', and the path of a file that ends in "
            f"{', '.join(SUFFIXES)}"
        )
    if not path.is_file():
        raise ValueError(f"weights={str(weights)!r}: there is no such file")
    return path


def _open(path):
    """Return the checkpoint in a file of any kind, a .keras file among them."""
    if not (path.suffix == KERAS_SUFFIX and path.is_file()):
        return read_checkpoint(path)
    model = read_keras_model(path)
    try:
        source = convmixer_layers(model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tensors, epsilons = source.tensors, source.epsilons
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Checkpoint(path, shapes, tensors.__getitem__, source.activation, epsilons.__getitem__)


def _channels_to_adapt(given, wanted):
    """Return the number of channels to which RGB weights are to be adapted, that of the model's images; else None."""
    theirs, ours = given.get(STEM, ()), wanted[STEM]  # [dim, channels, height, width]
    if len(theirs) != 4 or theirs[1] != RGB or ours[1] == RGB:
        return None
    return ours[1] if (theirs[0], *theirs[2:]) == (ours[0], *ours[2:]) else None


def _adapt_channels(kernel, channels):
    """Adapt a kernel `[dim, 3, size, size]` for RGB to another number of channels.

    Source: `adapt_input_conv` in timm/models/_manipulate.py.
    """
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True)  # the same result as for the grey image, repeated as RGB
    repeated = np.concatenate([kernel] * math.ceil(channels / RGB), axis=1)[:, :channels]
    return repeated * np.float32(RGB / channels)


def _adapt_epsilon(tensors, module, theirs, ours):
    """Change a normalization's scale so that it computes the same with the epsilon `ours` instead of `theirs`.

    scale / sqrt(variance + theirs) = changed / sqrt(variance + ours). If `theirs` is None, unknown, nothing changes.
    """
    if theirs is None or np.float32(theirs) == np.float32(ours):
        return
    variance = tensors[f"{module}.running_var"].astype("float64")
    factor = np.sqrt((variance + ours) / (variance + theirs))
    tensors[f"{module}.weight"] = (tensors[f"{module}.weight"] * factor).astype("float32")


def _check_activation(ours, checkpoint):
    """Check that a file's weights were trained with the model's activation, as far as the file says; or warn."""
    if None not in (checkpoint.activation, ours) and checkpoint.activation != ours:
        raise ValueError(
            f"{checkpoint.path} is for a model with activation={checkpoint.activation!r}, and this one has {ours!r}: "
            "build the model with the activation that the weights were trained with"
        )
    sizes = architecture_of(checkpoint.shapes) or {}
    variant = variant_of(*(sizes.get(name, 0) for name in ("dim", "depth", "kernel_size", "patch_size")))
    if variant and variant.weights and checkpoint.activation is None and ours not in (None, variant.activation):
        logger.warning(
            "%s has the sizes of published weights, which were trained with activation=%r, and the model has %r",
            checkpoint.path.name,
            variant.activation,
            ours,
        )


def _read(checkpoint, name):
    """Return a tensor as float32; raise ValueError if it holds what no trained weights are."""
    array = checkpoint.read(name)
    if array.dtype.kind not in "fV":  # V: bfloat16
        raise ValueError(f"{checkpoint.path}: {name} is {array.dtype}: get a file of floating-point weights")
    with np.errstate(over="ignore"):  # a large float64 becomes infinity, which is reported below
        array = array.astype("float32")
    if not np.isfinite(array).all() or (name.endswith("running_var") and (array < 0).any()):
        raise ValueError(
            f"{checkpoint.path}: {name} holds NaN, infinity or a negative variance, as the training diverged or the "
            "file is damaged: use an earlier checkpoint, or get the file again"
        )
    return array


def _say_what_was_done(checkpoint, target, left_out, channels):
    """Warn of everything in a file that was not loaded as it is."""
    name = checkpoint.path.name
    if left_out:
        head = target.shapes.get("head.bias")
        classes = f"{head[0]} classes" if head else "no classifier"
        tensors = " and ".join(f"{tensor} {list(checkpoint.shapes[tensor])}" for tensor in left_out)
        logger.warning("%s: %s left out, as the model has %s", name, tensors, classes)
    if checkpoint.average_instead_of is not None:
        logger.warning(
            "%s: the moving average of the weights is loaded, not the weights themselves (%s)",
            name,
            checkpoint.average_instead_of,
        )
    if checkpoint.extra or checkpoint.others:
        ignored = described(checkpoint.extra or {}, checkpoint.others)
        logger.warning("%s: ignored, as it is not part of a ConvMixer: %s", name, ignored)
    if channels:
        how = "summed over RGB" if channels == 1 else f"those for RGB, repeated and scaled by {RGB}/{channels}"
        logger.warning("%s: weights of the patch embedding for %d channels are %s, as in timm", name, channels, how)
    if any(checkpoint.epsilon(module) is None for module in target.epsilons):
        epsilon = next(iter(target.epsilons.values()))
        logger.warning(
            "%s does not say its normalizations' epsilon: the model's, %g, is assumed; if it was trained with another, "
            "such as Keras's default of 0.001, save the trained model as .keras",
            name,
            epsilon,
        )
