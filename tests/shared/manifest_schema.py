"""The schema that the package has for manifest.json, and a validator that shares no code with the package's own."""

import json
from pathlib import Path

import jsonschema

import keras_convmixer.export

SCHEMA = json.loads((Path(keras_convmixer.export.__file__).parent / "manifest.schema.json").read_text())


def check(manifest: dict) -> None:
    """Raise jsonschema.ValidationError where a manifest is not as the schema says."""
    jsonschema.validate(manifest, SCHEMA, jsonschema.Draft202012Validator)
