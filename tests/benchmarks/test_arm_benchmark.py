"""benchmarks/arm.py: its ratios and its JSON file; and that files of a bundle answer on arm64 as they do here."""

import json
from pathlib import Path

import numpy as np
import pytest
from real_models import real_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def arm(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import arm

    monkeypatch.setattr(arm, "qemu_version", lambda: "1.0")
    return arm


@pytest.fixture
def emulator(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from on_arm import emulator

    if not emulator.can_run():
        pytest.skip(emulator.SET_UP)
    return emulator


def rows(arm, **instructions):
    """Rows of one model on one processor, by "conversion_format"; and, which must not count, on another processor."""
    split = {name: name.rsplit("_", 1) for name in instructions}
    return [
        arm.Row(processor, "ConvMixer1024_20", *split[name], 1.0, count * factor)
        for processor, factor in (("Cortex-A76", 1), ("with i8mm", 7))
        for name, count in instructions.items()
    ]


def test_files_are_compared_with_the_plain_one_of_their_format_and_with_the_peer_that_computes_alike(arm):
    found = rows(
        arm, plain_dynamic=80, plain_int8=100, litert_dynamic=20, litert_int8_int8=10, timm_float32=400, timm_int8=25
    )
    ratios = {(row.conversion, row.format): arm.ratios(row, found) for row in found[:6]}
    assert ratios["plain", "int8"] == (1, 4)
    assert ratios["litert", "dynamic"] == (0.25, 0.8)
    assert ratios["litert_int8", "int8"] == (0.1, 0.4)
    assert ratios["timm", "int8"] == (None, None)
    alone = rows(arm, litert_float32=5)
    assert arm.ratios(alone[0], alone) == (None, None)
    assert arm.table(alone[:1]) == [
        ("Cortex-A76", "ConvMixer1024_20", "litert", "float32", "0.0", "-", "-", "1.0", "0.0e+00")
    ]


def test_a_second_run_replaces_its_rows_and_keeps_the_others_of_the_same_versions(arm, tmp_path, monkeypatch):
    out = tmp_path / "arm.json"
    first, second = rows(arm, litert_float32=3, plain_float32=4)[:2]
    arm.write(out, first)
    arm.write(out, second)
    again = arm.Row(first.processor, first.model, first.conversion, first.format, 2.0, 5)
    arm.write(out, again)
    assert arm.read(out) == [second, again]
    monkeypatch.setattr(arm, "qemu_version", lambda: "2.0")
    assert arm.read(out) == []
    arm.write(out, first)
    assert [row["instructions"] for row in json.loads(out.read_text())["rows"]] == [3]


def test_the_committed_figures_are_of_each_processor_and_of_files_that_answer_as_here(arm):
    content = json.loads((BENCHMARKS / "results/arm.json").read_text())
    found = [arm.Row(**row) for row in content["rows"]]
    cut = {"ConvMixer1024_20", "ConvMixer768_32"}  # models whose kernels deploy() cuts
    assert {(row.processor, row.model) for row in found} >= {(name, model) for name in arm.PROCESSORS for model in cut}
    for row in found:
        assert row.largest_difference < (0.01 if row.format == "dynamic" else 1e-5), row
        of_plain, _ = arm.ratios(row, found)
        if row.conversion.startswith("litert") and row.model in cut and of_plain:
            assert of_plain < 0.6, row
    assert sum(bool(arm.ratios(row, found)[0]) for row in found) > 8


def test_without_the_emulator_the_error_says_what_to_run(arm, monkeypatch, tmp_path):
    from on_arm import emulator

    monkeypatch.setattr(emulator, "FOLDER", tmp_path / "absent")
    with pytest.raises(RuntimeError, match="`make arm`"):
        emulator.run_python("Cortex-A76", "-c", "")


@pytest.mark.slow
def test_the_plugin_counts_what_the_guest_executes_and_a_failure_is_said(emulator):
    def marked(additions):
        loop = f"import os\nfor _ in range(2): os.getppid(); sum(range({additions})); os.getppid()"
        return emulator._marked(emulator.run_python("Cortex-A76", "-c", loop))[1]

    few, many = marked(10_000), marked(110_000)
    assert 5 < (many - few) / 100_000 < 200  # instructions of an addition in CPython
    with pytest.raises(RuntimeError, match="nowhere"):
        emulator.run_python("Cortex-A76", "-c", "import nowhere")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """All formats of a ConvMixer with pieces, groups of channels and blocks; the images that it was validated on."""
    model = real_model("ConvMixer-768/32, depth 2")
    out = tmp_path_factory.mktemp("arm") / "bundle"
    model.export(out, target="litert_int8")
    return out, model.images[:2]


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["Cortex-A76", "with i8mm"])
def test_files_of_a_bundle_answer_on_arm64_as_they_do_here(emulator, bundle, processor):
    from keras_convmixer.export.runtime.interpreter import LiteRTModel

    folder, images = bundle
    files = sorted(folder.glob("litert/*.tflite"))
    assert {"float32.tflite", "dynamic.tflite", "int8.tflite"} <= {path.name for path in files}
    found = {}
    for path in files:
        _, answers = emulator.count_instructions(processor, "litert", path, images)
        found[path.stem] = float(np.abs(answers - LiteRTModel(path.read_bytes(), path.name)(images)).max())
    assert found.pop("int8") == 0  # integers
    assert found.pop("dynamic") < 0.01  # activations near a rounding boundary differ by a step
    assert max(found.values()) < 1e-4, found
