"""Measure the speed and memory of a bundle's .tflite files on this machine. TensorFlow is not needed.

Each file and thread count is measured in a process of its own, as a start and a peak of memory can be seen only once
in a process: `python -m keras_convmixer.export.runtime.benchmarking FILE THREADS SECONDS`.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_convmixer.environment.peak_memory import peak_memory

from ..manifest import read_manifest, read_verified

ROUNDS = 3
"""Measurements of each file. Files take turns, so that other load on the machine is spread over all of them."""
LEAST = 5
"""Fewest images that are timed, however long one takes."""
QUICK_THREADS, QUICK_SECONDS = 1, 0.2
"""Threads, and seconds for each file, of `quick_latencies`."""
WARM_UP = 2
"""Runs after the first one that are not timed either."""


@dataclass(frozen=True)
class Timing:
    """The speed and memory of one file with one number of threads.

    Example:
        ```python
        from keras_convmixer.export import benchmark

        fastest = min(benchmark("bundle", threads=(1,), seconds=0.1), key=lambda timing: timing.median)
        print(f"{fastest.name}: {fastest.median:.2f} ms")
        ```
    """

    name: str
    """Format of the file, such as "int8"."""
    threads: int
    size: int
    """Bytes of the file."""
    median: float
    """Median milliseconds of one image."""
    p90: float
    """90th percentile of the milliseconds of one image."""
    cold_start: float
    """Milliseconds from opening the file to the first answer."""
    peak_memory: int
    """Bytes by which the process's peak memory grew."""
    images: int
    """Images that were timed."""


def benchmark(
    bundle: str | os.PathLike[str],
    threads: tuple[int, ...] = (1, 2),
    seconds: float = 3.0,
    done: Callable[[str], None] = lambda _: None,
) -> list[Timing]:
    """Measure every .tflite file of a bundle with each number of threads.

    Example:
        ```python
        from keras_convmixer.export import benchmark

        for timing in benchmark("bundle", threads=(1,), seconds=0.1):
            print(timing.name, timing.median, timing.peak_memory)
        ```

    Args:
        bundle: folder that `export_bundle` wrote.
        threads: numbers of threads to measure each file with.
        seconds: time for each file and number of threads, in `ROUNDS` rounds.
        done: called after each measurement with its name, to show progress.

    Raises:
        ValueError: the folder is not a bundle or was changed since its export, or a number is not positive.
    """
    if not threads or min(threads) < 1 or seconds <= 0:
        raise ValueError(f"threads={' '.join(map(str, threads))}, seconds={seconds}: give more than 0")
    bundle = Path(bundle)
    manifest = read_manifest(bundle)
    files = {a["name"]: bundle / a["path"] for a in manifest["artifacts"] if a["format"] == "litert"}
    for path in files.values():
        read_verified(bundle, manifest, path.relative_to(bundle).as_posix())
    measurements = {}  # results of `_run`, by (format, threads)
    for _ in range(ROUNDS):
        for name, path in files.items():
            for count in threads:
                measurements.setdefault((name, count), []).append(_measure(path, count, seconds / ROUNDS))
                done(f"{name}, {count} thread{'s' if count > 1 else ''}")
    return [
        Timing(
            name=name,
            threads=count,
            size=files[name].stat().st_size,
            median=float(np.median(latencies := np.concatenate([run["latencies"] for run in runs]))),
            p90=float(np.quantile(latencies, 0.9)),
            cold_start=float(np.median([run["cold_start"] for run in runs])),
            peak_memory=int(np.median([run["peak_memory"] for run in runs])),
            images=len(latencies),
        )
        for (name, count), runs in measurements.items()
    ]


def quick_latencies(contents: dict[str, bytes]) -> dict[str, float]:
    """Return the median milliseconds of one image by file, measured in this process, in rounds."""
    from .interpreter import LiteRTModel

    models = {name: LiteRTModel(content, name, QUICK_THREADS) for name, content in contents.items()}
    latencies = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            image = _random_image(model)
            model(image)  # not timed: the other files have been in the caches since
            latencies[name] += _timed(model, image, QUICK_SECONDS / ROUNDS, least=-(-LEAST // ROUNDS))  # rounded up
    return {name: float(np.median(milliseconds)) for name, milliseconds in latencies.items()}


def processor() -> str:
    """Return the name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _random_image(model):
    shape = (1, model.height, model.width, model.channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def _timed(model, image, seconds, least):
    latencies, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(latencies) < least:
        started = time.perf_counter()
        model(image)
        latencies.append(1000 * (time.perf_counter() - started))
    return latencies


def _measure(path, threads, seconds):
    command = [sys.executable, "-m", __spec__.name, str(path), str(threads), str(seconds)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise ValueError(f"{path} cannot be run: {process.stderr.strip().splitlines()[-1]}")
    return json.loads(process.stdout.splitlines()[-1])  # the last line: libraries may print before it


def _run(path: str, threads: int, seconds: float) -> dict:
    from .interpreter import LiteRTModel

    before = peak_memory()  # of Python and LiteRT's library, which every file needs alike
    started = time.perf_counter()
    model = LiteRTModel(Path(path).read_bytes(), path, threads)
    image = _random_image(model)
    model(image)
    cold_start = time.perf_counter() - started
    for _ in range(WARM_UP):
        model(image)
    latencies = _timed(model, image, seconds, LEAST)
    return {"latencies": latencies, "cold_start": 1000 * cold_start, "peak_memory": peak_memory() - before}


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
