"""Write files and folders atomically: under their final name they are complete, or what was there before.

A file or folder is written under a temporary name beside its place, flushed to the disk, and renamed.
"""

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
"""Seconds to wait for another process's lock on a folder. Most are held for milliseconds; a training holds its own."""


def require_folder_name(path: Path) -> None:
    """Check that `path` is a local folder, or that one can be made there.

    Raises:
        FileExistsError: `path`, or something above it, is a file.
        ValueError: `path` is an address such as gs://bucket, where a folder cannot be replaced in one step.
    """
    if re.match(r"[a-z0-9]+:/", str(path)):
        raise ValueError(f"{path} is not a local folder: write to one, and copy it there")
    for place in (Path(path), *Path(path).parents):
        if place.exists() and not place.is_dir():
            raise FileExistsError(f"{place} is a file: name a folder")


def require_file_name(path: Path) -> None:
    """Check, before work is done for it, that a file can be written at `path`.

    Raises:
        OSError: its folder does not exist or cannot be written to, or `path` is a folder.
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
    """Yield a temporary path to write to, which is renamed to `path` when the block ends without an error.

    The temporary path has the suffix of `path`, as some writers choose a format by it. If the block raises, what was at
    `path` before stays.

    Example:

        with atomic_file(Path("labels.txt")) as partial:
            partial.write_text("cat")

    Raises:
        OSError: the disk is full, or `require_file_name` refuses `path`; the message says what to do.
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
    """Yield an empty temporary folder to fill, which is renamed to `path` when the block ends without an error.

    A folder that is at `path` already is exchanged with the new one in one system call. So `path` is the former or the
    new folder at every moment, also if the process is killed. Where that call is missing (NFS, and every system but
    Linux), two renames do it: if the process is killed between them, `path` is missing, and the next call puts the
    former folder back.

    Temporary folders that killed processes left beside `path` are removed first: those of this host, if the file system
    has locks. Those of other hosts may still be in use.

    Args:
        path: the folder.
        alone: raise if another process of this host is filling a folder for `path`. A caller that numbers what it adds
            needs this, as two at once would take the same number. Otherwise the last one to end wins.

    Raises:
        FileExistsError: `alone` is set, and another process is filling a folder for `path`.
        OSError: the disk is full, or `path` is a mount point; the message says what to do.
    """
    path = Path(path).resolve()
    if os.path.ismount(path):
        raise OSError(errno.EBUSY, "a mount point cannot be replaced: name a folder in it", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        with _open(path.parent) as parent:
            unguarded = f"delete by hand what killed processes leave as {path.parent}/.{path.name}.*.partial"
            if alone:
                unguarded += f", and do not let two processes write {path} at once"
            # Holding the parent's lock: otherwise another process could remove the new folder before it is locked.
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
    """Rename a folder to `path`, in the place of a folder that may be there."""
    try:
        partial.rename(path)  # enough if nothing, or an empty folder, is there
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
    """Swap two names in one step; return False where the system cannot."""
    if sys.platform != "linux":
        return False
    at_fdcwd, rename_exchange = -100, 2  # values of AT_FDCWD and RENAME_EXCHANGE, see renameat2(2)
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

    A process holds a lock on the folder that it fills, and the system releases it when the process dies. Only folders
    of this host are removed, as on some network file systems one host does not see another's locks.
    """
    token = "[0-9a-f]" * 8
    name = f"{glob.escape(path.name)}.{token}"  # the token keeps `bundle` from matching the folders of `bundle.2`
    if not path.exists():  # a process was killed between the two renames of `_put`
        for former in path.parent.glob(f".{name}.{token}.former"):
            former.rename(path)
            break
    for former in path.parent.glob(f".{name}.{_host()}.former"):
        shutil.rmtree(former, ignore_errors=True)
    busy = False
    for partial in path.parent.glob(f".{name}.{_host()}.partial"):
        with suppress(OSError), _open(partial) as descriptor:  # it may just have been renamed, or not be a folder
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
    """Turn the error of a full disk, also TensorFlow's, into an OSError that names `path` and says what to do."""
    try:
        yield
    except Exception as error:
        if os.strerror(errno.ENOSPC) not in str(error):  # by its text, as TensorFlow's is not an OSError
            raise
        reason = "no space is left on the device: free some, or choose another place"
        raise OSError(errno.ENOSPC, reason, str(path)) from error


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that a power cut after the rename leaves it whole."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
