"""ConvMixer as a plain Keras 3 functional model."""

import math
import numbers
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ..environment.backend import keras
from ..weights.loading import load_weights, require_weights_file
from ..weights.published import fetch, require_published
from .imagenet import DEVIATION, MEAN


def ConvMixer(
    dim: int = 1536,
    depth: int = 20,
    kernel_size: int = 9,
    patch_size: int = 7,
    activation: str | Callable = "gelu",
    include_preprocessing: bool = False,
    include_top: bool = True,
    weights: str | Path | None = None,
    input_tensor: Any = None,  # a KerasTensor; keras.Input is typed as one or a list
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer",
) -> keras.Model:
    """Build a ConvMixer: a patch embedding, then `depth` blocks of a depthwise and a pointwise convolution.

    The model takes float32 images `[batch, height, width, channels]`: pixels 0..255 with `include_preprocessing=True`,
    otherwise scaled by the caller. It returns probabilities `[batch, classes]`, or logits with
    `classifier_activation=None`; without its top, features `[batch, height // patch_size, width // patch_size, dim]`,
    or `[batch, dim]` with `pooling`. The defaults are the paper's ConvMixer-1536/20. Under a mixed dtype policy the
    classifier stays float32.

    Source: section 2 and appendix D of the paper; `convmixer.py` of locuslab/convmixer, with PyTorch's default
    initialization, for which the published recipes were tuned.

    Args:
        dim: channels of every block.
        depth: number of blocks.
        kernel_size: side of the depthwise kernels, in patches.
        patch_size: side and stride of the patch embedding, in pixels.
        activation: name of a Keras activation; "gelu" is the exact (erf) one.
        include_preprocessing: put ImageNet's scaling inside the model; needs 3 channels.
        include_top: end in average pooling and the classifier.
        weights: None (random), "imagenet" (published for 1536/20, 768/32 with ReLU, and 1024/20), or the path of a file
            that `load_weights` reads. If the file's classifier has another number of classes, it is left out; weights
            for RGB are adapted to other numbers of channels as in timm. Each is reported by a warning.
        input_tensor: a Keras tensor to use as the model's input.
        input_shape: (height, width, channels); height and width may be None. The default is (224, 224, 3), without top
            (None, None, 3).
        pooling: without top, None, "avg" or "max"; it has no effect with top, as in keras.applications.
        classes: number of classes.
        classifier_activation: activation of the classifier, None for logits.
        name: the model's name.

    Raises:
        ValueError: an argument is not allowed, or the weights do not fit; the message names the argument, its value and
            what is allowed.
        ConnectionError: the published weights are not in the hub's cache and cannot be downloaded.

    Example:
        ```python
        model = kc.ConvMixer(dim=64, depth=4, kernel_size=5, patch_size=2, input_shape=(32, 32, 3), classes=10)
        model(np.zeros((1, 32, 32, 3), "float32")).shape  # (1, 10)
        ```
    """
    # === Check the arguments ===
    _check_positive_integers(dim=dim, depth=depth, kernel_size=kernel_size, patch_size=patch_size)
    dim, depth, kernel_size, patch_size = int(dim), int(depth), int(kernel_size), int(patch_size)  # NumPy's too
    activation = _activation_name("activation", activation)
    if include_top:
        _check_positive_integers(classes=classes)
        classifier_activation = _activation_name("classifier_activation", classifier_activation)  # None is "linear"
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling={pooling!r}: allowed are None, 'avg' and 'max'")
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"keras.config.image_data_format() is {keras.config.image_data_format()!r}: ConvMixer takes "
            "'channels_last' only; call keras.config.set_image_data_format('channels_last')"
        )
    inputs = _input(input_tensor, input_shape, include_top)
    _check_image(inputs, patch_size, include_preprocessing)
    if weights == "imagenet":
        variant = require_published(
            dim=dim,
            depth=depth,
            kernel_size=kernel_size,
            patch_size=patch_size,
            activation=activation,
            classes=classes if include_top else None,
            classifier_activation=classifier_activation,
        )
        weights = fetch(variant)
    elif weights is not None:
        weights = require_weights_file(weights)

    # === Layers ===
    x = inputs  # [batch, height, width, channels]
    if include_preprocessing:
        x = keras.layers.Rescaling(
            scale=[1 / (255 * deviation) for deviation in DEVIATION],
            offset=[-m / d for m, d in zip(MEAN, DEVIATION, strict=True)],
            name="preprocessing",
        )(x)

    x = _convolution(x, dim, patch_size, stride=patch_size, padding="valid", name="stem_conv")
    x = _activate_and_normalize(x, activation, name="stem")  # [batch, height // patch_size, width // patch_size, dim]
    for index in range(depth):
        block = f"block_{index}"
        # Mix positions within each channel, and add the input; then mix channels at each position.
        residual = x
        x = _depthwise_convolution(x, kernel_size, name=f"{block}_depthwise_conv")
        x = _activate_and_normalize(x, activation, name=f"{block}_depthwise")
        x = keras.layers.Add(name=f"{block}_add")([x, residual])
        x = _convolution(x, dim, 1, name=f"{block}_pointwise_conv")
        x = _activate_and_normalize(x, activation, name=f"{block}_pointwise")

    if include_top:
        # Under mixed precision the sum over all positions and the softmax stay precise; they cost next to nothing.
        dtype = "float32" if keras.config.dtype_policy().name.startswith("mixed_") else None
        x = keras.layers.GlobalAveragePooling2D(dtype=dtype, name="head_pool")(x)  # [batch, dim]
        x = keras.layers.Dense(
            int(classes),
            activation=classifier_activation,
            kernel_initializer=_pytorch_uniform(dim),
            bias_initializer=_pytorch_uniform(dim),
            dtype=dtype,
            name="head_dense",
        )(x)
    elif pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)

    # === Model ===
    if input_tensor is not None:
        inputs = keras.utils.get_source_inputs(inputs)[0]
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        load_weights(model, weights)
    return model


