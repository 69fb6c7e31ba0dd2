"""manifest.json, the contract of a bundle: what is in it, how to feed it, what validation measured."""

import functools
import hashlib
import importlib.resources
import json
import os
import re
from pathlib import Path, PurePosixPath

import jsonschema

from keras_convmixer.files.regular_files import open_file, read_file

SCHEMA = 1
NAME = "manifest.json"
UNSIGNED = "0" * 64
LARGEST = 4 * 2**20
"""Bytes of a manifest at most; that of ConvMixer-1536/20 has under 200,000."""
AGAIN = "copy the bundle again, or remove it and export again"


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

    It is checked: its checksum, `manifest.schema.json`, and that every path in it names a file inside the bundle.

    Raises:
        ValueError: the folder is no bundle, its manifest is damaged, or of a schema that this version cannot
            read.
    """
    path = Path(bundle) / NAME
    content = _read_signed(path)
    fault = jsonschema.exceptions.best_match(_validator().iter_errors(content))
    if fault is not None:
        place = "/".join(map(str, fault.absolute_path)) or "the whole"
        raise ValueError(f"{path} does not fit its schema ({place}: {fault.message:.200}): export the model again")
    _check_paths(path, content)
    return content


def _read_signed(path):
    """Return a manifest whose checksum is right; nothing else about it is known."""
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
    # JSON Schema counts 16.0 among the integers, which no shape may be here.
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=types)(json.loads(schema))


def _check_paths(path, content):
    """Check that the files and artifacts of a manifest lie inside the bundle, and that it lists what it names."""
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
    """Relative paths of all files in a folder that no manifest there lists: none where it is just a bundle."""
    try:
        files = _read_signed(folder / NAME).get("files")  # also of an older version, whose bundle may be replaced
    except (OSError, ValueError):
        files = None
    listed = {*files, NAME} if isinstance(files, dict) else set()
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(set(found) - listed)


def read_verified(bundle: Path, manifest: dict, name: str) -> bytes:
    """Return a file's bytes once its checksum is what the manifest says.

    Raises:
        ValueError: the file is missing or was changed.
    """
    path, expected = Path(bundle) / name, manifest["files"][name]
    try:
        with open_file(path, "the bundle's own file") as file:
            # No more than is listed, whatever lies there now.
            whole = os.fstat(file.fileno()).st_size == expected["size"]
            content = file.read() if whole else b""
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: {AGAIN}") from None
    if not whole or hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise ValueError(f"{path} was changed: its checksum is not the manifest's; {AGAIN}")
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
