"""Convert files of weights from PyTorch to Keras and back; the architecture is read off the tensors' shapes."""

import logging
import math
from pathlib import Path
from typing import Any

from ..environment.backend import keras
from ..files.atomic import atomic_file
from ..model.convmixer import ConvMixer
from ..model.variants import variant_of
from .checkpoint import read_checkpoint
from .conversion_files import require_target
from .formats.keras_model import read_keras_model
from .formats.kind import KERAS_SUFFIX, local_path
from .loading import save_weights_torch
from .tensor_fit import require_fit
from .tensor_names import architecture_of, tensor_shapes

ACTIVATION, IMAGE_SIZE = "gelu", 224
"""Assumed for a ConvMixer whose sizes are not those of a variant: the activation is that of the reference's code."""

logger = logging.getLogger(__name__)


def convert(
    source: str | Path,
    out: str | Path,
    activation: str | None = None,
    image_size: int | None = None,
    scaled_input: bool = False,
) -> keras.Model:
    """Convert a file of weights; return the model that has them.

    What was at `out` before stays until the new file is complete.

    Args:
        source: a file that `load_weights` takes.
        out: a path that ends in .keras, for plain Keras, or in .safetensors, for timm.
        activation: the activation's name in Keras, which PyTorch's files do not have. The default is that of the
            paper's variant with the same sizes; if there is none, "gelu", with a warning.
        image_size: height and width in pixels of the images that the .keras model takes. The default is the variant's,
            or 224.
        scaled_input: let the .keras model take what `preprocess_input` returns. The default is a model that takes
            pixels 0..255, with ImageNet's scaling inside.

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
    if not to_keras and (image_size is not None or scaled_input):
        raise ValueError(
            f"{out} will hold weights only, which do not depend on the images: leave image_size and scaled_input out"
        )
    if source.name.endswith(KERAS_SUFFIX):
        if to_keras or activation is not None:
            raise ValueError(f"{source} is a Keras model already: name a .safetensors file to write, and no activation")
        model = read_keras_model(source)
    else:
        model = _build(source, activation, image_size, include_preprocessing=to_keras and not scaled_input)
    if to_keras:
        with atomic_file(out) as partial:
            model.save(partial)
    else:
        try:
            save_weights_torch(model, out)
        except ValueError as error:  # a .keras file may hold any model
            raise ValueError(f"{source}: {error}") from None
    return model


def summary(model: keras.Model) -> dict[str, Any]:
    """Describe a model that `convert` returned.

    Example:
        ```python
        from keras_convmixer.weights.conversion import summary

        facts = summary(kc.ConvMixer256_8(include_preprocessing=True, input_shape=(32, 32, 3), classes=10))
        print(facts["activation"], facts["takes_pixels"], facts["images"])  # gelu True (32, 32, 3)
        ```

    Returns:
        A dict with "activation", the activation's name; "images" and "outputs", the shapes of one image and of one
        output; "takes_pixels", whether the model takes pixels 0..255 and not what `preprocess_input` returns; and
        "parameters", the number of trained parameters.
    """
    return {
        "activation": model.get_layer("stem_activation").activation.__name__,
        "images": model.input_shape[1:],
        "takes_pixels": model.layers[1].name == "preprocessing",
        "outputs": model.output_shape[1:],
        # The moving statistics of BatchNormalization are not trained.
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
    # Before the model is built: a file may state any sizes, whatever it holds.
    require_fit(path, checkpoint.shapes, tensor_shapes(**sizes), checkpoint.extra)
    channels, classes = sizes.pop("channels"), sizes.pop("classes", None)
    if include_preprocessing and channels != 3:
        raise ValueError(
            f"{path} is for images of {channels} channels, and ImageNet's scaling is for 3: set scaled_input, and "
            "scale images before the model"
        )
    variant = variant_of(**sizes)  # with any number of classes, as fine-tuning keeps the activation
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
