"""report.html of a bundle: one page, complete in itself, that shows what was measured."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from keras_convmixer.install import install_command

try:  # before an export begins, at whose end they are needed
    import jinja2
    import markupsafe
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(f"the report needs {error.name}: {install_command('export')}") from None

from keras_convmixer.files.printable import printable
from keras_convmixer.visualization.style import STYLE

from ..formats import FORMATS
from .model_card import percent, title

NAME = "report.html"
MARKERS = "osD^vP*X"
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#000000")
"""Paul Tol's bright scheme, which the colour-blind can tell apart too."""


def write_report(bundle: Path, manifest: dict) -> None:
    """Write the page of a bundle from its manifest's content; it loads nothing and runs no script."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"kilobytes": lambda size: f"{size / 1000:,.0f}", "percent": percent}
    layers = manifest["layer_errors"] and manifest["layer_errors"]["layers"]
    page = environment.get_template("report.html.jinja").render(
        **manifest,
        title=title(manifest),
        milliseconds=manifest["latency"]["milliseconds"],
        preprocessing=manifest["artifacts"][0]["preprocessing"],
        images=manifest["artifacts"][0]["validation"]["images"],
        picture=_picture(manifest),
        calibrated=any(FORMATS[a["name"]].calibrated for a in manifest["artifacts"] if a["name"] in FORMATS),
        largest_error=max((layer["error"] for layer in layers or ()), default=0) or 1,
    )
    (bundle / NAME).write_text(page, encoding="utf-8")


def _shown(value):
    """Return what the page shows of a value: text without control characters, which escaping leaves in."""
    return printable(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value


def _picture(manifest):
    """Draw accuracy over latency and over size, with the files that no other beats in both; an SVG element."""
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator

    files = [artifact for artifact in manifest["artifacts"] if artifact["format"] == "litert"]
    if not files:
        return ""
    known = manifest["reference_accuracy"] is not None
    quality = {f["name"]: 100 * f["validation"]["accuracy" if known else "agreement"] for f in files}
    costs = {
        "latency of one image, ms": manifest["latency"]["milliseconds"],
        "size, kB": {file["name"]: file["size"] / 1000 for file in files},
    }
    with pyplot.rc_context({**STYLE, "svg.hashsalt": "report"}):
        figure, both = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
        for axes, (label, cost) in zip(both, costs.items(), strict=True):
            best = pareto({name: (cost[name], quality[name]) for name in quality})
            axes.step([cost[name] for name in best], [quality[name] for name in best], "0.7", where="post", zorder=1)
            for number, name in enumerate(quality):
                marker, color = MARKERS[number % len(MARKERS)], COLORS[number % len(COLORS)]
                axes.scatter(cost[name], quality[name], 45, color, marker=marker, label=name, zorder=2)
            axes.set(xscale="log", xlabel=label)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        if known:
            for axes in both:
                axes.axhline(100 * manifest["reference_accuracy"], color="0.4", linewidth=0.8, linestyle=":", zorder=0)
        both[0].set_ylabel("accuracy, % (dotted: Keras)" if known else "images with the Keras model's class, %")
        both[0].yaxis.get_major_formatter().set_useOffset(False)
        figure.legend(*both[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
        with io.StringIO() as text:
            figure.savefig(text, format="svg", metadata={"Date": None})
            pyplot.close(figure)
            drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]  # an XML declaration does not belong into a page


def pareto(points: dict[str, tuple[float, float]]) -> list[str]:
    """Return the names of points `(cost, quality)` that no other beats, by rising cost.

    A point is beaten by one that costs no more and is no worse, and is better in one of these.
    """
    found, best = [], -np.inf
    for name, (_, quality) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if quality > best:
            found.append(name)
            best = quality
    return found
