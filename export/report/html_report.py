"""report.html of a bundle: one self-contained page with everything that was measured."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from keras_convmixer.environment.install import install_command

try:  # imported before an export begins, and needed at its end
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(f"the report needs {error.name}: {install_command('export')}") from None

from keras_convmixer.visualization.style import STYLE

from ..formats import FORMATS
from .model_card import agreement_on, on_gpus, title
from .templates import fill_template

NAME = "report.html"
MARKERS = "osD^vP*X"
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#000000")
"""Paul Tol's bright scheme, which color-blind people can tell apart too; markers differ in a grey print."""


def write_report(bundle: Path, manifest: dict) -> None:
    """Write a bundle's report.html from its manifest's content. The page loads nothing and runs no script.

    Raises:
        OSError: the disk is full.
    """
    layers = manifest["layer_errors"] and manifest["layer_errors"]["layers"]
    page = fill_template(
        "report.html.jinja",
        **manifest,
        title=title(manifest),
        agreement_on=agreement_on(manifest),
        on_gpus=on_gpus(manifest),
        milliseconds=manifest["latency"]["milliseconds"],
        preprocessing=manifest["artifacts"][0]["preprocessing"],
        images=manifest["artifacts"][0]["validation"]["images"],
        figures=_draw_tradeoffs(manifest),
        calibrated=any(FORMATS[a["name"]].calibrated for a in manifest["artifacts"] if a["name"] in FORMATS),
        largest_error=max((layer["error"] for layer in layers or ()), default=0) or 1,
    )
    (bundle / NAME).write_text(page, encoding="utf-8")


def _draw_tradeoffs(manifest):
    """Return two SVG elements: accuracy over latency, and accuracy over size, of the .tflite files.

    They are two figures of a phone's width, so that a narrow page shows one below the other in full size.
    """
    from matplotlib import pyplot

    files = [artifact for artifact in manifest["artifacts"] if artifact["format"] == "litert"]
    if not files:
        return []
    labeled = manifest["reference_accuracy"] is not None
    quality = {f["name"]: 100 * f["validation"]["accuracy" if labeled else "agreement"] for f in files}
    costs = {
        "latency of one image, ms": manifest["latency"]["milliseconds"],
        "size, kB": {file["name"]: file["size"] / 1000 for file in files},
    }
    drawn = []
    for label, cost in costs.items():
        with pyplot.rc_context({**STYLE, "svg.hashsalt": "report"}):
            figure, axes = pyplot.subplots(figsize=(4.2, 3.6), layout="constrained")
            _draw_tradeoff(axes, cost, quality)
            axes.set_xlabel(label)
            if labeled:
                reference = 100 * manifest["reference_accuracy"]
                axes.axhline(reference, color="0.4", linewidth=0.8, linestyle=":", zorder=0, label="Keras model")
            axes.set_ylabel("accuracy, %" if labeled else "agreement with Keras, %")
            figure.legend(loc="outside lower center", ncols=3, frameon=False)  # below the axes, where no point is
            drawn.append(_svg(figure))
            pyplot.close(figure)
    return drawn


def _draw_tradeoff(axes, cost, quality):
    """Draw a marker for each file at its cost and quality, and the Pareto front as a grey line to the right edge."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    for number, name in enumerate(quality):
        marker, color = MARKERS[number % len(MARKERS)], COLORS[number % len(COLORS)]
        axes.scatter(cost[name], quality[name], 45, color, marker=marker, label=name, zorder=2)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    best = pareto({name: (cost[name], quality[name]) for name in quality})
    # On to the right edge, as a single file that is best in both would be a line of no length.
    steps = [*(cost[name] for name in best), high], [*(quality[name] for name in best), quality[best[-1]]]
    axes.step(*steps, "0.7", where="post", zorder=1)
    axes.set_xlim(low, high)
    # Powers of ten alone are too few labels where files differ little, and 1, 2, 5, 10 too many over several decades.
    locator = MaxNLocator(4) if high < 8 * low else LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,))
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.get_major_formatter().set_useOffset(False)


def _svg(figure):
    with io.StringIO() as text:
        figure.savefig(text, format="svg", metadata={"Date": None})
        drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]  # without the XML declaration, which a page cannot hold


def pareto(points: dict[str, tuple[float, float]]) -> list[str]:
    """Return the names of the Pareto front of points `(cost, quality)`, by rising cost.

    A point is on it unless another one costs no more, is no worse, and is better in one of the two. For example,
    `pareto({"a": (1, 80), "b": (2, 90), "c": (3, 85)})` is `["a", "b"]`: c costs more than b and is worse.
    """
    found, best = [], -np.inf
    for name, (_, quality) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if quality > best:
            found.append(name)
            best = quality
    return found
