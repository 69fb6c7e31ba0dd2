"""Read, write and check labels.txt: the labels in the order of the classes, one a line, UTF-8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

NAME = "labels.txt"


def is_label(text: object) -> bool:
    """Tell whether text can be a line of labels.txt: not blank, without a line break, and valid Unicode.

    Other unusual characters are allowed. They are stored as they are; code that shows a label calls `printable`.
    """
    if not isinstance(text, str) or not text.strip() or text.splitlines() != [text]:
        return False
    # Surrogates: what Python puts in place of the bytes of a file name that are not UTF-8.
    return not any("\ud800" <= character <= "\udfff" for character in text)


def require_labels(source: Path | str, labels: Sequence[str]) -> None:
    """Check that the names which a data set, `source`, gives its classes can be labels.

    Raises:
        ValueError: one cannot.
    """
    for label in labels:
        if not is_label(label):
            raise ValueError(f"{source} has the label {label!r}: rename it, as a label must be one line of UTF-8 text")


def write_labels(folder: Path, labels: Sequence[str]) -> None:
    """Write labels.txt into a folder."""
    (folder / NAME).write_bytes(labels_text(labels).encode())


def labels_text(labels: Sequence[str]) -> str:
    """Return the content of labels.txt."""
    return "".join(f"{label}\n" for label in labels)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a labels.txt.

    Raises:
        ValueError: it is not UTF-8 text.
    """
    try:
        return tuple(path.read_bytes().decode().splitlines())
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: write the label of each class, one a line") from None
