"""Checks of .keras and PyTorch files, which are zip archives: their checksums, and the size that they unpack to."""

import zipfile
from pathlib import Path

MOST_EXPANDED = 10
"""Weights hardly compress; what unpacks to more than this multiple of its size, and the floor, was made to do harm."""
FLOOR = 64 * 2**20


def require_bounded(path: Path, unpacked: int, packed: int) -> None:
    """Check that what `packed` bytes of the file unpack to, a number of bytes that the file states, is credible.

    Raises ValueError: it is far too much.
    """
    if unpacked > MOST_EXPANDED * packed + FLOOR:
        raise ValueError(
            f"{path} says that {packed:,} bytes in it unpack to {unpacked:,}, which weights do not: it is not read, as "
            "it would fill the memory"
        )


def check_archive(path: Path) -> None:
    """Check sizes, then checksums, of every file in an archive.

    Raises ValueError: it unpacks to far more than its size, or is damaged.
    """
    unpacked = _try(path, lambda archive: sum(entry.file_size for entry in archive.infolist()))
    require_bounded(path, unpacked, path.stat().st_size)
    broken = _try(path, zipfile.ZipFile.testzip)
    if broken is not None:
        raise ValueError(f"{path} is damaged: {broken!r} in it does not have its checksum; get it again")


def _try(path, read):
    try:
        with zipfile.ZipFile(path) as archive:
            return read(archive)
    except MemoryError:
        raise
    except Exception as error:  # of zipfile's, zlib's and struct's own types, and NotImplementedError
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): get it again") from None
