from keras_convmixer.export import read_manifest
from keras_convmixer.export.report.model_card import write_model_card


def test_it_says_what_the_manifest_says(toy_bundle):
    card = (toy_bundle / "README.md").read_text()
    manifest = read_manifest(toy_bundle)
    assert card.startswith("---\nlibrary_name: keras\n")
    assert f"{manifest['model']['parameters']:,} parameters and 3 labels: red, green, blue." in card
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith(("| saved_model/", "| litert/"))]
    for row, artifact in zip(rows, manifest["artifacts"], strict=True):
        assert row[0] == f"| {artifact['path']}"
        assert row[2] == f"{artifact['size'] / 1000:,.0f}"
        assert row[3] == f"{artifact['validation']['agreement']:.2%}"
        assert row[4] == f"{artifact['validation']['accuracy']:.2%}"
        assert row[5].rstrip(" |") == artifact.get("oldest_runtime", "")
    assert "Every file that was asked for is published." in card
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
    assert "is not known:" in card
