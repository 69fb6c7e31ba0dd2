"""Find the images in a folder, and report the files that are left out, for all commands."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..environment.console import report
from .decoding import SUFFIXES

DAMAGED = 0.01
"""Share of images that may be damaged; they are left out."""
NAMED = 10
"""Number of damaged images that are named on the terminal."""
MACOS = "__MACOSX"
"""Folder that macOS's zip adds, with a hidden file named after each file."""
SPLIT_FOLDERS = {
    "train": "train",
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    "test": "test",
}
"""Split of each subfolder name that may stand for a split instead of a label."""


@dataclass(frozen=True)
class ImageFiles:
    """A folder's images, and the number of other files by their endings."""

    paths: list[Path]
    others: Counter

    def described_others(self) -> str:
        """Return, for example, "3 .heic, 1 .txt", the most frequent first; an empty string if there are none."""
        return ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in self.others.most_common())


def image_files(folder: Path) -> ImageFiles:
    """Find the images in a folder and its subfolders by their endings, sorted.

    Hidden files and folders are skipped, and so is `__MACOSX`. Links to folders are followed. Each folder is searched
    once, so a link to a folder above it does no harm.

    Example:

        found = image_files(Path("cats"))
        len(found.paths), found.described_others()  # 120, "2 .heic"

    Raises:
        OSError: a folder may not be read.
    """
    paths, others, searched = [], Counter(), set()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(place)
        if real in searched:
            folders.clear()
            continue
        searched.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != MACOS)
        for path in (Path(place, name) for name in sorted(names) if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                paths.append(path)
            elif path.is_file():
                others[path.suffix.lower()] += 1
    return ImageFiles(sorted(paths), others)


def _raise(error):
    raise error


def subfolders(folder: Path) -> list[Path]:
    """Return a folder's subfolders, sorted, without hidden ones and `__MACOSX`."""
    found = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    return [entry for entry in found if not entry.name.startswith(".") and entry.name != MACOS]


def may_share_test_images(folder: Path, data: Path) -> bool:
    """Tell whether a folder of images may hold test images of the data set in folder `data`.

    It may where one of the two is in the other, unless the folder is, or is in, the data's training split.
    """
    folder, data = folder.resolve(), data.resolve()
    if folder.is_relative_to(data):
        return folder == data or SPLIT_FOLDERS.get(folder.relative_to(data).parts[0].lower()) != "train"
    return data.is_relative_to(folder)


def sentence_of_others(folder: Path, others: Counter) -> tuple[str, ...]:
    """Return one sentence that counts the files left out because of their ending; an empty tuple if there are none."""
    if not others:
        return ()
    count, described = sum(others.values()), ImageFiles([], others).described_others()
    which = f"1 file of {folder} is" if count == 1 else f"{count} files of {folder} are"
    return (f"{which} left out, by ending ({described}); endings that are read: {', '.join(SUFFIXES)}",)


def sentence_of_failure(name: Path | str, error: Exception) -> str:
    """Return a sentence about an image that `read_image` could not read, for its error.

    Messages of `read_image` name the file; those of the operating system do not.
    """
    reason = getattr(error, "strerror", None)
    return f"{name}: {reason}" if reason else str(error)


def require_few_damaged(damaged: Sequence[str], count: int) -> None:
    """Check that at most 1 % of `count` images are damaged; `damaged` has a sentence for each.

    Raises:
        ValueError: more are damaged.
    """
    if len(damaged) > DAMAGED * count:
        others = f"; and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise ValueError(
            f"{len(damaged)} of {count} images are damaged, more than {DAMAGED:.0%}: {'; '.join(damaged[:3])}{others}"
        )


def report_left_out(damaged: Sequence[str], others: Sequence[str] = (), listed: Path | None = None) -> None:
    """Report on stderr the damaged images and the files of other endings that were left out.

    Args:
        damaged: a sentence for each damaged image.
        others: the sentences of `sentence_of_others`.
        listed: the file that names all damaged images, if there is one.
    """
    for sentence in damaged[:NAMED]:
        report(f"convmixer: left out: {sentence}")
    if damaged:
        which = "1 image is" if len(damaged) == 1 else f"{len(damaged)} images are"
        see = f", see {listed}" if listed else ""
        report(f"convmixer: {which} damaged and left out{see}")
    for sentence in others:
        report(f"convmixer: {sentence}")
