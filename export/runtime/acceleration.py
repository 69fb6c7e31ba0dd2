"""Measure how many operators of a .tflite file LiteRT's GPU engine takes. TensorFlow is not needed.

The engine comes with ai-edge-litert and runs on WebGPU, for which a machine needs a graphics driver; one that computes
on the CPU will do. Each file is opened in a process of its own, as a driver may end the process:
`python -m keras_convmixer.export.runtime.acceleration FILE`.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..tflite.operators import read_operators

SECONDS = 300
"""Longest time for one file. ConvMixer-1024/20 takes a second on a driver that computes on the CPU."""
PARTLY = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")
"""LiteRT says only in its log how many operators the engine took."""
NONE = "No operations will run on the GPU"
"""Logged instead if it took none. LiteRT may call such a file fully accelerated, by its engine for CPUs."""
MISSING = {
    "No adapters found": "no graphics driver was found",
    "ModuleNotFoundError": "this ai-edge-litert has no GPU engine",
}
"""Words in LiteRT's log, and what they say that the machine lacks."""


@dataclass(frozen=True)
class Acceleration:
    """How many operators of a file LiteRT's GPU engine takes, or why that is not known."""

    engine: str
    nodes: int | None = None
    """Operators that the engine runs; LiteRT's CPU engines run the others."""
    of: int | None = None
    """All operators of the file."""
    reason: str | None = None


def measure_acceleration(files: dict[str, Path]) -> dict[str, Acceleration]:
    """Open each file in LiteRT's GPU engine on this machine; return by name how many operators the engine takes."""
    engine = f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')} on WebGPU"
    found, missing = {}, None
    for name, path in files.items():
        process = None if missing else _open_in_a_process(path)
        log = process.stdout + process.stderr if process else ""
        missing = missing or next((reason for words, reason in MISSING.items() if words in log), None)
        partly, operators = PARTLY.search(log), sum(read_operators(path.read_bytes()).counts.values())
        if missing:
            found[name] = Acceleration(engine, reason=missing)
        elif process is None or process.returncode:
            fault = f"with exit code {process.returncode}" if process else f"after {SECONDS} s without an answer"
            found[name] = Acceleration(engine, reason=f"the engine ended {fault}")
        elif partly:
            found[name] = Acceleration(engine, int(partly[1]), operators)
        else:
            wholly = NONE not in log and json.dumps(True) in process.stdout.splitlines()  # among what LiteRT prints
            # It takes all, which `PARTLY` is not logged of either, or refuses the file before it counts.
            found[name] = Acceleration(engine, operators if wholly else 0, operators)
    return found


def _open_in_a_process(path):
    """Run this module on a file; None where it does not answer in time."""
    command = [sys.executable, "-m", __spec__.name, str(path)]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None


def _is_wholly_accelerated(path: str) -> bool:
    """Open a file in the engine; return whether it takes every operator."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    model = CompiledModel.from_file(path, hardware_accel=HardwareAccelerator.GPU | HardwareAccelerator.CPU)
    return model.is_fully_accelerated()


if __name__ == "__main__":
    print(json.dumps(_is_wholly_accelerated(sys.argv[1])))
