"""Refuse to mix two copies of this package, for example a checkout that Python runs in and an installed one."""

from pathlib import Path


def require_one_copy(package: str, file: str) -> None:
    """Check that a subpackage is of the same copy as the library that imports it.

    A checkout has training/, export/ and commands/ beside keras_convmixer/, an installed wheel has them inside.

    Args:
        package: the subpackage's name, for the error.
        file: its __init__.py.

    Raises:
        ImportError: it is of another copy.
    """
    library, folder = Path(__file__).resolve().parents[1], Path(file).resolve().parent
    if folder.parent not in (library, library.parent):
        raise ImportError(
            f"keras_convmixer is imported from {library} and {package} from {folder}, which are two copies of the "
            f"package: run Python in another folder than {library.parent}, or install that copy "
            f"(pip install --editable {library.parent})"
        )
