"""The paper's variants as functions, one for each row of `VARIANTS`.

They are written out, so that help() and editors show each signature; a test compares them with the table.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ..environment.backend import keras
from .convmixer import ConvMixer
from .variants import VARIANTS, Variant


def ConvMixer1536_20(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_1536_20",
) -> keras.Model:
    """Build ConvMixer-1536/20 with 9x9 kernels on 7x7 patches and GELU.

    51.63 million parameters, 51.10 GMACs at 224 pixels; top-1 on ImageNet 81.37 % (the reference repository, 150
    epochs). Arguments, shapes and errors are those of `ConvMixer`. `weights="imagenet"` loads the published weights.

    Example:
        ```python
        model = kc.ConvMixer1536_20()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer1536_20"], **locals())


def ConvMixer768_32(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_768_32",
) -> keras.Model:
    """Build ConvMixer-768/32 with 7x7 kernels on 7x7 patches and ReLU.

    21.11 million parameters, 20.68 GMACs at 224 pixels; top-1 on ImageNet 80.16 % (the reference repository, 300
    epochs). Arguments, shapes and errors are those of `ConvMixer`. `weights="imagenet"` loads the published weights.

    Example:
        ```python
        model = kc.ConvMixer768_32()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer768_32"], **locals())


def ConvMixer1024_20(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_1024_20",
) -> keras.Model:
    """Build ConvMixer-1024/20 with 9x9 kernels on 14x14 patches and GELU.

    24.38 million parameters, 5.95 GMACs at 224 pixels; top-1 on ImageNet 76.94 % (the reference repository). Arguments,
    shapes and errors are those of `ConvMixer`. `weights="imagenet"` loads the published weights.

    Example:
        ```python
        model = kc.ConvMixer1024_20()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer1024_20"], **locals())


def ConvMixer1536_24(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_1536_24",
) -> keras.Model:
    """Build ConvMixer-1536/24 with 9x9 kernels on 14x14 patches and GELU.

    62.28 million parameters, 15.49 GMACs at 224 pixels; top-1 on ImageNet 80.21 % (the paper's tables, as reported).
    Arguments, shapes and errors are those of `ConvMixer`. No weights were published.

    Example:
        ```python
        model = kc.ConvMixer1536_24()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer1536_24"], **locals())


def ConvMixer1536_20_ks3_p7(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_1536_20_ks3_p7",
) -> keras.Model:
    """Build ConvMixer-1536/20 with 3x3 kernels on 7x7 patches and GELU.

    49.41 million parameters, 48.83 GMACs at 224 pixels; top-1 on ImageNet 81.60 % (the paper's tables, as reported).
    Arguments, shapes and errors are those of `ConvMixer`. No weights were published.

    Example:
        ```python
        model = kc.ConvMixer1536_20_ks3_p7()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer1536_20_ks3_p7"], **locals())


def ConvMixer1536_20_ks9_p14(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_1536_20_ks9_p14",
) -> keras.Model:
    """Build ConvMixer-1536/20 with 9x9 kernels on 14x14 patches and GELU.

    52.30 million parameters, 12.95 GMACs at 224 pixels; top-1 on ImageNet 78.92 % (the paper's tables, as reported).
    Arguments, shapes and errors are those of `ConvMixer`. No weights were published.

    Example:
        ```python
        model = kc.ConvMixer1536_20_ks9_p14()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer1536_20_ks9_p14"], **locals())


def ConvMixer1024_16(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_1024_16",
) -> keras.Model:
    """Build ConvMixer-1024/16 with 9x9 kernels on 7x7 patches and GELU.

    19.38 million parameters, 18.69 GMACs at 224 pixels; top-1 on ImageNet 79.45 % (the paper's tables, as reported).
    Arguments, shapes and errors are those of `ConvMixer`. No weights were published.

    Example:
        ```python
        model = kc.ConvMixer1024_16()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer1024_16"], **locals())


def ConvMixer1024_12(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_1024_12",
) -> keras.Model:
    """Build ConvMixer-1024/12 with 8x8 kernels on 7x7 patches and GELU.

    14.62 million parameters, 13.85 GMACs at 224 pixels; top-1 on ImageNet 77.75 % (the paper's tables, as reported).
    Arguments, shapes and errors are those of `ConvMixer`. No weights were published.

    Example:
        ```python
        model = kc.ConvMixer1024_12()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer1024_12"], **locals())


def ConvMixer512_16(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_512_16",
) -> keras.Model:
    """Build ConvMixer-512/16 with 8x8 kernels on 7x7 patches and GELU.

    5.36 million parameters, 4.91 GMACs at 224 pixels; top-1 on ImageNet 73.76 % (the reference repository). Arguments,
    shapes and errors are those of `ConvMixer`. No weights were published.

    Example:
        ```python
        model = kc.ConvMixer512_16()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer512_16"], **locals())


def ConvMixer512_12(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_512_12",
) -> keras.Model:
    """Build ConvMixer-512/12 with 8x8 kernels on 7x7 patches and GELU.

    4.17 million parameters, 3.70 GMACs at 224 pixels; top-1 on ImageNet 72.59 % (the paper's tables, as reported).
    Arguments, shapes and errors are those of `ConvMixer`. No weights were published.

    Example:
        ```python
        model = kc.ConvMixer512_12()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer512_12"], **locals())


def ConvMixer768_32_ks3_p14(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_768_32_ks3_p14",
) -> keras.Model:
    """Build ConvMixer-768/32 with 3x3 kernels on 14x14 patches and ReLU.

    20.47 million parameters, 5.00 GMACs at 224 pixels; top-1 on ImageNet 74.93 % (the paper's tables, as reported).
    Arguments, shapes and errors are those of `ConvMixer`. No weights were published.

    Example:
        ```python
        model = kc.ConvMixer768_32_ks3_p14()
        model.input_shape  # (None, 224, 224, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer768_32_ks3_p14"], **locals())


def ConvMixer256_8(
    include_top: bool = True,
    include_preprocessing: bool = False,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 10,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "convmixer_256_8",
) -> keras.Model:
    """Build ConvMixer-256/8 with 5x5 kernels on 2x2 patches and GELU.

    0.59 million parameters, 0.15 GMACs at 32 pixels; top-1 on CIFAR-10 92.60 % (the reference's CIFAR-10 repository, 25
    epochs). Arguments, shapes and errors are those of `ConvMixer`. No weights were published.

    Example:
        ```python
        model = kc.ConvMixer256_8()
        model.input_shape  # (None, 32, 32, 3)
        ```
    """
    return _build(VARIANTS["ConvMixer256_8"], **locals())


def _build(variant: Variant, **arguments: Any) -> keras.Model:
    """Build a variant. With the classifier, the default input shape is that of the variant's images."""
    if arguments["include_top"] and arguments["input_shape"] is None and arguments["input_tensor"] is None:
        arguments["input_shape"] = (variant.image_size, variant.image_size, 3)
    return ConvMixer(
        dim=variant.dim,
        depth=variant.depth,
        kernel_size=variant.kernel_size,
        patch_size=variant.patch_size,
        activation=variant.activation,
        **arguments,
    )
