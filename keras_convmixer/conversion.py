"""From a file of weights to a file of weights: PyTorch's to Keras's and back, the architecture read off the shapes."""

from pathlib import Path

from .atomic import atomic_file
from .backend import keras
from .checkpoint import SAFETENSORS_SUFFIXES, read_checkpoint
from .convmixer import ConvMixer
from .published import fetch, published_variant
from .variants import VARIANTS
from .weights import read_keras_model, save_weights_torch

ACTIVATION = "gelu"  # of all the reference's models but the published 768/32


def source_file(source: str) -> Path:
    """Return the file that `source` is, or the published weights' of the variant that it names, fetched if need be.

    Raises:
        ValueError: that variant has no published weights.
        ConnectionError: they are neither in the hub's cache nor to be had.
    """
    variant = VARIANTS.get(source)
    if variant is None:
        return Path(source)
    if variant.weights is None:
        names = ", ".join(name for name, variant in VARIANTS.items() if variant.weights)
        raise ValueError(f"no weights were published for {source}: there are for {names}")
    return fetch(variant)


def convert(
    source: Path,
    out: Path,
    activation: str | None = None,
    image_size: int | None = None,
    include_preprocessing: bool = True,
) -> keras.Model:
    """Write the ConvMixer in `source` to `out`, and return it.

    `source`: timm's .safetensors, the reference's .pth.tar or a .keras file. `out` ends in .keras, for plain Keras,
    or in .safetensors, for timm. PyTorch's files do not name the activation: it is taken
    from the published variant of these sizes, else GELU. `image_size` in pixels likewise, else 224. What was at
    `out` before stays until the new file is whole.

    Raises what `load_weights` raises; ValueError too where `source` holds no whole ConvMixer, or an argument would
    have to change a .keras model, which is written as it is.
    """
    source, out = Path(source), Path(out)
    if out.suffix != ".keras" and not out.name.endswith(SAFETENSORS_SUFFIXES):
        raise ValueError(f"{out} must end in .keras, for Keras, or in .safetensors, for PyTorch")
    if source.suffix == ".keras":
        if activation or image_size:
            raise ValueError(f"{source} is a model already: its activation and image size cannot be changed")
        if not source.is_file():
            raise FileNotFoundError(f"{source}: there is no such file")
        model = read_keras_model(source)
    else:
        model = _build(source, activation, image_size, include_preprocessing)
    if out.suffix == ".keras":
        with atomic_file(out) as partial:
            model.save(partial)
    else:
        save_weights_torch(model, out)
    return model


def _build(path, activation, image_size, include_preprocessing):
    checkpoint = read_checkpoint(path)
    sizes = checkpoint.architecture
    if sizes is None:
        raise ValueError(
            f"{path} holds no whole ConvMixer: give timm's model.safetensors, the reference's .pth.tar or a .keras file"
        )
    channels, classes = sizes.pop("channels"), sizes.pop("classes", None)
    variant = published_variant(**sizes)  # of any number of classes: what was fine-tuned keeps its activation
    size = image_size or (variant.image_size if variant else 224)
    return ConvMixer(
        **sizes,
        activation=activation or checkpoint.activation or (variant.activation if variant else ACTIVATION),
        include_preprocessing=include_preprocessing,
        include_top=classes is not None,
        weights=path,
        input_shape=(size, size, channels),
        classes=classes or 1000,
    )
