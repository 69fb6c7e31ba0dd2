"""Check where a bundle shall be written. Keras is not imported, so that a wrong folder is refused at once."""

from pathlib import Path

from keras_convmixer.files.atomic import require_folder_name

from ..manifest import unlisted_files


def check_out(out: Path) -> None:
    """Check that a bundle may be written to `out`: a new folder, or one that holds nothing but a bundle.

    Raises:
        FileExistsError: `out` is a file, or a folder that holds other things.
        ValueError: TensorFlow cannot load a SavedModel from that path.
    """
    require_folder_name(out)
    if set("*?[]\\") & set(str(out.resolve())):  # TensorFlow takes them for a pattern
        raise ValueError(
            f"{out} has one of *?[]\\ in its path, where TensorFlow cannot load a SavedModel: name another"
        )
    foreign = unlisted_files(out) if out.is_dir() else []
    if foreign:
        raise FileExistsError(
            f"{out} holds other things than a bundle ({', '.join(foreign[:3])}): name a new folder, or move them away"
        )
