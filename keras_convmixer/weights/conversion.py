"""From a file of weights to a file of weights: PyTorch's to Keras's and back, the architecture read off the shapes."""

import logging
import math
from pathlib import Path
from typing import Any

from ..environment.backend import keras
from ..files.atomic import atomic_file, require_file_name
from ..model.convmixer import ConvMixer
from ..model.variants import VARIANTS, variant_of
from .checkpoint import read_checkpoint
from .formats.keras_model import read_keras_model
from .formats.kind import KERAS_SUFFIX, SAFETENSORS_SUFFIX, SUFFIXES, local_path
from .loading import save_weights_torch
from .published import fetch, published_names
from .tensor_fit import require_fit
from .tensor_names import architecture_of, tensor_shapes

ACTIVATION = "gelu"  # of the reference's code, where the paper's tables have no such sizes
IMAGE_SIZE = 224

logger = logging.getLogger(__name__)


def source_file(source: str) -> Path:
    """Return the file that `source` is, or the published weights' of the variant that it names, fetched if need be.

    Of a run folder, its model.keras.

    Raises:
        ValueError: it is none of these.
        ConnectionError: the published weights are not in the hub's cache and cannot be downloaded.
    """
    variant = VARIANTS.get(source)
    if variant is not None and variant.weights:
        return fetch(variant)
    path = local_path(source)
    if path.is_dir() and (path / "model.keras").is_file():
        return path / "model.keras"
    if variant is not None:
        raise ValueError(f"no weights were published for {source}: they exist for {published_names()}")
    if not path.exists() and not path.name.endswith(SUFFIXES):
        raise ValueError(f"{source} is neither a file nor a variant with published weights, {published_names()}")
    return path


def require_target(out: Path) -> None:
    """Check that `convert` can write to `out`, before any work is done for it.

    Raises:
        ValueError: it ends neither in .keras nor in .safetensors.
        OSError: its folder does not exist or cannot be written to, or it is a folder.
    """
    if not out.name.endswith((KERAS_SUFFIX, SAFETENSORS_SUFFIX)):
        raise ValueError(f"{out} must end in .keras, for Keras, or in .safetensors, for PyTorch")
    require_file_name(out)


def convert(
    source: str | Path,
    out: str | Path,
    activation: str | None = None,
    image_size: int | None = None,
    include_preprocessing: bool = True,
) -> keras.Model:
    """Write the ConvMixer in `source` to `out`, and return it as a model.

    What was at `out` before stays until the new file is whole.

    Args:
        source: a file that `load_weights` takes.
        out: a path that ends in .keras, for plain Keras, or in .safetensors, for timm.
        activation: name in Keras. PyTorch's files do not say it; by default it is that of the paper's variant of these
            sizes and, where there is no such variant, GELU, with a warning.
        image_size: height and width in pixels of the images that the .keras model takes; by default the variant's, or
            224.
        include_preprocessing: put ImageNet's scaling into the .keras model, which then takes pixels 0..255.

    Raises:
        ValueError: `source` does not hold a whole ConvMixer, or an argument would have no effect.
        OSError: `out` cannot be written.
        Others that `load_weights` raises.

    Example:
        ```python
        from keras_convmixer.weights.conversion import convert

        convert("model.safetensors", "converted.keras", activation="gelu", image_size=8)
        ```
    """
    source, out = local_path(source), local_path(out)
    require_target(out)
    if source.exists() and out.exists() and source.samefile(out):
        raise ValueError(f"{source} would be converted into itself: name another file to write")
    to_keras = out.name.endswith(KERAS_SUFFIX)
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size}: give the side of the images in pixels, 1 or more")
    if not to_keras and (image_size is not None or not include_preprocessing):
        raise ValueError(
            f"{out} holds weights alone, which say nothing of image size or scaling: leave these options out"
        )
    if source.name.endswith(KERAS_SUFFIX):
        if to_keras or activation is not None:
            raise ValueError(f"{source} is a Keras model already: name a .safetensors file to write, and no activation")
        model = read_keras_model(source)
    else:
        model = _build(source, activation, image_size, include_preprocessing and to_keras)
    if to_keras:
        with atomic_file(out) as partial:
            model.save(partial)
    else:
        try:
            save_weights_torch(model, out)
        except ValueError as error:  # of a .keras file, any model
            raise ValueError(f"{source}: {error}") from None
    return model


def summary(model: keras.Model) -> dict[str, Any]:
    """Return what a model of `convert` is.

    Example:
        ```python
        from keras_convmixer.weights.conversion import summary

        facts = summary(kc.ConvMixer256_8(include_preprocessing=True, input_shape=(32, 32, 3), classes=10))
        print(facts["activation"], facts["takes_pixels"], facts["images"])  # gelu True (32, 32, 3)
        ```

    Returns:
        Name of the activation; shapes of one image and of one output, without the batch; whether the model takes
        pixels 0..255, or else what `preprocess_input` returns; number of trained parameters.
    """
    return {
        "activation": model.get_layer("stem_activation").activation.__name__,
        "images": model.input_shape[1:],
        "takes_pixels": model.layers[1].name == "preprocessing",
        "outputs": model.output_shape[1:],
        # Those of BatchNormalization's statistics are not trained.
        "parameters": sum(math.prod(weight.shape) for weight in model.weights if "moving_" not in weight.name),
    }


def _build(path, activation, image_size, include_preprocessing):
    checkpoint = read_checkpoint(path)
    sizes = architecture_of(checkpoint.shapes)
    if sizes is None:
        raise ValueError(
            f"{path} does not hold a whole ConvMixer: name a file of one, as timm's model.safetensors, the reference's "
            ".pth.tar or a .keras file"
        )
    # Before a model of these sizes is built, which may be any that a file states.
    require_fit(path, checkpoint.shapes, tensor_shapes(**sizes), checkpoint.extra)
    channels, classes = sizes.pop("channels"), sizes.pop("classes", None)
    if include_preprocessing and channels != 3:
        raise ValueError(
            f"{path} is for images of {channels} channels, which ImageNet's scaling is not for: pass "
            "include_preprocessing=False (--scaled-input)"
        )
    variant = variant_of(**sizes)  # of any number of classes: what was fine-tuned keeps its activation
    activation = activation or checkpoint.activation or (variant.activation if variant else None)
    if activation is None:
        logger.warning("%s does not say its activation: %s is assumed; give it if it is another", path.name, ACTIVATION)
    size = image_size or (variant.image_size if variant else IMAGE_SIZE)
    return ConvMixer(
        **sizes,
        activation=activation or ACTIVATION,
        include_preprocessing=include_preprocessing,
        include_top=classes is not None,
        weights=path,
        input_shape=(size, size, channels),
        classes=classes or 1000,
    )
