"""Lock a folder for one process, if its file system has locks."""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
import time
from enum import Enum

log = logging.getLogger(__name__)

HELD = {errno.EWOULDBLOCK, errno.EAGAIN}
"""Errors of `flock` that mean that another process holds the lock."""
MISSING = {
    *(errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK),
    # Lustre without `flock` answers ENOSYS; NFS EBADF for a folder, EACCES or EIO; some FUSE file systems EINVAL.
    *(errno.EBADF, errno.EINVAL, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE),
}
"""Errors of `flock` that mean that the file system has no locks."""


class Lock(Enum):
    """Result of an attempt to lock a folder."""

    OURS = "this process has it until the descriptor is closed"
    HELD = "another process has it"
    MISSING = "the file system has no locks"


def lock_folder(descriptor: int, seconds: float, unguarded: str) -> Lock:
    """Lock an open folder until its descriptor is closed or the process ends, however it ends.

    Example:

        descriptor = os.open("runs/digits", os.O_RDONLY)
        if lock_folder(descriptor, seconds=0, unguarded="two processes may train in runs/digits") is Lock.HELD:
            raise FileExistsError("another process trains there")

    Args:
        descriptor: of the folder.
        seconds: how long to wait while another process has the lock.
        unguarded: a clause for the warning that the file system has no locks: what may happen, or what to do.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD and time.monotonic() < until:
                time.sleep(0.02)
                continue
            if error.errno in HELD:
                return Lock.HELD
            if error.errno not in MISSING:
                raise
            _warn_once(os.strerror(error.errno), unguarded)
            return Lock.MISSING
        return Lock.OURS


@functools.cache
def _warn_once(reason, unguarded):
    log.warning("the file system has no locks (%s): %s", reason, unguarded)
