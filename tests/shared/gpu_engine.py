"""Run .tflite files on LiteRT's GPU engine, each in a process of its own, as drivers may end it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FORCE_FP16 = 4
"""Flag of XNNPACK with which LiteRT's CPU engine computes float layers in half precision, as GPUs do."""

needs_driver = pytest.mark.skipif(
    not os.environ.get("VK_ICD_FILENAMES"),
    reason="no Vulkan driver: set VK_ICD_FILENAMES to the .json file of one, see CONTRIBUTING.md",
)


def answers(path: Path, images: np.ndarray, engine: str = "GPU", half: bool = False) -> np.ndarray:
    """Return a file's outputs on "GPU" or "CPU" alone; fails unless the engine takes all of its operators."""
    given, found = path.with_suffix(".given.npy"), path.with_suffix(".found.npy")
    np.save(given, images)
    command = [sys.executable, __file__, path, given, found, engine, str(FORCE_FP16 if half else 0)]
    process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    return np.load(found)


def _run(path, given, found, engine, flags):
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.options import CpuOptions, Options

    cpu = CpuOptions(xnnpack_flags=int(flags)) if int(flags) else CpuOptions()
    options = Options(hardware_accelerators=HardwareAccelerator[engine], cpu_options=cpu)
    model = CompiledModel.from_file(path, options=options)
    assert engine == "CPU" or model.is_fully_accelerated()
    interpreter = Interpreter(path)
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    answers = []
    for image in np.load(given):
        inputs[0].write(image[None].astype(source["dtype"]))
        model.run_by_index(0, inputs, outputs)
        answers.append(outputs[0].read(np.prod(result["shape"]), result["dtype"]))
    scale, zero_point = result["quantization"]
    values = np.stack(answers)
    np.save(found, (values.astype("float32") - zero_point) * scale if scale else values)


if __name__ == "__main__":
    _run(*sys.argv[1:])
