"""README.md of a bundle: its tables, and its Python code as it stands."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from processes import convmixer, run_forked

from keras_convmixer.export import read_manifest
from keras_convmixer.export.manifest import write_manifest
from keras_convmixer.export.report.model_card import write_model_card

WITHOUT_TENSORFLOW = ("tensorflow", "keras")
WITHOUT_THIS_PACKAGE = (*WITHOUT_TENSORFLOW, "keras_convmixer")


def code(card, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def rewritten(toy_bundle, folder, **changes):
    """A copy of the toy's bundle whose manifest, and so its card, has other entries."""
    bundle = folder / "bundle"
    shutil.copytree(toy_bundle, bundle)
    manifest = {key: value for key, value in read_manifest(bundle).items() if key not in ("schema", "files", "sha256")}
    manifest |= changes
    write_model_card(bundle, manifest, ("red", "green", "blue"))
    (bundle / "manifest.json").unlink()
    write_manifest(bundle, manifest)
    return bundle


def take_photo(bundle, seed=0):
    """Write photo.jpg beside the card: 41x30, stored lying on its side."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    image = Image.fromarray(pixels).resize((41, 30), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn right
    image.save(bundle / "photo.jpg", exif=exif)


def answer_of_predict(bundle, *options):
    process = convmixer("predict", ".", "photo.jpg", "--json", *options, cwd=bundle)
    assert process.returncode == 0, process.stderr
    return [(found["label"], found["probability"]) for found in json.loads(process.stdout)["predictions"]]


def answer_of_code(script, bundle, blocked):
    process = run_forked(script, blocked=blocked, cwd=bundle)
    assert process.returncode == 0, process.stderr
    return [(label, float(probability)) for label, probability in map(str.split, process.stdout.splitlines())]


def assert_same_answer(found, expected):
    assert [label for label, _ in found] == [label for label, _ in expected]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], atol=1e-6)


def test_the_tables_say_what_the_manifest_says(toy_bundle):
    card = (toy_bundle / "README.md").read_text()
    manifest = read_manifest(toy_bundle)
    assert yaml.safe_load(card.split("---\n")[1]) == {"library_name": "keras", "pipeline_tag": "image-classification"}
    assert f"{manifest['model']['parameters']:,} parameters and 3 labels: red, green, blue." in card
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith(("| saved_model/", "| litert/"))]
    files, uses = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    for row, use, artifact in zip(files, uses, manifest["artifacts"], strict=True):
        assert row[0] == use[0] == f"| {artifact['path']}"
        assert row[1].startswith(f"`{artifact['input']['dtype']} [")
        assert row[3] == f"{artifact['size'] / 1000:,.0f}"
        assert row[4] == f"{artifact['validation']['agreement']:.2%}"
        assert row[5] == f"{artifact['validation']['accuracy']:.2%}"
        assert row[6].rstrip(" |") == artifact.get("oldest_runtime", "")
        assert len(use) == 3
        assert len(use[2]) > 20  # what it is for
    by_path = {row[0].removeprefix("| "): row for row in files}
    assert by_path["litert/float32.tflite"][1:3] == ["`float32 [1, 8, 8, 3]`: 0..255", "`float32 [1, 3]`: 0..1"]
    assert by_path["litert/int8.tflite"][1:3] == [
        "`uint8 [1, 8, 8, 3]`: 0..255",
        "`uint8 [1, 3]`: 0..1 is 0.00390625 x value",
    ]
    assert "README.md" in manifest["files"]


def test_files_that_fell_short_and_many_labels(toy_bundle, tmp_path):
    manifest = read_manifest(toy_bundle)
    manifest["rejected"] = [{"name": "int8", "reason": "int8 is wrong", "validation": None}]
    manifest["reference_accuracy"] = None
    write_model_card(tmp_path, manifest, tuple(f"label {number}" for number in range(23)))
    card = (tmp_path / "README.md").read_text()
    assert "label 19 and 3 more." in card
    assert "label 20" not in card
    assert "Not published:\n- int8 is wrong\n" in card
    assert re.search(r"accuracy on\s+them is not known\.", card)


@pytest.mark.parametrize(
    ("formats", "sentence"),
    [
        (
            ("float32", "float16", "dynamic", "int8"),
            "If you are unsure, take `litert/dynamic.tflite` in an app and `litert/float32.tflite` elsewhere; TF "
            "Serving takes `saved_model/1`.",
        ),
        (("float32", "int8"), "If you are unsure, take `litert/float32.tflite`; TF Serving takes `saved_model/1`."),
        (("int8",), "If you are unsure, take `litert/int8.tflite`; TF Serving takes `saved_model/1`."),
        ((), "TF Serving takes `saved_model/1`."),
    ],
)
def test_it_says_which_file_to_take(toy_bundle, tmp_path, formats, sentence):
    manifest = read_manifest(toy_bundle)
    manifest["artifacts"] = [a for a in manifest["artifacts"] if a["name"] in ("saved_model", *formats)]
    write_model_card(tmp_path, manifest, ("red", "green", "blue"))
    assert f"\n{sentence}\n" in (tmp_path / "README.md").read_text()


def test_it_asks_for_no_tensorflow_to_predict(toy_bundle):
    card = (toy_bundle / "README.md").read_text()
    assert "With this package (pip install '.[predict]' in keras_convmixer's repository), without TensorFlow:" in card


def test_it_says_how_to_get_files_for_accelerators(toy_bundle, tmp_path):
    manifest = read_manifest(toy_bundle)
    lacks_gelu = "It lacks GELU"
    card = (toy_bundle / "README.md").read_text()
    assert "`edgetpu_compiler litert/int8.tflite` writes `int8_edgetpu.tflite`." in card
    assert lacks_gelu in card
    assert "int8 (w8a8) or int16x8 (w8a16)" in card
    assert "For OpenVINO, tf2onnx and TensorFlow.js there is `prepared`." in card
    for artifact in manifest["artifacts"]:
        artifact["ops"].pop("GELU", None)
    manifest["artifacts"] = [artifact for artifact in manifest["artifacts"] if artifact["name"] != "int8"]
    write_model_card(tmp_path, manifest, ("red", "green", "blue"))
    card = (tmp_path / "README.md").read_text()
    assert lacks_gelu not in card
    assert "export with `--formats int8`, then `edgetpu_compiler int8.tflite`." in card


def test_data_and_license_are_shown_if_given(toy_bundle, tmp_path):
    manifest = read_manifest(toy_bundle)
    manifest["model"] |= {"license": None, "training_data": None}
    write_model_card(tmp_path, manifest, ("red", "green", "blue"))
    assert "| license of the model | not stated |" in (tmp_path / "README.md").read_text()
    manifest["model"] |= {"license": "cc-by-4.0", "training_data": "*photos* of ours, CC BY 4.0"}
    write_model_card(tmp_path, manifest, ("red", "green", "blue"))
    card = (tmp_path / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-4.0"
    assert "| license of the model | cc-by-4.0 |" in card
    assert "| training data | `*photos* of ours, CC BY 4.0` |" in card


@pytest.mark.parametrize("crop_fraction", [1.0, 0.8])
def test_its_python_prints_what_predict_prints(toy_bundle, tmp_path, crop_fraction):
    artifacts = read_manifest(toy_bundle)["artifacts"]
    for artifact in artifacts:
        artifact["preprocessing"]["crop_fraction"] = crop_fraction
    bundle = rewritten(toy_bundle, tmp_path, artifacts=artifacts)
    take_photo(bundle)
    expected = answer_of_predict(bundle)
    with_package, alone, verify = code((bundle / "README.md").read_text())
    assert_same_answer(answer_of_code(with_package, bundle, WITHOUT_TENSORFLOW), expected)
    assert_same_answer(answer_of_code(alone, bundle, WITHOUT_THIS_PACKAGE), expected)
    in_8_bits = alone.replace("float32.tflite", "int8.tflite")
    assert_same_answer(
        answer_of_code(in_8_bits, bundle, WITHOUT_THIS_PACKAGE), answer_of_predict(bundle, "--format", "int8")
    )
    assert answer_of_code(verify, bundle, WITHOUT_TENSORFLOW) == []
    with (bundle / "labels.txt").open("a") as file:
        file.write("more\n")
    assert "labels.txt was changed" in run_forked(verify, cwd=bundle).stderr


def test_the_python_of_a_multi_label_bundle(toy_bundle, tmp_path):
    outputs = {**read_manifest(toy_bundle)["outputs"], "kind": "multi-label", "threshold": 0.01}
    bundle = rewritten(toy_bundle, tmp_path, outputs=outputs)
    take_photo(bundle)
    expected = answer_of_predict(bundle)
    assert expected
    with_package, alone, _ = code((bundle / "README.md").read_text())
    assert_same_answer(answer_of_code(with_package, bundle, WITHOUT_TENSORFLOW), expected)
    assert_same_answer(answer_of_code(alone, bundle, WITHOUT_THIS_PACKAGE), expected)


def test_kotlin_and_swift_name_a_file_of_the_bundle_and_say_that_they_were_not_run(toy_bundle, tmp_path):
    card = (toy_bundle / "README.md").read_text()
    assert card.count("Not run where this was written.") == 2
    assert 'setModelAssetPath("dynamic.tflite")' in code(card, "kotlin")[0]
    assert 'forResource: "dynamic", ofType: "tflite"' in code(card, "swift")[0]
    manifest = read_manifest(toy_bundle)
    for artifact in manifest["artifacts"]:
        artifact["preprocessing"]["channels"] = 1
    write_model_card(tmp_path, manifest, ("red", "green", "blue"))
    grey = (tmp_path / "README.md").read_text()
    assert "ImageClassifier" not in "".join(code(grey, "kotlin") + code(grey, "swift"))  # which takes color only
    assert "64 grey values 0..255" in code(grey, "kotlin")[0]
    manifest["artifacts"] = [manifest["artifacts"][0], manifest["artifacts"][-1]]  # the SavedModel and int8
    write_model_card(tmp_path, manifest, ("red", "green", "blue"))
    grey = (tmp_path / "README.md").read_text()
    assert code(grey, "kotlin") + code(grey, "swift") == []  # which would write floats
    assert grey.count("Run `litert/int8.tflite` with") == 2


def test_a_bundle_without_tflite_files(toy_bundle, tmp_path):
    manifest = read_manifest(toy_bundle)
    manifest["artifacts"] = manifest["artifacts"][:1]
    write_model_card(tmp_path, manifest, ("red", "green", "blue"))
    card = (tmp_path / "README.md").read_text()
    assert [section for section in ("## Python", "## Android", "## iOS") if section in card] == []
    assert "## Server" in card
