"""Paths named .png that lead to no file: a pipe, a socket, a device, links to nothing and to themselves, a folder."""

import os
import socket
from pathlib import Path

REASONS = {
    "pipe": "is a pipe, not a file",
    "socket": "is a socket, not a file",
    "device": "is a device, not a file",
    "broken": "is a link to nowhere.png, which is not there",
    "loop": "is a link that leads back to itself",
    "folder": "is a folder",
}
"""What is said of each; none of them is read, and a pipe or device would never end."""


def make(folder: Path) -> None:
    """Make one of each in a folder."""
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as bound:
        former = Path.cwd()
        os.chdir(folder)  # the path of a socket has at most 108 bytes
        bound.bind("socket.png")
        os.chdir(former)
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "folder.png").mkdir()
