"""manifest.json, the contract of a bundle: what is in it, how to feed it, what validation measured."""

import hashlib
import json
from pathlib import Path

SCHEMA = 1
NAME = "manifest.json"
UNSIGNED = "0" * 64


def write_manifest(bundle: Path, content: dict) -> None:
    """Write manifest.json for all files that the bundle holds by now, with their sizes and checksums.

    Its own `sha256` is that of the file with 64 zeros in its place.
    """
    files = {
        path.relative_to(bundle).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
    }
    content = {"schema": SCHEMA, **content, "files": files, "sha256": UNSIGNED}
    text = json.dumps(content, indent=2) + "\n"
    (bundle / NAME).write_text(text.replace(UNSIGNED, _digest(text)), encoding="utf-8")


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(bundle: Path) -> dict:
    """Return the manifest of a bundle.

    Raises:
        ValueError: the folder is no bundle, its manifest is damaged, or of a schema that this version cannot
            read.
    """
    path = Path(bundle) / NAME
    try:
        text = path.read_bytes().decode()
        content = json.loads(text)
    except FileNotFoundError:
        raise ValueError(f"{bundle} is no bundle: it holds no {NAME}; make one with `convmixer export`") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): export or copy the bundle again") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema!r}, and this version reads {SCHEMA}: export the model again")
    digest = str(content.get("sha256"))
    if _digest(text.replace(digest, UNSIGNED)) != digest:
        raise ValueError(f"{path} was changed: its checksum is not its own; export or copy the bundle again")
    return content


def unlisted_files(folder: Path) -> list[str]:
    """Relative paths of all files in a folder that no manifest there lists: none where it is just a bundle."""
    try:
        listed = {*read_manifest(folder)["files"], NAME}
    except ValueError:
        listed = set()
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(set(found) - listed)


def read_verified(bundle: Path, manifest: dict, name: str) -> bytes:
    """Return a file's bytes once its checksum is what the manifest says.

    Raises:
        ValueError: the file is missing or was changed.
    """
    path = Path(bundle) / name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: export or copy the bundle again") from None
    if hashlib.sha256(content).hexdigest() != manifest["files"][name]["sha256"]:
        raise ValueError(f"{path} was changed: its checksum is not the manifest's; export or copy the bundle again")
    return content


def verify_bundle(bundle: Path) -> dict:
    """Check every file of a bundle against its manifest and return the manifest.

    Raises:
        ValueError: a file is missing or was changed, or the manifest cannot be read.
    """
    manifest = read_manifest(bundle)
    for name in manifest["files"]:
        read_verified(bundle, manifest, name)
    return manifest


def sha256(path: Path) -> str:
    """Checksum of a file; of a folder, of the sorted lines `CHECKSUM  RELATIVE/PATH` of its files, as
    `sha256sum` prints them."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    lines = sorted(
        f"{sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in path.rglob("*") if file.is_file()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
