"""Text from files and models, as a terminal, a page or a figure may show it: labels, names, paths, messages."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

JOINERS = "\u200c\u200d"
"""Format characters that belong to words and pictures: Persian needs the first, emoji of families the second."""
UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of characters that are not seen and change how others are: controls such as Escape, with which
terminals are commanded, directions of writing, halves of characters, ends of lines."""


def printable(text: str) -> str:
    r"""Return text in one line with all that is not seen written as Python writes it; the rest stays as it is.

    Example:

        printable("7\x1b[2J")  # "7\\x1b[2J": the screen stays as it is
        printable("\u202e7")  # "\\u202e7": what follows is not shown backwards

    Labels and paths come from folders, and so from whoever sent them: a name may hold any of these. What is kept in
    files, as labels.txt, stays as it was; what is shown goes through here.
    """
    return "".join(character if is_printable(character) else _escape(character) for character in text)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n")[0]


def first_of(texts: Sequence[str], most: int = 10) -> str:
    """Join the first texts and count the others, for a sentence.

    Example:

        first_of(["cat", "dog", "cow", "hen"], most=2)  # "cat, dog and 2 more"
    """
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def is_printable(character: str) -> bool:
    """Tell whether a character is seen, or is a space or a joiner within a word."""
    return unicodedata.category(character) not in UNPRINTABLE or character in JOINERS


def _escape(character):
    return character.encode("unicode_escape").decode("ascii")
