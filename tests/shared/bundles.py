"""Helpers of the tests of exports."""

import keras


def with_weights(model, change):
    copy = keras.models.clone_model(model)
    copy.set_weights(change(model.get_weights()))
    return copy


def rejection(manifest, name):
    """The entry of a format that was not published; nothing of it may be in the bundle."""
    assert name not in [artifact["name"] for artifact in manifest["artifacts"]]
    assert not [file for file in manifest["files"] if name in file]
    (entry,) = (entry for entry in manifest["rejected"] if entry["name"] == name)
    return entry


def files_of(bundle):
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
