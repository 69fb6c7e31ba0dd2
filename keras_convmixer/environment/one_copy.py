"""Refuse to mix two copies of this package, as when Python runs in one checkout and another one is installed."""

from pathlib import Path


def require_one_copy(package: str, file: str) -> None:
    """Check that a subpackage belongs to the library that is imported; `file` is its __init__.py.

    A checkout has training/, export/ and commands/ beside keras_convmixer/, a wheel inside it.

    Raises ImportError: it is another copy's.
    """
    library, folder = Path(__file__).resolve().parents[1], Path(file).resolve().parent
    if folder.parent not in (library, library.parent):
        raise ImportError(
            f"keras_convmixer is imported from {library} and {package} from {folder}, which are two copies of the "
            f"package: run Python in another folder than {library.parent}, or install that copy "
            f"(pip install --editable {library.parent})"
        )
