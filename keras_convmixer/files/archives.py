"""Check .keras and PyTorch files, which are zip archives, before they are read: their unpacked size and checksums."""

import zipfile
from pathlib import Path

MOST_EXPANDED = 10
FLOOR = 64 * 2**20
"""A file is refused if it unpacks to more than MOST_EXPANDED times its size plus FLOOR bytes. Weights hardly compress,
so such a file was made to fill the memory."""


def require_bounded(path: Path, unpacked: int, packed: int) -> None:
    """Check that the size which a file states for its content is credible.

    Args:
        path: the file, for the error.
        unpacked: size of the unpacked content in bytes, as stated in the file.
        packed: size of the compressed content in bytes.

    Raises:
        ValueError: `unpacked` is far too large for `packed`.
    """
    if unpacked > MOST_EXPANDED * packed + FLOOR:
        raise ValueError(
            f"{path} states that {packed:,} bytes in it unpack to {unpacked:,}, and weights do not compress so well: "
            "it was not read, as it could fill the memory; get the file from another source"
        )


def check_archive(path: Path) -> None:
    """Check the unpacked size of an archive, then the checksum of every file in it.

    Raises:
        ValueError: the archive unpacks to far more than its size, or is damaged.
    """
    unpacked = _try(path, lambda archive: sum(entry.file_size for entry in archive.infolist()))
    require_bounded(path, unpacked, path.stat().st_size)
    broken = _try(path, zipfile.ZipFile.testzip)
    if broken is not None:
        raise ValueError(f"{path} is damaged: the checksum of {broken!r} in it is wrong; get the file again")


def _try(path, read):
    try:
        with zipfile.ZipFile(path) as archive:
            return read(archive)
    except MemoryError:
        raise
    except Exception as error:  # zipfile, zlib and struct raise types of their own, and NotImplementedError
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): get the file again") from None
