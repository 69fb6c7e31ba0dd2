"""Run .tflite files on runtimes of other versions, each in an environment of its own."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from environments import create_environment
from filelock import FileLock

INSTALLED = "installed"
RUN = """
import json, sys
import numpy as np
try:
    from tflite_runtime.interpreter import Interpreter
except ImportError:
    from ai_edge_litert.interpreter import Interpreter

images = np.load(sys.argv[1])
found = {}
for path in sys.argv[2:]:
    found[path] = []
    for batch in (1, 4):
        try:
            interpreter = Interpreter(model_path=path, num_threads=1)
            (tensor,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
            if batch > 1:
                interpreter.resize_tensor_input(tensor["index"], [batch, *images.shape[1:]])
            interpreter.allocate_tensors()
            answers = []
            for start in range(0, len(images), batch):
                interpreter.set_tensor(tensor["index"], images[start : start + batch].astype(tensor["dtype"]))
                interpreter.invoke()
                answers.extend(interpreter.get_tensor(output["index"]).astype(float))
            scale, zero_point = output["quantization"]
            found[path].append(((np.array(answers) - zero_point) * (scale or 1)).tolist())
        except (RuntimeError, ValueError) as error:
            found[path].append(str(error))
print(json.dumps(found))
"""


def python_of(runtime: str) -> Path:
    """Return a Python with a runtime, as "ai-edge-litert 1.4.0", in an environment that is kept between test runs.

    Skips the test where this Python has no wheel of it, and fails in CI where it cannot be had for another reason.
    """
    if runtime == INSTALLED:
        return Path(sys.executable)
    package, version = runtime.split()
    tag = f"{package}-{version}-python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = Path(tempfile.gettempdir()) / "keras_convmixer_runtimes" / tag
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name(f"{tag}.lock")):
        if not (folder / "complete").exists():
            installed = create_environment(folder, f"{package}=={version}", "numpy<2")
            if installed.returncode:
                reason = installed.stderr.strip().splitlines()[-1]
                no_wheel = "No matching distribution" in installed.stderr and sys.version_info >= (3, 12)
                if os.environ.get("CI") and not no_wheel:
                    pytest.fail(f"{runtime} cannot be installed: {reason}")
                pytest.skip(f"{runtime} cannot be installed on this Python: {reason}")
            (folder / "complete").touch()
    return folder / "bin/python"


def run(python: Path, paths: dict[str, Path], images: np.ndarray, folder: Path) -> dict[str, list]:
    """Run files on uint8 images, one at a time and four at once; return both answers, or what was raised."""
    np.save(folder / "images.npy", images)
    process = subprocess.run(
        [python, "-c", RUN, folder / "images.npy", *paths.values()], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    return {format: found[str(path)] for format, path in paths.items()}