def features(model: keras.Model) -> keras.Model:
    """Return a view of a ConvMixer whose output is a dict of every block's output: "block_0", "block_1", ...

    Each output is `[batch, height // patch_size, width // patch_size, dim]`, taken after the block's last normalization
    as in timm. The view shares the model's layers.

    Raises ValueError: the model is not a ConvMixer.

    Example:
        ```python
        mixer = kc.ConvMixer(dim=64, depth=4, kernel_size=5, patch_size=2, input_shape=(32, 32, 3), classes=10)
        outputs = kc.features(mixer)(np.zeros((1, 32, 32, 3), "float32"))
        outputs["block_3"].shape  # (1, 16, 16, 64)
        ```
    """
    names = [layer.name for layer in model.layers if re.fullmatch(r"block_\d+_pointwise_bn", layer.name)]
    if not names:
        raise ValueError(
            f"the model {model.name!r} has no layer 'block_0_pointwise_bn': give a model that ConvMixer() returned, "
            "not one that wraps it"
        )
    outputs = {name.removesuffix("_pointwise_bn"): model.get_layer(name).output for name in names}
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_features")


def _pytorch_uniform(fan_in: int) -> keras.Initializer:
    # PyTorch's default, uniform within 1 / sqrt(fan_in). Not Keras's VarianceScaling: its fan of a depthwise kernel
    # counts every channel, so that a 9x9 kernel of 1536 channels would start 20 times smaller than the reference's.
    limit = 1 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit)


def _convolution(
    x: keras.KerasTensor, dim: int, size: int, name: str, stride: int = 1, padding: str = "same"
) -> keras.KerasTensor:
    fan_in = size * size * x.shape[-1]
    return keras.layers.Conv2D(
        dim,
        size,
        strides=stride,
        padding=padding,
        kernel_initializer=_pytorch_uniform(fan_in),
        bias_initializer=_pytorch_uniform(fan_in),
        name=name,
    )(x)


def _depthwise_convolution(x: keras.KerasTensor, size: int, name: str) -> keras.KerasTensor:
    # "same" pads an even kernel by one more at the bottom and right, as PyTorch's "same" does.
    return keras.layers.DepthwiseConv2D(
        size,
        padding="same",
        depthwise_initializer=_pytorch_uniform(size * size),
        bias_initializer=_pytorch_uniform(size * size),
        name=name,
    )(x)


def _activate_and_normalize(x: keras.KerasTensor, activation: str, name: str) -> keras.KerasTensor:
    x = keras.layers.Activation(activation, name=f"{name}_activation")(x)
    # PyTorch's defaults, which are not Keras's; PyTorch's momentum 0.1 is Keras's 0.9.
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)


def _input(input_tensor, input_shape, include_top):
    if input_shape is not None:
        input_shape = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else (input_shape,)
        if (
            len(input_shape) != 3
            or not all(side is None or _is_positive_integer(side) for side in input_shape)
            or input_shape[-1] is None
        ):
            raise ValueError(
                f"input_shape={input_shape}: give (height, width, channels), positive integers; "
                "height and width may be None"
            )
    if input_tensor is None:
        default = (224, 224, 3) if include_top else (None, None, 3)
        return keras.Input(input_shape or default, name="images")
    if not keras.backend.is_keras_tensor(input_tensor):
        raise ValueError(
            f"input_tensor is a {type(input_tensor).__name__}: give a Keras tensor, as keras.Input returns"
        )
    if input_shape is not None and tuple(input_tensor.shape[1:]) != input_shape:
        raise ValueError(
            f"input_shape={input_shape} is not the shape of input_tensor, "
            f"{tuple(input_tensor.shape[1:])}: give one of the two"
        )
    if len(input_tensor.shape) != 4:
        raise ValueError(f"input_tensor has shape {tuple(input_tensor.shape)}: give [batch, height, width, channels]")
    return input_tensor


def _check_image(inputs: keras.KerasTensor, patch_size: int, include_preprocessing: bool) -> None:
    _, height, width, channels = inputs.shape
    smallest = min((side for side in (height, width) if side is not None), default=None)
    if smallest is not None and patch_size > smallest:
        raise ValueError(
            f"patch_size={patch_size} is larger than the {height}x{width} image: "
            f"at most {smallest} is allowed, or a larger input_shape"
        )
    if include_preprocessing and channels != 3:
        raise ValueError(
            f"include_preprocessing=True scales 3 channels as ImageNet's, and the input has {channels}: "
            "pass include_preprocessing=False and scale before the model"
        )


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) > 0


def _check_positive_integers(**arguments: object) -> None:
    for argument, value in arguments.items():
        if not _is_positive_integer(value):
            raise ValueError(f"{argument}={value!r}: give a positive integer")


def _activation_name(argument: str, activation: str | Callable | None) -> str:
    try:
        function = keras.activations.get(activation)
        name = function.__name__
    except (ValueError, TypeError, AttributeError):
        function = name = None
    # A function of the caller's own would make a saved file need the caller's code.
    if name is None or getattr(keras.activations, name, None) is not function:
        raise ValueError(f"{argument}={activation!r}: give the name of a Keras activation, such as 'gelu' or 'relu'")
    return name
