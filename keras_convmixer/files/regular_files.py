"""Open regular files only. A path that a user gives may lead to a pipe or a device, from which reading never ends."""

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
"""Names of what a path may lead to other than a file, by the type bits of its mode."""
JSON_LIMIT = 2**20
"""Largest JSON file that is read, in bytes; a recipe has under 2,000."""


class NotAFile(ValueError):
    """A path leads to something other than a file."""


def open_file(path: Path, wanted: str = "a file") -> BinaryIO:
    """Open a regular file to read its bytes.

    Example:

        with open_file(Path("photo.jpg"), wanted="an image file") as file:
            content = file.read()

    Args:
        path: the file, or a link to one.
        wanted: what the caller needs, for the end of the error: "name an image file".

    Raises:
        FileNotFoundError: there is no such file, or `path` is a link to one that does not exist.
        NotAFile: `path` is a folder, a pipe, a socket or a device, or a link that leads back to itself.
        OSError: the system cannot open it, for example for lack of permission.
    """
    path = Path(path)
    try:
        # O_NONBLOCK: opening a pipe would otherwise wait until somebody writes into it.
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
    """Return the content of a file of at most `limit` bytes.

    Raises:
        ValueError: the file is larger.
        Others that `open_file` raises.
    """
    with open_file(path, wanted) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} is larger than {limit:,} bytes: name {wanted}")
    return content


def read_json(path: Path, remedy: str) -> dict:
    """Return the JSON object in a file.

    Args:
        path: the file.
        remedy: what the user can do if the file is damaged, for the end of the error.

    Raises:
        ValueError: the file is not a JSON object, or larger than `JSON_LIMIT`.
        Others that `open_file` raises.
    """
    try:
        content = json.loads(read_file(path, JSON_LIMIT).decode())
    except NotAFile as error:
        raise NotAFile(f"{str(error).rpartition(':')[0]}: {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it does not hold a JSON object): {remedy}")
    return content
