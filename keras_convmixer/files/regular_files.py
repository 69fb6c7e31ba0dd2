"""Open files that a stranger may have named: never a pipe, a device or a folder, whose reading may not end."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What a path may lead to besides files, by its mode."""


JSON_LIMIT = 2**20
"""Bytes of a run's JSON file at most; a recipe has under 2,000."""


class NotAFile(ValueError):
    """A path leads to something else than a file."""


def open_file(path: Path, wanted: str = "a file") -> BinaryIO:
    """Open a file to read its bytes.

    Example:

        with open_file(Path("photo.jpg"), wanted="an image file") as file:
            content = file.read()

    Args:
        path: the file, or a link to one.
        wanted: what the caller needs, for the error's remedy.

    Raises:
        FileNotFoundError: there is no such file, or it is a link to one that is not there.
        NotAFile: it is a folder, a pipe, a socket or a device, or a link that leads back to itself.
        OSError: the system cannot open it.
    """
    path = Path(path)
    try:
        # Not blocking: opening a pipe would wait until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            raise FileNotFoundError(f"{path} is a link to {path.readlink()}, which is not there") from None
        raise FileNotFoundError(f"{path}: there is no such file") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotAFile(f"{path} is a link that leads back to itself: name {wanted}") from None
        if error.errno in (errno.ENXIO, errno.EOPNOTSUPP):  # Linux's and macOS's
            raise NotAFile(f"{path} is a socket, not a file: name {wanted}") from None
        raise
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise NotAFile(f"{path} is {KINDS.get(kind, 'something else')}, not a file: name {wanted}")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, limit: int, wanted: str = "a file") -> bytes:
    """Return a file's bytes, at most `limit` of them.

    Raises what `open_file` raises, and ValueError: the file is larger.
    """
    with open_file(path, wanted) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} is larger than {limit:,} bytes: name {wanted}")
    return content


def read_json(path: Path, remedy: str) -> dict:
    """Return the JSON object in a file.

    Raises what `open_file` raises, and ValueError: the file is damaged; the sentence ends in `remedy`.
    """
    try:
        content = json.loads(read_file(path, JSON_LIMIT).decode())
    except NotAFile as error:
        raise NotAFile(f"{str(error).rpartition(':')[0]}: {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds no JSON object): {remedy}")
    return content
