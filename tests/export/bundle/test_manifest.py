import copy
import json

import jsonschema
import pytest
from manifest_schema import SCHEMA, check

from keras_convmixer.export import read_manifest


@pytest.fixture(scope="module")
def manifest(toy_bundle):
    return read_manifest(toy_bundle)


def test_it_is_what_the_schema_says(manifest):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    check(manifest)
    stripped = json.loads(json.dumps(manifest))
    for artifact in stripped["artifacts"]:
        artifact["validation"]["accuracy"] = None
    check({**stripped, "reference_accuracy": None})


@pytest.mark.parametrize(
    "break_it",
    [
        lambda content: content.pop("labels"),
        lambda content: content.update(schema=2),
        lambda content: content["calibration"].update(images=0),
        lambda content: content["artifacts"][1]["validation"].update(agreement=1.5),
        lambda content: content["artifacts"][1]["input"].pop("range"),
        lambda content: content["artifacts"][0].update(sha256="0"),
    ],
)
def test_the_schema_sees_what_is_wrong(manifest, break_it):
    content = copy.deepcopy(manifest)
    break_it(content)
    with pytest.raises(jsonschema.ValidationError):
        check(content)


@pytest.mark.slow
def test_two_exports_of_the_same_differ_in_what_is_named_alone(toy, toy_bundle, manifest, tmp_path):
    again = toy.export(tmp_path / "again")
    assert set(manifest["files"]) == set(again["files"])
    changing = tuple(manifest["changing"])
    same = [name for name in manifest["files"] if not name.startswith(changing)]
    assert {"labels.txt", "litert/int8.tflite", "litert/float32.tflite", "serving/models.config"} <= set(same)
    for name in same:
        assert (toy_bundle / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    for one, other in zip(manifest["artifacts"][1:], again["artifacts"][1:], strict=True):
        assert one == other


def test_the_seed_and_the_source_of_calibration_are_kept(toy, tmp_path):
    given = {
        "calibration_source": "training images of digits",
        "calibration_seed": 3,
        "calibration_skipped": ("a", "b"),
    }
    content = toy.republish(tmp_path / "bundle", formats=(), **given)
    assert content["calibration"] == {
        "images": 100,
        "source": "training images of digits",
        "seed": 3,
        "skipped": ["a", "b"],
    }
