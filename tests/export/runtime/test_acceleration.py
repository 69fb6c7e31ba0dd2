"""How much of a file LiteRT's GPU engine takes, where that can be measured, and what card and report say of it."""

import subprocess
from types import SimpleNamespace

import gpu_engine
import pytest
from manifest_schema import check

from keras_convmixer.export import read_manifest
from keras_convmixer.export.report.model_card import on_gpus
from keras_convmixer.export.runtime import acceleration
from keras_convmixer.export.runtime.acceleration import measure_acceleration
from keras_convmixer.export.tflite.operators import read_operators


@pytest.fixture
def files(toy_bundle):
    return {name: toy_bundle / f"litert/{name}.tflite" for name in ("float32", "int8")}


def answering(monkeypatch, *answers):
    """Let the process that opens a file give these answers, one after the other."""
    opened = iter(answers)

    def run(command, **arguments):
        answer = next(opened)
        if answer is None:
            raise subprocess.TimeoutExpired(command, arguments["timeout"])
        output, log, code = answer
        return SimpleNamespace(stdout=output, stderr=log, returncode=code)

    monkeypatch.setattr(acceleration.subprocess, "run", run)


def test_without_a_graphics_driver_it_is_not_measured(files, monkeypatch, tmp_path):
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "none.json"))
    found = measure_acceleration(files)
    assert {name: (one.nodes, one.of, one.reason) for name, one in found.items()} == dict.fromkeys(
        files, (None, None, "no graphics driver was found")
    )


def test_without_a_driver_only_one_file_is_opened(files, monkeypatch):
    answering(monkeypatch, ("", "ERROR: No adapters found", 1))
    assert [one.reason for one in measure_acceleration(files).values()] == ["no graphics driver was found"] * 2
    answering(monkeypatch, ("", "ModuleNotFoundError: No module named 'ai_edge_litert.compiled_model'", 1))
    assert measure_acceleration(files)["int8"].reason == "this ai-edge-litert has no GPU engine"


def test_a_file_at_which_the_engine_crashes_or_hangs_is_not_the_others_fault(files, monkeypatch):
    partly = "8 operations will run on the GPU, and the remaining 281 operations will run on the CPU."
    operators = sum(read_operators(files["int8"].read_bytes()).counts.values())
    for crash, reason in (
        (("", "Check failed", -6), "the engine ended with exit code -6"),
        (None, "the engine ended after 300 s without an answer"),
    ):
        answering(monkeypatch, crash, ("false\n", partly, 0))
        found = measure_acceleration(files)
        assert (found["float32"].nodes, found["float32"].reason) == (None, reason)
        assert (found["int8"].nodes, found["int8"].of, found["int8"].reason) == (8, operators, None)
    none = "No operations will run on the GPU, and all 24 operations will run on the CPU."
    answering(monkeypatch, ("true\n", none, 0), ("true\n", "", 0))
    found = measure_acceleration(files)
    assert (found["float32"].nodes, found["int8"].nodes) == (0, operators)
    answering(monkeypatch, ("true\n", "", 0), ("false\n", "", 0))
    found = measure_acceleration(files)
    assert found["float32"].nodes == found["float32"].of > 0
    assert found["int8"].nodes == 0


@pytest.mark.slow
@gpu_engine.needs_driver
def test_a_driver_takes_all_of_a_small_bundle(files):
    for one in measure_acceleration(files).values():
        assert one.nodes == one.of > 0
        assert one.reason is None


def test_manifest_card_and_report_say_it(toy_bundle):
    manifest = read_manifest(toy_bundle)
    check(manifest)
    saved_model, *files = manifest["artifacts"]
    assert "accelerated" not in saved_model
    assert all(file["accelerated"]["engine"].startswith("ai-edge-litert ") for file in files)
    sentence = on_gpus(manifest)
    assert sentence.startswith(("LiteRT's GPU engine (ai-edge-litert", "Whether LiteRT's GPU engine (ai-edge-litert"))
    assert sentence in (toy_bundle / "README.md").read_text()
    assert sentence.replace("'", "&#39;") in (toy_bundle / "report.html").read_text()


def test_the_sentences():
    def file(name, nodes, of, reason=None):
        return {"name": name, "accelerated": {"engine": "E", "nodes": nodes, "of": of, "reason": reason}}

    def sentences(*artifacts):
        return on_gpus({"artifacts": [{"name": "saved_model"}, *artifacts]})

    assert sentences() == ""
    assert (
        sentences(file("float32", 9, 9), file("int8", 8, 30), file("float16", 5, 5))
        == "LiteRT's GPU engine (E) takes all operators of float32, float16; 8 of 30 operators of int8."
    )
    assert (
        sentences(file("int8", 0, 30), file("int16x8", None, None, "it fell over"))
        == "LiteRT's GPU engine (E) takes 0 of 30 operators of int8. "
        "Whether LiteRT's GPU engine (E) takes them was not measured: int16x8 (it fell over)."
    )
    unknown = [file(name, None, None, "no driver") for name in ("float32", "int8")]
    assert sentences(*unknown, file("int16x8", None, None, "it fell over")).endswith(
        "was not measured: float32, int8 (no driver); int16x8 (it fell over)."
    )
