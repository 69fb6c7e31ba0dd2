"""benchmarks/gpu.py: its dry run on a CPU, a run that is cut off, and processes that crash or never answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peers import JAX_COMPILES_QUICKLY, require_jax

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def dry_run(out, minutes):
    environment = {**os.environ, "GPU_BENCHMARK_SECONDS": "0.01", **JAX_COMPILES_QUICKLY}
    command = [sys.executable, BENCHMARKS / "gpu.py", "--tiny", "--out", out, "--minutes", str(minutes)]
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads((out / "gpu.json").read_text())["results"]


@pytest.mark.slow
@pytest.mark.peer
def test_dry_run_measures_every_form_and_they_agree(gpu, tmp_path):
    require_jax()
    first = [r for r in dry_run(tmp_path, 0.3) if "milliseconds" in r]
    results = dry_run(tmp_path, 5)
    assert results[: len(first)] == first  # a run that was cut off lost nothing and is not measured again
    assert [r for r in results if "failed" in r] == []

    layers = [r for r in results if r["kind"] == "layer"]
    assert len(layers) == len(gpu.layer_tasks(gpu.TINY))
    compared = [r["difference"] for r in layers if r["form"] != "keras"]
    assert max(compared) < 1e-5
    models = [r for r in results if r["kind"] == "model" and "form" in r]
    for name in gpu.TINY["cases"]:
        for direction in ("inference", "training step"):
            of_direction = [r for r in models if (r["name"], r["direction"]) == (name, direction)]
            assert "keras" in [r["form"] for r in of_direction]
            # The two best forms of the layers measured so far, which may be others when the run continues.
            assert len({r["form"] for r in of_direction}) == len(of_direction) >= 3
            outputs = [r["outputs"] for r in of_direction]
            np.testing.assert_allclose(outputs, [outputs[0]] * len(outputs), rtol=1e-4, atol=1e-5)
            assert len(set(outputs[0])) > 1
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"| {form} |" in table for form in gpu.FORMS)


WORKER = """
import json, os, sys, time
for line in sys.stdin:
    task = json.loads(line)
    if task["form"] == "crash":
        os.abort()
    if task["form"] == "hang":
        time.sleep(1000)
    print(json.dumps({"milliseconds": 1.0}), flush=True)
"""


def test_crash_and_hang_end_one_task(gpu, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    worker = gpu.Worker(str(tmp_path / "worker.py"), {"log": subprocess.DEVNULL, "variables": {}})
    answers = [worker.ask({"form": form}, 1, left=3) for form in ("well", "crash", "well", "hang", "well")]
    worker.stop()
    well = {"milliseconds": 1.0}
    assert [answers[0], answers[2], answers[4]] == [well] * 3
    assert answers[1] == {"failed": "the process ended with exit code -6: see gpu.log"}
    assert answers[3]["failed"].startswith("stopped after")


def test_results_are_kept_and_failures_tried_again(gpu, tmp_path):
    results = gpu.Results(tmp_path, gpu.TINY)
    results.add({"kind": "peak", "size": 1}, {"milliseconds": 2.0, "tflops": 1.0, "copy_gb_per_second": 3.0})
    results.add({"kind": "peak", "size": 2}, {"failed": "RuntimeError: RESOURCE_EXHAUSTED: out of memory"})
    again = gpu.Results(tmp_path, gpu.TINY)
    assert again.has({"kind": "peak", "size": 1})
    assert not again.has({"kind": "peak", "size": 2})
    with pytest.raises(SystemExit, match=r"is of another plan: give another folder by --out"):
        gpu.Results(tmp_path, gpu.FULL)


def test_best_forms_are_the_fastest_with_backward(gpu):
    times = {
        "keras": (9, 9),
        "banded 1": (1, 5),
        "banded 4": (3, 2),
        "shifted": (2, 4),
        "transposed 4": (1, 1),
        "pieces": (1,),
    }
    results = [
        {"kind": "layer", "name": "a", "batch": 64, "form": form, "direction": direction, "milliseconds": milliseconds}
        for form, found in times.items()
        for direction, milliseconds in zip(("forward", "forward and backward"), found, strict=False)
    ]
    assert gpu.best_forms(results, "a") == ["keras", "banded 4", "shifted"]


def test_share_of_peak_counts_the_models_multiplications(gpu):
    from on_gpu.report import multiplications, share_of_peak

    sizes = {"dim": 1536, "depth": 20, "kernel_size": 9, "patch_size": 7, "image": 224, "classes": 1000}
    # The paper gives 48.6 G for pointwise layers and embedding (timm's table), without depthwise layers.
    depthwise = 20 * 32 * 32 * 1536 * 81
    assert (multiplications(sizes) - depthwise) / 1e9 == pytest.approx(48.6, rel=0.01)
    result = {**sizes, "direction": "training step", "images_per_second": 1000}
    assert share_of_peak(result, 1000.0) == pytest.approx(6 * multiplications(sizes) * 1000 / 1e15)
