"""Read Keras's .weights.h5 files.

Such a file has no names of layers, only classes with a number that counts up in the order of the layers:

    layers/conv2d/vars/0               kernel of the first Conv2D, the stem
    layers/conv2d/vars/1               its bias
    layers/conv2d_1/vars/0             kernel of the second Conv2D, the first block's pointwise convolution
    layers/depthwise_conv2d/vars/0     ...

So a ConvMixer is found by the number of its layers of each class, and they are assigned in order.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from ...files.archives import require_bounded
from ..tensor_names import HEAD, TENSORS, layer_names
from .kind import KERAS_WEIGHTS_SUFFIX, unreadable

_GROUP = re.compile(r"(conv2d|depthwise_conv2d|batch_normalization|dense)(?:_(\d{1,5}))?")
_CLASSES = {
    "Conv2D": "conv2d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "BatchNormalization": "batch_normalization",
    "Dense": "dense",
}
_KERAS_2 = ("layer_names", "keras_version", "model_config")
"""Attributes of a file that Keras 2 wrote."""


@dataclass(frozen=True)
class KerasWeights:
    """The tensors of a ConvMixer by timm's names, in PyTorch's layout."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    """Read a tensor by its name."""
    ours: bool
    """Whether the layers have the names that `ConvMixer` gives them; files of older Keras have none."""


class _Refused(Exception):
    """The message of an error about a file that is intact."""


def open_keras_weights(path: Path) -> KerasWeights:
    """Find the ConvMixer in a .weights.h5 file; another model may wrap it.

    Raises:
        ValueError: the file is damaged, is of another kind, or does not hold a ConvMixer.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if any(name in file.attrs for name in _KERAS_2):
                raise _Refused(f"{path} was written by Keras 2: load it there into its model, and save that as .keras")
            shapes = check_datasets(path, file)
            places = _places(shapes)
            if places is None:
                raise _Refused(f"{path} does not hold the layers of one ConvMixer: save its model as .keras")
            tensors = {}
            for (layer, kind), place in places.items():
                for index, (name, axes) in enumerate(TENSORS[kind]):
                    array = f"{place}/vars/{index}"
                    shape = shapes.get(array, ())
                    if len(shape) != len(axes):
                        raise _Refused(
                            f"{path} does not hold {array} as an array of {len(axes)} axes: save the model again"
                        )
                    tensors[f"{layer}.{name}"] = array, axes, tuple(shape[axis] for axis in axes)
            ours = file[places["stem.2", "BatchNormalization"]]["vars"].attrs.get("name") == "stem_bn"
    except MemoryError:
        raise
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, IndexError and others on damaged files
        raise unreadable(path, KERAS_WEIGHTS_SUFFIX, type(error).__name__) from None

    def read(name):
        place, axes, _ = tensors[name]
        try:
            with h5py.File(path, "r") as file:
                array = np.asarray(file[place])
                if file[place].attrs.get("dtype") == "bfloat16":
                    array = array.view(ml_dtypes.bfloat16)
        except MemoryError:
            raise
        except Exception as error:
            raise unreadable(path, KERAS_WEIGHTS_SUFFIX, f"{type(error).__name__} at {place}") from None
        return np.transpose(array, axes)

    return KerasWeights({name: shape for name, (_, _, shape) in tensors.items()}, read, ours)


def check_datasets(path: Path, file) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an open HDF5 file's arrays by their places in it.

    Raises an error, with a sentence about the file, if an array is stored in another file, or if they are far larger
    than the file.
    """
    import h5py

    shapes, unpacked, packed = {}, 0, 0

    def add(name, found):
        nonlocal unpacked, packed
        if isinstance(found, h5py.Dataset):
            if found.external or found.is_virtual:
                raise _Refused(f"{path} keeps {name} in another file, which is not read: save the weights in one file")
            shapes[name] = found.shape
            unpacked += found.size * found.dtype.itemsize
            packed += found.id.get_storage_size()

    file.visititems(add)  # follows no links, to other files or within
    try:
        require_bounded(path, unpacked, packed)
    except ValueError as error:
        raise _Refused(str(error)) from None
    return shapes


def _places(shapes):
    """Return (layer's name in timm, class) -> the layer's place in the file; None if there is no whole ConvMixer."""
    models = {}  # a model's place -> for each of its layers with weights: class, number, place
    for name in shapes:
        *model, layer, variables, _ = ["", "", *name.split("/")]
        if variables == "vars" and (match := _GROUP.fullmatch(layer)):
            place = name.rsplit("/", 2)[0]
            models.setdefault("/".join(model[2:]), {})[place] = match[1], int(match[2] or 0), place
    for model, layers in models.items():
        ordered = {
            kind: sorted(layer for layer in layers.values() if layer[0] == name) for kind, name in _CLASSES.items()
        }
        depth = len(ordered["DepthwiseConv2D"])
        if not ordered["Dense"]:  # the classifier may be a layer of the model around the ConvMixer
            around = (others.values() for outer, others in models.items() if model.startswith(f"{outer}/"))
            ordered["Dense"] = [layer for others in around for layer in others if layer[0] == "dense"]
        if len(ordered["Dense"]) != 1:
            ordered["Dense"] = []
        if depth == 0 or len(ordered["Conv2D"]) != depth + 1 or len(ordered["BatchNormalization"]) != 2 * depth + 1:
            continue
        remaining = {kind: iter(found) for kind, found in ordered.items()}
        wanted = [(layer, kind) for layer, kind in layer_names(depth) if layer != HEAD or ordered["Dense"]]
        return {(layer, kind): next(remaining[kind])[2] for layer, kind in wanted}
    return None
