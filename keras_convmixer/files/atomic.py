"""Files and folders that appear whole under their name, or not at all."""

import ctypes
import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .folder_lock import Lock, lock_folder

PATIENCE = 10.0
"""Seconds to wait for another process's lock on a folder, which lasts milliseconds, or as long as a training in it."""


def require_folder_name(path: Path) -> None:
    """Check that a folder `path` is there or can be made.

    Raises:
        FileExistsError: it, or a folder above it, is a file.
        ValueError: it is an address such as gs://bucket, whose folders cannot be replaced in one step.
    """
    if re.match(r"[a-z0-9]+:/", str(path)):
        raise ValueError(f"{path} is no local folder: write to one, and copy it there")
    for place in (Path(path), *Path(path).parents):
        if place.exists() and not place.is_dir():
            raise FileExistsError(f"{place} is a file: name a folder")


def require_file_name(path: Path) -> None:
    """Check that a file can be written under `path`, so that no work is done in vain.

    Raises OSError: its folder does not exist or cannot be written to, or `path` is a folder.
    """
    path = Path(path).absolute()
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder: make it first", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder: name a file", str(path))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "this folder may not be written to: name another", str(path.parent))


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it takes the name `path` when the block ends well.

    The path has the same suffix, for writers that choose a format by it. Where the block raises, what was
    there before stays. A full disk, and what `require_file_name` finds, is an OSError that says what to do.
    """
    path = Path(path).resolve()
    require_file_name(path)
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        with explaining_full_disk(path):
            yield partial
            _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, alone: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the name `path` when the block ends well.

    A folder that is there already is exchanged in one system call, so that at every moment, also when the
    process is killed, `path` is the former folder or the new one. File systems without that call (NFS, and
    every one outside Linux) get two renames instead: killed between them, `path` is missing, and the next
    call puts the former folder back. What killed processes of this host left beside `path` is swept up first, where the
    file system has locks; those of other hosts may still be at work.

    Args:
        path: the folder.
        alone: refuse where another process of this host is filling a folder for `path`, as of two that number what they
            add both would take the same number. Without it the last one to end stays.

    Raises:
        FileExistsError: `alone`, and another process is at it.
        OSError: the disk is full, or `path` is a mount point; says what to do.
    """
    path = Path(path).resolve()
    if os.path.ismount(path):
        raise OSError(errno.EBUSY, "a mount point cannot be replaced: name a folder in it", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        with _open(path.parent) as parent:
            unguarded = f"what killed processes leave in {path.parent} as .{path.name}.*.partial stays, to be deleted"
            if alone:
                unguarded += f", and nothing keeps two processes that write {path} at once apart"
            # Nobody sweeps a partial folder between its making and its locking.
            lock_folder(parent, seconds=PATIENCE, unguarded=unguarded)
            if _sweep(path, unguarded) and alone:
                raise FileExistsError(f"another process is writing {path}: wait for it, or name another folder")
            partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.{_host()}.partial"
            cleanup.callback(shutil.rmtree, partial, ignore_errors=True)
            partial.mkdir()
            lock_folder(cleanup.enter_context(_open(partial)), seconds=PATIENCE, unguarded=unguarded)
        with explaining_full_disk(path):
            yield partial
            for written in (partial, *partial.rglob("*")):
                _sync(written)
        _put(partial, path)
        _sync(path.parent)


def _put(partial: Path, path: Path) -> None:
    try:
        partial.rename(path)  # one step where nothing, or an empty folder, has that name
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not _exchange(partial, path):
            former = partial.with_suffix(".former")
            path.rename(former)
            try:
                partial.rename(path)
            except OSError:
                former.rename(path)
                raise
            shutil.rmtree(former, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    at_fdcwd, rename_exchange = -100, 2  # renameat2(2)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _host() -> str:
    """Return a short name of this host, for the names of its partial folders."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _sweep(path: Path, unguarded: str) -> bool:
    """Remove what killed processes left; return whether another process is filling a folder for `path`.

    A folder still being filled holds its lock, which dies with the process. Only what this host left is removed, as on
    some network file systems a lock is not seen from another host.
    """
    token = "[0-9a-f]" * 8
    name = f"{glob.escape(path.name)}.{token}"  # not a folder's whose name begins with this one's
    if not path.exists():
        for former in path.parent.glob(f".{name}.{token}.former"):
            former.rename(path)
            break
    for former in path.parent.glob(f".{name}.{_host()}.former"):
        shutil.rmtree(former, ignore_errors=True)
    busy = False
    for partial in path.parent.glob(f".{name}.{_host()}.partial"):
        with suppress(OSError), _open(partial) as descriptor:  # it may be renamed at this moment, or be no folder
            lock = lock_folder(descriptor, seconds=0, unguarded=unguarded)
            if lock is Lock.OURS:
                shutil.rmtree(partial, ignore_errors=True)
            busy |= lock is Lock.HELD
    return busy


@contextmanager
def _open(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def explaining_full_disk(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk, TensorFlow's too, into an OSError that names `path` and says what to do."""
    try:
        yield
    except Exception as error:
        if os.strerror(errno.ENOSPC) not in str(error):  # not by type: TensorFlow's is no OSError
            raise
        reason = "no space is left on the device: free some, or choose another place"
        raise OSError(errno.ENOSPC, reason, str(path)) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
