"""ConvMixer as a plain Keras 3 functional model."""

import math
import numbers
import os
from pathlib import Path

try:
    import keras
except ImportError as error:
    raise ImportError(
        f"Keras needs a backend and could not load one ({error}): "
        "pip install 'keras-convmixer[train]', or set KERAS_BACKEND to jax or torch where that is installed"
    ) from error

# Of ImageNet, for pixels scaled to 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def ConvMixer(
    dim=1536,
    depth=20,
    kernel_size=9,
    patch_size=7,
    activation="gelu",
    include_preprocessing=False,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    name="convmixer",
):
    """Build a ConvMixer: a patch embedding, then `depth` equal layers of depthwise and pointwise convolution.

    Input: images `[batch, height, width, channels]`, float32; pixels 0..255 with `include_preprocessing`,
    else scaled by the caller. Output: probabilities `[batch, classes]`; logits with
    `classifier_activation=None`; without top `[batch, height // patch_size, width // patch_size, dim]`, or
    `[batch, dim]` with pooling. The defaults are the paper's ConvMixer-1536/20.

    Source: section 2 and appendix D of the paper; `convmixer.py` of locuslab/convmixer, with PyTorch's
    default initialization, which the published recipes were tuned for.

    Args:
        dim: channels of every layer.
        depth: number of layers.
        kernel_size: side of the depthwise kernels.
        patch_size: side and stride of the patch embedding.
        activation: name of a Keras activation; "gelu" is the exact (erf) one.
        include_preprocessing: put ImageNet's scaling inside the model; needs 3 channels.
        include_top: end in average pooling and the classifier.
        weights: None (random), or the path of a `.keras` file of the same architecture.
        input_tensor: a Keras tensor to use as the model's input.
        input_shape: (height, width, channels); height and width may be None. Default (224, 224, 3).
        pooling: without top, None, "avg" or "max".
        classes: number of classes.
        classifier_activation: activation of the classifier, None for logits.
        name: the model's name.

    Raises:
        ValueError: an argument is not allowed; the sentence names it, its value and what is.
    """
    _check_positive_integers(dim=dim, depth=depth, kernel_size=kernel_size, patch_size=patch_size)
    dim, depth, kernel_size, patch_size = int(dim), int(depth), int(kernel_size), int(patch_size)  # NumPy's too
    activation = _activation_name("activation", activation)
    if include_top:
        _check_positive_integers(classes=classes)
        classifier_activation = _activation_name("classifier_activation", classifier_activation)
        if pooling is not None:
            raise ValueError(
                f"pooling={pooling!r} goes with include_top=False only: the classifier brings its own average pooling"
            )
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling={pooling!r}: allowed are None, 'avg' and 'max'")
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"keras.config.image_data_format() is {keras.config.image_data_format()!r}: ConvMixer takes "
            "'channels_last' only; call keras.config.set_image_data_format('channels_last')"
        )
    if weights is not None:
        _check_weights_file(weights)
    inputs = _input(input_tensor, input_shape, include_top)
    _check_image(inputs, patch_size, include_preprocessing)

    x = inputs
    if include_preprocessing:
        x = keras.layers.Rescaling(
            scale=[1 / (255 * deviation) for deviation in IMAGENET_DEVIATION],
            offset=[-m / d for m, d in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)],
            name="preprocessing",
        )(x)

    x = _convolution(x, dim, patch_size, stride=patch_size, padding="valid", name="stem_conv")
    x = _activate_and_normalize(x, activation, name="stem")
    for index in range(depth):
        block = f"block_{index}"
        residual = x
        x = _depthwise_convolution(x, kernel_size, name=f"{block}_depthwise_conv")
        x = _activate_and_normalize(x, activation, name=f"{block}_depthwise")
        x = keras.layers.Add(name=f"{block}_add")([x, residual])
        x = _convolution(x, dim, 1, name=f"{block}_pointwise_conv")
        x = _activate_and_normalize(x, activation, name=f"{block}_pointwise")

    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
        x = keras.layers.Dense(
            int(classes),
            activation=classifier_activation,
            kernel_initializer=_pytorch_uniform(dim),
            bias_initializer=_pytorch_uniform(dim),
            name="head_dense",
        )(x)
    elif pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)

    if input_tensor is not None:
        inputs = keras.utils.get_source_inputs(inputs)[0]
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        _load(model, Path(weights))
    return model


def _pytorch_uniform(fan_in):
    # Not Keras's VarianceScaling: its fan of a depthwise kernel counts every channel, so that a 9x9 kernel
    # of 1536 channels would start 20 times smaller than the reference's.
    limit = 1 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit)


def _convolution(x, dim, size, name, stride=1, padding="same"):
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


def _depthwise_convolution(x, size, name):
    # "same" pads an even kernel by one more at the bottom and right, as PyTorch's "same" does.
    return keras.layers.DepthwiseConv2D(
        size,
        padding="same",
        depthwise_initializer=_pytorch_uniform(size * size),
        bias_initializer=_pytorch_uniform(size * size),
        name=name,
    )(x)


def _activate_and_normalize(x, activation, name):
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


def _check_image(inputs, patch_size, include_preprocessing):
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


def _is_positive_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value > 0


def _check_positive_integers(**arguments):
    for argument, value in arguments.items():
        if not _is_positive_integer(value):
            raise ValueError(f"{argument}={value!r}: give a positive integer")


def _activation_name(argument, activation):
    try:
        function = keras.activations.get(activation)
        name = function.__name__
    except (ValueError, TypeError, AttributeError):
        function = name = None
    # A function of the caller's own would make a saved file need the caller's code.
    if name is None or getattr(keras.activations, name, None) is not function:
        raise ValueError(f"{argument}={activation!r}: give the name of a Keras activation, such as 'gelu' or 'relu'")
    return name


def _check_weights_file(weights):
    if not isinstance(weights, (str, os.PathLike)) or Path(weights).suffix != ".keras":
        raise ValueError(
            f"weights={str(weights)!r}: allowed are None and the path of a .keras file; "
            "published weights are not in this version"
        )
    if not Path(weights).is_file():
        raise ValueError(f"weights={str(weights)!r}: there is no such file")


def _load(model, path):
    # Not model.load_weights, which assigns layer by layer and leaves a misfit half loaded.
    try:
        source = keras.saving.load_model(path, compile=False)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"weights={str(path)!r} cannot be loaded into this model: {reason}") from error
    weights = source.get_weights()
    have, need = [w.shape for w in weights], [tuple(w.shape) for w in model.weights]
    if have[:-2] == need:  # include_top=False: the file's classifier has no place here
        weights = weights[:-2]
    elif have[:-2] == need[:-2] and have != need:
        raise ValueError(
            f"weights={str(path)!r} are for {have[-1][-1]} classes, and classes={need[-1][-1]}: "
            f"pass classes={have[-1][-1]}, or include_top=False and a classifier of your own"
        )
    elif have != need:
        raise ValueError(
            f"weights={str(path)!r} are of another architecture: pass the dim, depth, kernel_size, patch_size "
            "and input channels that they were trained with"
        )
    ours, theirs = (
        [layer.activation for layer in m.layers if type(layer).__name__ == "Activation"] for m in (model, source)
    )
    if ours != theirs:
        raise ValueError(
            f"weights={str(path)!r} are of a model with activation={theirs[0].__name__!r}, and this one has "
            f"{ours[0].__name__!r}: pass the activation that they were trained with"
        )
    model.set_weights(weights)
