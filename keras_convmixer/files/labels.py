"""labels.txt, one label a line in the order of the classes: what a label may be, and how the file is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

NAME = "labels.txt"


def is_label(text: object) -> bool:
    """Tell whether text can be a line of labels.txt: it is not empty, has no end of line, and is valid Unicode.

    Other characters are data, and stay: who shows a label calls `printable`.
    """
    if not isinstance(text, str) or not text.strip() or text.splitlines() != [text]:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in text)  # a name on a disk that is not UTF-8


def require_labels(source: Path | str, labels: Sequence[str]) -> None:
    """Raise ValueError where what a data set calls its labels cannot be labels."""
    for label in labels:
        if not is_label(label):
            raise ValueError(
                f"{source} has the label {label!r}: rename it, as a label has to be one line of UTF-8 text"
            )


def write_labels(folder: Path, labels: Sequence[str]) -> None:
    """Write a folder's labels.txt."""
    (folder / NAME).write_bytes(labels_text(labels).encode())


def labels_text(labels: Sequence[str]) -> str:
    """Return the content of labels.txt."""
    return "".join(f"{label}\n" for label in labels)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a labels.txt; raises ValueError where it is not UTF-8 text."""
    try:
        return tuple(path.read_bytes().decode().splitlines())
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: write the label of each class, one a line") from None
