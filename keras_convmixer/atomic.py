"""Files and folders that appear whole under their name, or not at all."""

import ctypes
import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it takes the name `path` when the block ends well.

    The path has the same suffix, for writers that choose a format by it. Where the block raises, what was
    there before stays.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with _explaining_full_disk(path):
            yield partial
            _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the name `path` when the block ends well.

    A folder that is there already is exchanged in one system call, so that at every moment, also when the
    process is killed, `path` is the former folder or the new one. File systems without that call (NFS, and
    every one outside Linux) get two renames instead: killed between them, `path` is missing and the former
    folder stands beside it as `.NAME.….former`. What killed processes left beside `path` is swept up first.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        _sweep(path)
        partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with _explaining_full_disk(path):
            yield partial
            for file in partial.rglob("*"):
                _sync(file)
        _put(partial, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


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


def _sweep(path: Path) -> None:
    """Remove what killed processes left; a folder still being filled holds its lock, which dies with it."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(partial, ignore_errors=True)
        finally:
            os.close(lock)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that nobody sweeps a partial folder between its making and its locking."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def _explaining_full_disk(path: Path) -> Iterator[None]:
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
