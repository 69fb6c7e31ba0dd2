"""Text that a bundle shows to strangers: without markup in Markdown, and without places of this machine."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from keras_convmixer.files.printable import printable

_LETTER = r"[^\W_]"
_PLAIN = re.compile(
    rf"(?:{_LETTER}|[ ,/'()%+=-]|(?<={_LETTER})_(?={_LETTER})|(?<=\d)\.(?=\d)|[.:;](?= |$))*", re.UNICODE
)
"""Text in which no dialect of Markdown finds anything: no emphasis, links, HTML, formulas or emoji codes."""
_SLASH, _PART = r"[/\\]", r"[^\s/\\'\"`:;,()<>|]+"
_FOLDERS = rf"(?:{_PART}{_SLASH})*(?=\S)"
_PATH = re.compile(rf"(?<![\w.:/~])(?:~|[A-Za-z]:)?{_SLASH}(?={_PART}{_SLASH}){_FOLDERS}")
"""All of an absolute path but its last part."""


def markdown(text: str) -> str:
    r"""Return text in one line that Markdown shows as it is: as code, where any of it could mean something else.

    Example:

        markdown("tabby cat")  # "tabby cat"
        markdown("*cat* :smile:")  # "`*cat* :smile:`"

    A backslash before each sign would not do: GitHub takes emoji codes and formulas from the finished page.
    """
    text = printable(text)
    if _PLAIN.fullmatch(text) and not text.startswith(("-", "+", " ")) and not text.endswith(" "):
        return text
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def without_places(text: str, *folders: Path | str) -> str:
    """Return a sentence in which absolute paths, and those in `folders`, are their last part.

    A bundle is handed to others: folders and user names of the machine that made it are not their business.
    """
    for place in (*map(Path, folders), *_places()):
        text = re.sub(rf"(?<![\w.-]){re.escape(str(place))}{_SLASH}{_FOLDERS}", "", text)
    for place in _places():
        text = re.sub(rf"(?<![\w.-]){re.escape(str(place))}(?![\w.-])", "a folder", text)
    return _PATH.sub("", text)


def _places():
    """Return folders whose paths may hold spaces, of which `_PATH` would find the beginning only; the longest first."""
    found = (os.environ.get("HOME", ""), Path.cwd(), tempfile.gettempdir(), sys.prefix, sys.base_prefix)
    return sorted((place for place in map(Path, found) if len(place.parts) > 1), key=lambda place: -len(place.parts))
