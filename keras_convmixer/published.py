"""The published ImageNet weights: which architectures have them, and how they get here from the hub."""

from pathlib import Path

from .imagenet import CLASSES
from .variants import VARIANTS, Variant

FILE = "model.safetensors"


def published_variant(dim: int, depth: int, kernel_size: int, patch_size: int) -> Variant | None:
    """Return the variant of these sizes that has published weights, of whatever activation; None if there is none."""
    sizes = (dim, depth, kernel_size, patch_size)
    for variant in VARIANTS.values():
        if variant.weights and (variant.dim, variant.depth, variant.kernel_size, variant.patch_size) == sizes:
            return variant
    return None


def require_published(
    dim: int,
    depth: int,
    kernel_size: int,
    patch_size: int,
    activation: str,
    channels: int,
    classes: int | None,
    classifier_activation: str | None,
) -> Variant:
    """Return the variant whose published weights `weights="imagenet"` means; `classes` is None without top.

    Raises ValueError: there are none for this architecture, activation or number of channels; or their classifier
    would end in another activation than softmax or none.
    """
    variant = published_variant(dim, depth, kernel_size, patch_size)
    if variant is None:
        names = ", ".join(name for name, variant in VARIANTS.items() if variant.weights)
        raise ValueError(
            f"weights='imagenet': none were published for dim={dim}, depth={depth}, kernel_size={kernel_size}, "
            f"patch_size={patch_size}; there are for {names}"
        )
    if variant.activation != activation:
        raise ValueError(
            f"weights='imagenet': those of {dim}/{depth} were trained with activation={variant.activation!r}, and "
            f"activation={activation!r} would compute something else: pass activation={variant.activation!r}"
        )
    if channels != 3:
        raise ValueError(f"weights='imagenet' are for 3 channels, and the input has {channels}: give RGB images")
    if classes == CLASSES and classifier_activation not in ("softmax", "linear"):
        raise ValueError(
            f"classifier_activation={classifier_activation!r}: with weights='imagenet' allowed are 'softmax' and None"
        )
    return variant


def fetch(variant: Variant) -> Path:
    """Return the published weights' file, from the hub's cache or by download, with a progress bar.

    huggingface_hub's settings hold: HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT. Raises ConnectionError: the
    file is not in the cache and cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    try:
        return Path(hf_hub_download(variant.weights, FILE))
    except Exception as error:  # of the hub's, the HTTP library's and the system's own types
        offline = " (HF_HUB_OFFLINE is set)" if HF_HUB_OFFLINE else ""
        raise ConnectionError(
            f"{FILE} of {variant.weights} is neither in the Hugging Face cache {HF_HUB_CACHE} nor to be had from the "
            f"hub{offline}: go online once, or get that file on another machine and give its path"
        ) from error
