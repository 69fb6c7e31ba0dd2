"""Check what is to be converted, and into what. Keras is not imported, so that a wrong path is refused at once."""

from pathlib import Path

from ..files.atomic import require_file_name
from ..model.variants import VARIANTS, published_names
from .formats.kind import KERAS_SUFFIX, SAFETENSORS_SUFFIX, SUFFIXES, local_path


def require_source(source: str) -> None:
    """Check that there is something to convert.

    Args:
        source: a path of a file; a run folder; or the name of a variant with published weights.

    Raises:
        ValueError: `source` is none of these.
        FileNotFoundError: it has the name of a file of weights, and there is no such file.
    """
    variant, path = VARIANTS.get(source), local_path(source)
    if path.exists() or (variant is not None and variant.weights):
        return
    if variant is not None:
        raise ValueError(f"no weights were published for {source}: they exist for {published_names()}")
    if path.name.endswith(SUFFIXES):
        raise FileNotFoundError(f"{source}: there is no such file")
    raise ValueError(f"{source} is neither a file nor a variant with published weights, {published_names()}")


def source_file(source: str) -> Path:
    """Return the path of a file of weights: of a run folder its model.keras, of a variant the published weights.

    Those are downloaded if they are not in the hub's cache.

    Raises:
        ConnectionError: the published weights are not in the hub's cache and cannot be downloaded.
        Others that `require_source` raises.
    """
    require_source(source)
    if source in VARIANTS and VARIANTS[source].weights:
        from .published import fetch  # imports Keras

        return fetch(VARIANTS[source])
    path = local_path(source)
    return path / "model.keras" if (path / "model.keras").is_file() else path


def require_target(out: Path) -> None:
    """Check, before work is done for it, that `convert` can write to `out`.

    Raises:
        ValueError: `out` ends neither in .keras nor in .safetensors.
        OSError: its folder does not exist or cannot be written to, or `out` is a folder.
    """
    if not out.name.endswith((KERAS_SUFFIX, SAFETENSORS_SUFFIX)):
        raise ValueError(f"{out} must end in .keras, for Keras, or in .safetensors, for PyTorch")
    require_file_name(out)
