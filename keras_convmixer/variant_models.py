"""The functions that build the paper's variants, one for each row of the table."""

from .convmixer import ConvMixer
from .variants import ACTIVATIONS, VARIANTS


def _function(function_name, variant):
    model_name = function_name.replace("ConvMixer", "convmixer_")

    def build(
        include_top=True,
        include_preprocessing=False,
        weights=None,
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=variant.classes,
        classifier_activation="softmax",
        name=model_name,
    ):
        if input_shape is None and input_tensor is None and include_top:
            input_shape = (variant.image_size, variant.image_size, 3)
        return ConvMixer(
            dim=variant.dim,
            depth=variant.depth,
            kernel_size=variant.kernel_size,
            patch_size=variant.patch_size,
            activation=variant.activation,
            include_preprocessing=include_preprocessing,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            name=name,
        )

    build.__name__ = build.__qualname__ = function_name
    published = "None, 'imagenet'" if variant.weights else "None (no weights were published)"
    build.__doc__ = f"""Build ConvMixer-{variant.dim}/{variant.depth} with {variant.kernel_size}x{variant.kernel_size} \
kernels on {variant.patch_size}x{variant.patch_size} patches and {ACTIVATIONS[variant.activation]}.

    {variant.parameters / 1e6:.2f} million parameters, {variant.gmacs:.2f} GMACs at {variant.image_size} pixels; \
top-1 on {variant.dataset} {variant.top1:.2f} %
    ({variant.source}).

    Arguments, shapes and errors are those of `ConvMixer`. Defaults are images of {variant.image_size} pixels and
    {variant.classes} classes. weights: {published}, or the path of a file.
    """
    return build


FUNCTIONS = {name: _function(name, variant) for name, variant in VARIANTS.items()}
globals().update(FUNCTIONS)
