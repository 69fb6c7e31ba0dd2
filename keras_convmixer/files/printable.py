"""Make text from files and models safe to show on a terminal, a page or a figure.

Labels, names and paths come from files that a stranger may have made. A name with the control character Escape could
clear the screen or recolor it; one with a mark of writing direction could make the rest of the line read backwards.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

JOINERS = "\u200c\u200d"
"""Invisible characters that are allowed: words in Persian need the first, emoji of families the second."""
UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that are escaped: control characters such as Escape (Cc), invisible format characters such as
marks of writing direction (Cf), halves of surrogate pairs (Cs), line and paragraph separators (Zl, Zp)."""


def printable(text: str) -> str:
    r"""Return text as one line, with invisible characters replaced by their Python escapes.

    Example:

        printable("7\x1b[2J")  # "7\\x1b[2J": the screen stays as it is
        printable("\u202e7")  # "\\u202e7": what follows is not shown backwards

    For text that is shown. Text that is stored, as in labels.txt, stays as it is.
    """
    return "".join(character if is_printable(character) else _escape(character) for character in text)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n")[0]


def first_of(texts: Sequence[str], most: int = 10) -> str:
    """Join the first `most` texts with commas and count the others, for a sentence.

    Example:

        first_of(["cat", "dog", "cow", "hen"], most=2)  # "cat, dog and 2 more"
    """
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def is_printable(character: str) -> bool:
    """Tell whether a character is visible, a space, or one of `JOINERS`."""
    return unicodedata.category(character) not in UNPRINTABLE or character in JOINERS


def _escape(character):
    return character.encode("unicode_escape").decode("ascii")
