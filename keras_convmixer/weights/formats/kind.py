"""Recognize what a file is by its first bytes, so that an error can say what to do with it."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".pth", ".pth.tar", ".pt", ".bin", ".ckpt", ".t7")
KERAS_SUFFIX = ".keras"
KERAS_WEIGHTS_SUFFIX = ".weights.h5"
SUFFIXES = (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES, KERAS_SUFFIX, KERAS_WEIGHTS_SUFFIX)

# A pickle of the number that begins every file of torch.save until PyTorch 1.6.
_TORCH_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"
# A file of Torch7 begins with a type, 3 (table) or 4 (object), and the index 1: in binary, or as text, one a line.
_LUA = re.compile(rb"[\x03\x04]\x00{3}(?:\x00{4})?\x01\x00{3}|[34]\n1\n")
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
"""The first bytes of gzip, bzip2, xz, Zstandard, 7-Zip and RAR files."""
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)
_DOWNLOADS = {
    "gs": "gcloud storage cp",
    "s3": "aws s3 cp",
    "hf": "hf download",
    "http": "curl -L -O",
    "https": "curl -L -O",
}
"""The program that downloads from an address, by the address's scheme."""
_BEGINNING = 512
"""Bytes of a file that are looked at."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, and what the user can do, as parts of an error's sentence."""

    name: str
    advice: str
    suffix: str = ""
    """The suffix under which this package reads such a file; empty if it reads none."""


def local_path(path: str | Path) -> Path:
    """Return a path with `~` expanded.

    Example:

        local_path("~/weights/model.safetensors")  # Path("/home/me/weights/model.safetensors")

    Raises:
        ValueError: `path` is an address, such as gs://bucket/model.safetensors, from which weights are not read.
    """
    address = _ADDRESS.match(str(path))
    if address:
        command = _DOWNLOADS.get(address[1].lower())
        how = f"download it ({command})" if command else "download it"
        raise ValueError(f"{path} is an address, and weights are read from local files: {how} and give the copy's path")
    try:
        return Path(path).expanduser()
    except RuntimeError:  # "~name", and there is no such user
        return Path(path)


def unreadable(path: Path, suffix: str, reason: str = "") -> ValueError:
    """Return the error for a file that could not be read, because it is damaged or of another kind.

    Args:
        path: the file.
        suffix: the suffix of the files that its reader takes.
        reason: the reader's own words, if they help.
    """
    kind = kind_of(path)
    if kind is None or kind.suffix == suffix:
        said = f" ({reason})" if reason else ""
        return ValueError(f"{path} is damaged, or not a {suffix} file{said}: get it again, or name another")
    return ValueError(f"{path} is {kind.name}, not a {suffix} file: {kind.advice}")


def kind_of(path: Path) -> Kind | None:
    """Return what kind of file this is; None if it is not known, for example because the file is damaged.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_BEGINNING)
    if not start:
        return Kind("empty", "get it again")
    if start.startswith(b"version https://git-lfs"):
        return Kind("a pointer that Git LFS left in place of the file", "get the file itself with `git lfs pull`")
    if re.match(rb"\s*<(?:!doctype|html|\?xml)", start, re.IGNORECASE):
        return Kind("a web page, as some links to downloads give", "download the file itself")
    if start.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return Kind("an HDF5 file, as Keras writes", f"name it as that, {KERAS_WEIGHTS_SUFFIX}", KERAS_WEIGHTS_SUFFIX)
    if start.startswith(_TORCH_MAGIC):
        return _torch()
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        advice = "it could run code and is not loaded; save the weights as .safetensors"
        return Kind("a Python pickle that torch.save did not write", advice)
    if _LUA.match(start):
        advice = "this package cannot read it; read it with Torch7 and save the tensors as .safetensors"
        return Kind("a file of Lua's Torch7", advice)
    if start.startswith(_ARCHIVES) or start[257:262] == b"ustar":
        return Kind("a packed archive", "unpack it and name the file in it")
    if start[4:8] == b"TFL3":
        return Kind("a .tflite file", "name the file of weights that it was converted from")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return Kind("a safetensors file", f"name it as that, {SAFETENSORS_SUFFIX}", SAFETENSORS_SUFFIX)
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return Kind("a text file", "name a file of weights")
    return None


def _kind_of_zip(path):
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except Exception:  # zipfile raises types of its own and others; the file is damaged
        return None
    if {"config.json", "metadata.json"} & names:
        return Kind("a Keras model", f"name it as that, {KERAS_SUFFIX}", KERAS_SUFFIX)
    if any(name.endswith("/constants.pkl") for name in names):
        return Kind("a TorchScript program, whose code is not run", "save its state_dict() with torch.save")
    if any(name.endswith("data.pkl") for name in names):
        return _torch()
    if names and all(name.endswith(".npy") for name in names):
        return Kind("a NumPy archive", "save its arrays as .safetensors, by timm's names")
    return Kind("a zip archive", "unpack it and name the file in it")


def _torch():
    return Kind("a PyTorch file", f"name it as that, {TORCH_SUFFIXES[0]}", TORCH_SUFFIXES[0])
