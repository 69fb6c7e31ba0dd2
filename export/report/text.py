"""Make text safe to hand to others: no markup of Markdown in labels, no paths of this machine in sentences."""

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
"""Text in which no dialect of Markdown sees markup: emphasis, links, HTML, formulas or emoji codes."""
_SLASH, _PART = r"[/\\]", r"[^\s/\\'\"`:;,()<>|]+"
_FOLDERS = rf"(?:{_PART}{_SLASH})*(?=\S)"
_PATH = re.compile(rf"(?<![\w.:/~])(?:~|[A-Za-z]:)?{_SLASH}(?={_PART}{_SLASH}){_FOLDERS}")
"""An absolute path without its last part."""


def escape_markdown(text: str) -> str:
    r"""Return text as one line that Markdown displays unchanged: as inline code where it could be taken for markup.

    Backslashes before special characters would not be enough: GitHub replaces emoji codes and formulas in the finished
    page.

    Example:
        ```python
        from keras_convmixer.export.report.text import escape_markdown

        assert escape_markdown("tabby cat") == "tabby cat"
        assert escape_markdown("*cat* :smile:") == "`*cat* :smile:`"
        ```
    """
    text = printable(text)
    if _PLAIN.fullmatch(text) and not text.startswith(("-", "+", " ")) and not text.endswith(" "):
        return text
    # Inline code ends at as many backticks as it begins with: one more than the longest run in the text.
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def without_local_paths(text: str, *folders: str | os.PathLike[str]) -> str:
    """Return text in one line, each absolute path and each path in `folders` shortened to its last part.

    Bundles are given to others, who need not know the folders and user names of this machine. Control characters are
    shown as escapes.

    Example:
        ```python
        from keras_convmixer.export.report.text import without_local_paths

        assert without_local_paths("/home/jo/cats/x.jpg is damaged") == "x.jpg is damaged"
        ```
    """
    # Known folders first, as their names may have spaces, at which `_PATH` ends.
    for folder in (*map(Path, folders), *_own_folders()):
        text = re.sub(rf"(?<![\w.-]){re.escape(str(folder))}{_SLASH}{_FOLDERS}", "", text)
    for folder in _own_folders():
        text = re.sub(rf"(?<![\w.-]){re.escape(str(folder))}(?![\w.-])", "a folder", text)
    return printable(_PATH.sub("", text))


def _own_folders():
    """Return folders of this machine, longest first; if there is a space in one, `_PATH` finds only its beginning."""
    folders = (os.environ.get("HOME", ""), Path.cwd(), tempfile.gettempdir(), sys.prefix, sys.base_prefix)
    return sorted((f for f in map(Path, folders) if len(f.parts) > 1), key=lambda folder: -len(folder.parts))
