"""manifest.json, the contract of a bundle: its files, their inputs and outputs, and what validation measured."""

import functools
import hashlib
import importlib.resources
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from keras_convmixer.environment.install import install_command
from keras_convmixer.files.regular_files import open_file, read_file

try:
    import jsonschema
except ImportError:
    raise ImportError(f"reading a bundle needs jsonschema: {install_command('predict')}") from None

SCHEMA = 1
NAME = "manifest.json"
UNSIGNED = "0" * 64
"""Placeholder of a manifest's own checksum while that is computed."""
LARGEST = 4 * 2**20
"""Largest size of a manifest, in bytes; that of ConvMixer-1536/20 has under 200,000."""
AGAIN = "copy the bundle again, or remove it and export again"
"""Remedy for a damaged bundle, in messages."""


def write_manifest(bundle: Path, content: dict) -> None:
    """Write manifest.json: `content`, and the sizes and checksums of all files that the bundle holds by now.

    The manifest's own `sha256` is that of the file with 64 zeros in its place.
    """
    files = {
        path.relative_to(bundle).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
    }
    content = {"schema": SCHEMA, **content, "files": files, "sha256": UNSIGNED}
    text = json.dumps(content, indent=2) + "\n"
    # The checksum is that of the text with the placeholder in its place.
    (bundle / NAME).write_text(text.replace(UNSIGNED, _digest(text)), encoding="utf-8")


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest of a bundle, see export/manifest.schema.json.

    Its checksum and schema are checked, and that every path in it is inside the bundle. The bundle's other files are
    not read; `verify_bundle` does that.

    Example:
        ```python
        from keras_convmixer.export import read_manifest

        manifest = read_manifest("bundle")
        for artifact in manifest["artifacts"]:
            print(artifact["path"], artifact["size"], artifact["validation"]["accuracy"])
        ```

    Raises:
        ValueError: the folder is not a bundle, or its manifest is damaged or of a schema that this version cannot read.
    """
    path = Path(bundle) / NAME
    content = _read_signed(path)
    fault = jsonschema.exceptions.best_match(_validator().iter_errors(content))  # pyright: ignore[reportAttributeAccessIssue]
    if fault is not None:
        place = "/".join(map(str, fault.absolute_path)) or "the whole"
        raise ValueError(f"{path} does not fit its schema ({place}: {fault.message:.200}): export the model again")
    _check_paths(path, content)
    return content


def litert_files(bundle: Path) -> list[Path]:
    """Return the .tflite files of a bundle; raises what `read_manifest` raises."""
    return [bundle / entry["path"] for entry in read_manifest(bundle)["artifacts"] if entry["format"] == "litert"]


def _read_signed(path):
    """Return a manifest whose checksum is right; nothing else of it is checked."""
    try:
        text = read_file(path, LARGEST, "a bundle's manifest").decode()
        content = json.loads(text, parse_constant=_refuse_constant)
    except FileNotFoundError:
        remedy = "make one with `convmixer export`"
        raise ValueError(f"{path.parent} is not a bundle: it holds no {NAME}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {AGAIN}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema!r:.20}, and this version reads {SCHEMA}: export the model again")
    digest = str(content.get("sha256"))
    if not re.fullmatch("[0-9a-f]{64}", digest) or _digest(text.replace(digest, UNSIGNED)) != digest:
        raise ValueError(f"{path} was changed: its checksum is not its own; {AGAIN}")
    return content


def _refuse_constant(name):
    raise ValueError(f"{name} is not a JSON number")


@functools.cache
def _validator():
    schema = importlib.resources.files(__package__).joinpath("manifest.schema.json").read_text(encoding="utf-8")
    # JSON Schema accepts 16.0 as an integer; a shape must not have it.
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=types)(json.loads(schema))  # pyright: ignore[reportAttributeAccessIssue]


def _check_paths(path, content):
    """Check that all paths of a manifest are inside the bundle, and that its .tflite files and labels are listed."""
    # Bundles come from anywhere: no path in a manifest may lead out of its bundle.
    files = content["files"]
    named = [artifact["path"] for artifact in content["artifacts"] if artifact["format"] == "litert"]
    for name in (*files, *(artifact["path"] for artifact in content["artifacts"]), content["labels"]):
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or any(character in name for character in "\\\0:"):
            raise ValueError(f"{path} names {name!r:.100}, which is not inside the bundle: {AGAIN}")
    for name in (*named, content["labels"]):
        if name not in files:
            raise ValueError(f"{path} names {name!r:.100} and has no checksum of it: {AGAIN}")


def unlisted_files(folder: Path) -> list[str]:
    """Return the relative paths of a folder's files that its manifest does not list; an intact bundle has none."""
    try:
        files = _read_signed(folder / NAME).get("files")  # without the schema: an older bundle may be replaced too
    except (OSError, ValueError):
        files = None
    listed = {*files, NAME} if isinstance(files, dict) else set()
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return sorted(there - listed)


def read_verified(bundle: Path, manifest: dict, name: str) -> bytes:
    """Return the bytes of a bundle's file after a check of its size and checksum against the manifest.

    Raises:
        ValueError: the file is missing or was changed.
    """
    path, expected = Path(bundle) / name, manifest["files"][name]
    try:
        with open_file(path, "the bundle's own file") as file:
            # By its size first: whatever lies there now, no more than the listed bytes are read.
            whole = os.fstat(file.fileno()).st_size == expected["size"]
            content = file.read() if whole else b""
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: {AGAIN}") from None
    if not whole or hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise ValueError(f"{path} was changed: its checksum is not the manifest's; {AGAIN}")
    return content


def verify_bundle(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """Check the size and checksum of every file of a bundle against its manifest; return the manifest.

    Example:
        ```python
        from keras_convmixer.export import verify_bundle

        manifest = verify_bundle("bundle")
        ```

    Raises:
        ValueError: a file is missing or was changed, or the manifest cannot be read.
    """
    manifest = read_manifest(bundle)
    for name in manifest["files"]:
        read_verified(bundle, manifest, name)
    return manifest


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder.

    A folder's is that of the sorted lines `CHECKSUM  RELATIVE/PATH` of its files, as `sha256sum` prints them.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    lines = sorted(
        f"{sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in path.rglob("*") if file.is_file()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
