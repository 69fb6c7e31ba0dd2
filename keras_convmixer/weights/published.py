"""Get the published ImageNet weights from the Hugging Face hub or its cache."""

import errno
import hashlib
from pathlib import Path

from ..environment.console import report
from ..files.atomic import explaining_full_disk
from ..files.printable import first_line
from ..model.imagenet import CLASSES
from ..model.variants import Variant, published_names, variant_of
from .checkpoint import read_checkpoint

FILE = "model.safetensors"


def require_published(
    dim: int,
    depth: int,
    kernel_size: int,
    patch_size: int,
    activation: str,
    classes: int | None,
    classifier_activation: str | None,
) -> Variant:
    """Return the variant whose published weights fit a ConvMixer with these arguments; `classes` is None without top.

    Raises:
        ValueError: none were published for this architecture and activation, or the published classifier would end in
            another activation than softmax or none.
    """
    variant = variant_of(dim, depth, kernel_size, patch_size)
    if variant is None or variant.weights is None:
        raise ValueError(
            f"weights='imagenet': none were published for dim={dim}, depth={depth}, kernel_size={kernel_size}, "
            f"patch_size={patch_size}; published weights exist for {published_names()}"
        )
    if variant.activation != activation:
        raise ValueError(
            f"weights='imagenet': those of {dim}/{depth} were trained with activation={variant.activation!r}, so "
            f"pass that instead of activation={activation!r}"
        )
    if classes == CLASSES and classifier_activation not in ("softmax", "linear"):
        raise ValueError(
            f"classifier_activation={classifier_activation!r}: with weights='imagenet' allowed are 'softmax' and None"
        )
    return variant


def fetch(variant: Variant) -> Path:
    """Return the path of a variant's published weights; download them if they are not in the hub's cache.

    It shows huggingface_hub's progress bar and follows its settings: HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT. If the
    table of variants has a revision and a checksum, the file must be that one, whatever the repository holds by now. A
    file in the cache that is damaged, or another one, is downloaded again.

    Raises:
        ConnectionError: the file is missing or damaged in the cache, and cannot be downloaded.
        ValueError: the file on the hub is not the one that was published.
        OSError: the disk is full, or the cache may not be written.
    """
    path = _cached(variant) or _download(variant, "is not in the Hugging Face cache")
    if fault := _fault(variant, path):
        path = _download(variant, f"{fault}, as {path.resolve()}, in the cache", force_download=True)
        if fault := _fault(variant, path):
            raise ValueError(
                f"{FILE} of {variant.weights} on the hub {fault}: it is not loaded; where you trust it, give its path, "
                f"{path.resolve()}, as weights"
            )
    return path


def _cached(variant):
    """Return the path in the hub's cache; None if it is not there.

    The main branch's file is taken too: if it is another than the revision's, its checksum will tell.
    """
    from huggingface_hub import try_to_load_from_cache

    for revision in (variant.revision, None):
        path = try_to_load_from_cache(variant.weights, FILE, revision=revision)
        if isinstance(path, str):
            return Path(path)
    return None


def _fault(variant, path):
    """Return what is wrong with a file, for a sentence: None if it is the published one, or cannot be told apart."""
    with path.open("rb") as file:
        if variant.sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() == variant.sha256:
            return None
    try:
        read_checkpoint(path)
    except ValueError:
        return "is damaged"
    return None if variant.sha256 is None else f"is not the file that was published (SHA-256 {variant.sha256})"


def _download(variant, fault, **options):
    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    if not HF_HUB_OFFLINE:  # without a connection, the hub's library tries for 23 s
        report(f"fetching {FILE} of {variant.weights} from the Hugging Face hub to {HF_HUB_CACHE}")
    try:
        with explaining_full_disk(Path(HF_HUB_CACHE)):
            return Path(hf_hub_download(variant.weights, FILE, revision=variant.revision, **options))
    except Exception as error:  # huggingface_hub, its HTTP library and the system raise types of their own
        if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.ENOSPC:
            raise
        reason = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else f"{type(error).__name__}: {first_line(error)}"
        raise ConnectionError(
            f"{FILE} of {variant.weights} {fault} {HF_HUB_CACHE}, and cannot be downloaded from the hub ({reason}): go "
            "online once, or get that file on another machine and give its path"
        ) from None
