"""How fast a bundle's files are, as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_convmixer.files.printable import printable
from keras_convmixer.visualization.style import STYLE, save_png

from ..manifest import read_manifest
from ..runtime.benchmarking import Timing

HEIGHT, GREYS = 0.8, ("0.35", "0.75", "0.55", "0.9")


def draw_benchmark(bundle: Path, timings: list[Timing], path: Path) -> None:
    """Draw a bar for each file and thread count, as long as its median latency, with a tick at 90 % of images.

    Beside a file's name are its size and its accuracy, or its agreement with Keras where there were no labels.
    Raises OSError: `path`'s folder is not there, or the disk is full.
    """
    from matplotlib import pyplot

    measured = {artifact["name"]: artifact["validation"] for artifact in read_manifest(bundle)["artifacts"]}
    names = list(dict.fromkeys(timing.name for timing in timings))
    threads = sorted({timing.threads for timing in timings})
    thick = HEIGHT / len(threads)
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(7.5, 1 + 0.55 * len(names)), layout="constrained")
        for row, count in enumerate(threads):
            chosen = [timing for timing in timings if timing.threads == count]
            places = np.array([names.index(timing.name) for timing in chosen]) + (row + 0.5) * thick - HEIGHT / 2
            color = GREYS[row % len(GREYS)]
            label = f"{count} thread" + ("s" if count > 1 else "")
            axes.barh(places, [timing.median for timing in chosen], 0.9 * thick, color=color, label=label)
            axes.plot([timing.p90 for timing in chosen], places, "|", color="black", markersize=9)
        labels = []
        for name in names:
            size = next(timing.size for timing in timings if timing.name == name)
            right, agreement = measured[name]["accuracy"], measured[name]["agreement"]
            known = f"{agreement:.1%} as Keras" if right is None else f"{right:.1%} right"
            labels.append(f"{printable(name)}\n{size / 1000:,.0f} kB, {known}")
        axes.set_yticks(range(len(names)), labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("latency of one image, ms: median, and what 90 % stay under")
        axes.legend()
        save_png(figure, path)
        pyplot.close(figure)
