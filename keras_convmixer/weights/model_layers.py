"""Find the layers of a ConvMixer in a Keras model by their order, whatever their names and the models around them.

Each layer or operation of the model becomes a letter, and a regular expression finds the ConvMixer in the text. A
ConvMixer of depth 1 with its classifier is

    C A N  D A N +  C A N  P F        stem, depthwise part of the block with its sum, pointwise part, head
"""

import re
from dataclasses import dataclass

import numpy as np

from ..environment.backend import keras
from ..environment.keras_internals import producer
from .tensor_names import TENSORS, layer_names

# C: convolution of whole patches, D: depthwise convolution, A: activation, N: BatchNormalization, +: sum, P: global
# average pooling, F: dense layer, W: any other operation with weights, .: any other one without.
_CONVMIXER = re.compile(r"(?<![+.])\.*(?P<body>CA?N(?:DA?N\+CA?N)+)(?P<rest>.*)")
_TRAINING_ONLY = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
    keras.layers.InputLayer,
)
_ACTIVATION_LAYERS = (keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
_OPERATIONS = {"gelu", "relu", "silu", "sigmoid", "tanh", "elu", "selu", "leakyrelu", "hardswish", "hardsilu"}
"""Class names, in lower case, of the operations of keras.ops that are activations."""


@dataclass(frozen=True)
class ConvMixerLayers:
    """The layers of a ConvMixer that have weights."""

    layers: list
    """Pairs of a layer and its weights, in Keras's order, as (name in timm, axes); see `tensor_names.TENSORS`."""
    activation: str | None
    """The activation's name in Keras; None if Keras has no name for it."""
    others: list[str]
    """Names of the layers with weights that are around the ConvMixer."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape in PyTorch of each tensor by timm's name."""
        return {
            name: tuple(weight.shape[axis] for axis in axes)
            for layer, tensors in self.layers
            for (name, axes), weight in zip(tensors, layer.weights, strict=True)
        }

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """Each tensor in PyTorch's layout by timm's name."""
        return {
            name: np.transpose(array, axes)
            for layer, tensors in self.layers
            for (name, axes), array in zip(tensors, layer.get_weights(), strict=True)
        }

    @property
    def epsilons(self) -> dict[str, float]:
        """Epsilon of each BatchNormalization by its name in timm, such as "stem.2"."""
        return {
            tensors[0][0].rsplit(".", 1)[0]: layer.epsilon
            for layer, tensors in self.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        }


def convmixer_layers(model: keras.Model) -> ConvMixerLayers:
    """Find the ConvMixer in a model. It may be wrapped, or built by other code, such as keras.io's example.

    Example:

        model = keras.Sequential([keras.layers.Rescaling(1 / 255), kc.ConvMixer(classes=5)])
        convmixer_layers(model).shapes["head.weight"]  # (5, 1536)

    Raises:
        ValueError: the model holds no ConvMixer or several ones, was not built, or has layers with additional weights,
            such as LoRA's.
    """
    operations = [operation for operation in _operations(model) if not isinstance(operation, _TRAINING_ONLY)]
    letters = "".join(map(_letter, operations))
    found = list(_CONVMIXER.finditer(letters))
    if not found:
        raise ValueError(
            f"the model {model.name!r} does not hold a ConvMixer, which is a patch embedding, then blocks of a "
            "depthwise convolution with a sum and a pointwise convolution, each with bias, activation and "
            "normalization: give a model of ConvMixer()"
        )
    if _CONVMIXER.search(found[0]["rest"]):
        raise ValueError(f"the model {model.name!r} holds several ConvMixers: give one of them")
    start, end = found[0].span("body")
    places = range(start, end)
    sums = [operations[place] for place in places if letters[place] == "+"]
    depthwise_layers = [operations[place] for place in places if letters[place] == "D"]
    for sum_, depthwise in zip(sums, depthwise_layers, strict=True):
        if not _adds_input(sum_, depthwise):
            raise ValueError(
                f"the model {model.name!r} does not hold a ConvMixer, as {sum_.name!r} does not add the input of "
                f"{depthwise.name!r}: give a model of ConvMixer()"
            )
    with_weights = [operation for operation in operations[start:end] if _letter(operation) in "CDN"]
    depth = letters[start:end].count("D")
    head = _head(operations[end:])
    layers = []
    for (name, kind), layer in zip(layer_names(depth), [*with_weights, head], strict=True):
        if layer is None:
            continue
        if not layer.built:
            raise ValueError(
                f"the model {model.name!r} has no weights yet: give it an Input, or call it on images once"
            )
        if len(layer.weights) != len(TENSORS[kind]):
            raise ValueError(
                f"the layer {layer.name!r} has {len(layer.weights)} weights, and that of a ConvMixer has "
                f"{len(TENSORS[kind])}: remove LoRA or quantization from the model first"
            )
        layers.append((layer, [(f"{name}.{tensor}", axes) for tensor, axes in TENSORS[kind]]))
    known = {id(layer) for layer, _ in layers}
    others = [layer.name for layer in operations if getattr(layer, "weights", None) and id(layer) not in known]
    activations = {
        _activation(operations[place], operations[place + 1]) for place in range(start, end) if letters[place] in "CD"
    }
    if len(activations) > 1:
        names = ", ".join(sorted(map(str, activations)))
        raise ValueError(
            f"the model {model.name!r} does not hold a ConvMixer, as its activations differ ({names}): give a model of "
            "ConvMixer()"
        )
    return ConvMixerLayers(layers, activations.pop(), others)


def _operations(model):
    """Return a model's layers and operations in order; a model among them is replaced by its own."""
    inner = model.layers if isinstance(model, keras.Sequential) else getattr(model, "operations", model.layers)
    found = []
    for operation in inner:
        found += _operations(operation) if isinstance(operation, keras.Model) else [operation]
    return found


def _adds_input(sum_, depthwise):
    """Tell whether a sum adds a convolution's input; also True where they are in different models."""
    try:
        taken, added = _origin(depthwise.input), [_origin(tensor) for tensor in sum_.input]
    except (AttributeError, ValueError):  # the model was not built, or the layer was called several times
        return True
    inside = isinstance(producer(taken), keras.layers.InputLayer)
    return inside or any(tensor is taken for tensor in added)


def _origin(tensor):
    """Return the tensor that a tensor is at inference: that before layers which act in training only."""
    operation = producer(tensor)
    while isinstance(operation, _TRAINING_ONLY) and not isinstance(operation, keras.layers.InputLayer):
        tensor = operation.input
        operation = producer(tensor)
    return tensor


def _letter(operation):
    """Return an operation's letter, see _CONVMIXER."""
    kinds = keras.layers
    if isinstance(operation, kinds.DepthwiseConv2D):
        return "D" if _keeps_size(operation) else "W"
    if isinstance(operation, kinds.Conv2D):
        return "C" if _takes_patches(operation) else "W"
    if isinstance(operation, kinds.BatchNormalization):
        return "N" if operation.axis in (-1, 3) else "W"
    if isinstance(operation, kinds.Dense):
        return "F"
    if isinstance(operation, kinds.Add) or type(operation).__name__ == "Add":
        return "+"
    if getattr(operation, "weights", None):
        return "W"
    if isinstance(operation, _ACTIVATION_LAYERS) or type(operation).__name__.lower() in _OPERATIONS:
        return "A"
    if isinstance(operation, kinds.GlobalAveragePooling2D) or type(operation).__name__ == "Mean":
        return "P"
    return "."


def _takes_patches(layer):
    """Tell whether a Conv2D is a patch embedding, or a 1x1 convolution."""
    square = layer.kernel_size[0] == layer.kernel_size[1] and layer.kernel_size == layer.strides
    whole = layer.padding == "valid" or layer.kernel_size == (1, 1)
    return square and whole and layer.groups == 1 and layer.data_format == "channels_last"


def _keeps_size(layer):
    """Tell whether a depthwise convolution is one of a ConvMixer's blocks."""
    square = layer.kernel_size[0] == layer.kernel_size[1]
    plain = layer.depth_multiplier == 1 and layer.strides == (1, 1) and layer.dilation_rate == (1, 1)
    return square and plain and layer.padding == "same" and layer.data_format == "channels_last"


def _head(operations):
    """Return the classifier: the dense layer after the pooling; None if there is none, or other weights follow."""
    letters = "".join(map(_letter, operations))
    match = re.fullmatch(r"[.P]*P[.]*(F)[.A]*", letters)
    return operations[match.start(1)] if match else None


def _name(function):
    """Return the name of an activation function of Keras; None for another function."""
    name = getattr(function, "__name__", None)
    return name if name and getattr(keras.activations, name, None) is function else None


def _activation(convolution, behind):
    """Return the name in Keras of a convolution's activation, its own or that of the operation `behind` it.

    "linear" without one; None for an activation that Keras has no name for.
    """
    own = _name(convolution.activation)
    if own != "linear":
        return own
    if isinstance(behind, keras.layers.Activation):
        return _name(behind.activation)
    name = type(behind).__name__.lower()
    plain_relu = name == "relu" and not getattr(behind, "max_value", None) and not getattr(behind, "negative_slope", 0)
    if plain_relu or (name == "gelu" and not behind.approximate):
        return name
    return None if _letter(behind) == "A" else "linear"
