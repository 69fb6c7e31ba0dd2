"""A figure of the latency of a bundle's files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from keras_convmixer.files.printable import printable
from keras_convmixer.visualization.style import STYLE, save_png

from ..manifest import read_manifest
from ..runtime.benchmarking import Timing

GROUP = 0.8
"""Height of a file's bars together; files are 1 apart."""


def draw_benchmark(bundle: str | os.PathLike[str], timings: list[Timing], path: str | os.PathLike[str]) -> None:
    """Draw the latency of a bundle's files as a PNG: a bar for each file and thread count.

    A bar is as long as the median latency, and a tick marks the 90th percentile. Beside a file's name stand its size
    and its accuracy or, where the bundle was exported without labels, its agreement with the Keras model.

    Example:
        ```python
        from keras_convmixer.export import benchmark, draw_benchmark

        timings = benchmark("bundle", threads=(1, 2), seconds=0.1)
        draw_benchmark("bundle", timings, "latency.png")
        ```

    Args:
        bundle: the bundle's folder.
        timings: of `benchmark`, for files of this bundle.
        path: the PNG.

    Raises:
        ValueError: `bundle` is not a bundle.
        OSError: the PNG cannot be written.
    """
    from matplotlib import pyplot

    measured = {artifact["name"]: artifact["validation"] for artifact in read_manifest(bundle)["artifacts"]}
    names = list(dict.fromkeys(timing.name for timing in timings))
    threads = sorted({timing.threads for timing in timings})
    thickness = GROUP / len(threads)
    greys = np.linspace(0.35, 0.9, max(len(threads), 2))  # dark to light by thread count
    with pyplot.rc_context(STYLE):
        height = 1.2 + len(names) * max(0.55, 0.16 * len(threads))  # inches; two lines of text a file need 0.3
        figure, axes = pyplot.subplots(figsize=(7.5, height), layout="constrained")
        for row, count in enumerate(threads):
            of_count = [timing for timing in timings if timing.threads == count]
            centers = np.array([names.index(timing.name) for timing in of_count]) + (row + 0.5) * thickness - GROUP / 2
            label = f"{count} thread" + ("s" if count > 1 else "")
            medians = [timing.median for timing in of_count]
            axes.barh(centers, medians, 0.9 * thickness, color=str(greys[row]), edgecolor="0.3", label=label)
            axes.plot([timing.p90 for timing in of_count], centers, "|", color="black", markersize=9)
        axes.plot([], [], "|", color="black", markersize=9, label="90th percentile")  # for the legend alone
        labels = []
        for name in names:
            size = next(timing.size for timing in timings if timing.name == name)
            accuracy, agreement = measured[name]["accuracy"], measured[name]["agreement"]
            quality = f"agreement {agreement:.1%}" if accuracy is None else f"accuracy {accuracy:.1%}"
            labels.append(f"{printable(name)}\n{size / 1000:,.0f} kB, {quality}")
        axes.set_yticks(range(len(names)), labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("latency of one image, ms (bars: median)")
        figure.legend(loc="outside upper center", ncols=4, frameon=False)  # above the axes, where no bar is
        save_png(figure, Path(path))
        pyplot.close(figure)
