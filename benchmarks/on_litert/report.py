"""Write what `make benchmark` measured: litert.json, a table in litert.md, and a figure, litert.png.

`python benchmarks/on_litert/report.py` writes the table and the figure again from the committed litert.json. Sentences
under its "notes", which are written by hand, say what the run does not, such as that rows are of a second run.
"""

import importlib.metadata
import json
import os
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from keras_convmixer.export.runtime.benchmarking import processor
from keras_convmixer.visualization.style import STYLE, save_png

FORMS = ("float32", "dynamic int8", "static int8")
PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "litert-quantizer", "torch", "timm", "onnxruntime", "openvino")
COLORS = {"plain": "0.75", "deployed": "#1f4e8c", "litert_int8": "#5b9bd5"}
"""Colors of a conversion's bars: light, dark and middle grey when printed in grey."""
COSTS = 8
"""Rows in the tables of operators: the most expensive ones."""


def machine() -> dict:
    """Return the processor, its cores and vector instructions, and the versions of the measured packages."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    vectors = [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp") if name in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": processor(), "cores": cores, "vectors": vectors, "versions": versions}


def write(out: Path, rows: list[dict], costs: dict[str, list[dict]]) -> None:
    """Write litert.json, litert.md and litert.png."""
    content = {"machine": machine(), "rows": rows, "operators": costs}
    (out / "litert.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "litert.md").write_text(_markdown(content), encoding="utf-8")
    draw(out / "litert.png", rows)


def ratios(row: dict, rows: list[dict]) -> tuple[float | None, float | None]:
    """Return a row's two speedups: over the plain file of its form, and over the fastest float32 peer.

    Both compare within one model and one thread count; None where there is nothing to compare with.
    """
    beside = [other for other in rows if (other["model"], other["threads"]) == (row["model"], row["threads"])]
    plain = [o["milliseconds"] for o in beside if o["conversion"] == "plain" and o["form"] == row["form"]]
    peers = [o["milliseconds"] for o in beside if o["conversion"] == "timm" and o["form"] == "float32"]
    on_litert = row["engine"] == "litert" and row["conversion"] != "pointwise alone"
    return (
        plain[0] / row["milliseconds"] if on_litert and plain else None,
        min(peers) / row["milliseconds"] if peers else None,
    )


def _markdown(content):
    described = content["machine"]
    lines = [
        "# LiteRT, plain conversion against deployed",
        "",
        f"{described['processor']}, {described['cores']} cores, {', '.join(described['vectors'])}; batch 1; medians of "
        "turns taken in one run. By `make benchmark`.",
        "",
        *(line for note in content.get("notes", ()) for line in (note, "")),
        ", ".join(f"{package} {version}" for package, version in described["versions"].items()),
        "",
        "x plain: how many times faster than the plain file of the same form; x peer: than the fastest float32 peer. "
        "Differences are from Keras's logits, as a share of their range. Memory is the whole process's peak.",
    ]
    for threads in sorted({row["threads"] for row in content["rows"]}):
        lines += ["", f"## {threads} thread{'s' * (threads > 1)}", "", *summary(content["rows"], threads), ""]
        lines += [
            "| model | engine | conversion | form | ms | x plain | x peer | file MB | memory MB | largest | mean |",
            "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in content["rows"]:
            if row["threads"] == threads:
                plain, peer = ratios(row, content["rows"])
                lines.append(
                    f"| {row['model']} | {row['engine']} | {row['conversion']} | {row['form']} "
                    f"| {row['milliseconds']:.{1 if row['milliseconds'] > 20 else 2}f} "
                    f"| {_number(plain, '.2f')} | {_number(peer, '.2f')} | {row['megabytes']:.1f} "
                    f"| {row['peak_memory']:.0f} | {_number(row['largest_difference'], '.1e')} "
                    f"| {_number(row['mean_difference'], '.1e')} |"
                )
    for name, costs in content["operators"].items():
        total = sum(cost["milliseconds"] for cost in costs)
        lines += ["", f"## {name}, deployed float32: its operators, each timed alone, one thread", ""]
        lines += ["| operator | input, weights, output | count | ms | share |", "|---|---|--:|--:|--:|"]
        for cost in costs[:COSTS]:
            lines.append(
                f"| {cost['operator']} | {cost['shape']} | {cost['count']} | {cost['milliseconds']:.1f} "
                f"| {cost['milliseconds'] / total:.0%} |"
            )
    return "\n".join([*lines, ""])


def summary(rows: list[dict], threads: int) -> list[str]:
    """Return the lines of a Markdown table: a row for each model, with milliseconds plain -> deployed by form."""
    for_int8 = [f"{form}, litert_int8" for form in FORMS[1:]]
    first, last = f"ms, {threads} thread{'s' * (threads > 1)}", ("fastest peer, float32", "peer, static int8")
    columns = (first, *FORMS, *for_int8, *last)
    lines = [f"| {' | '.join(columns)} |", "|---|" + "--:|" * (len(columns) - 1)]
    for name in dict.fromkeys(row["model"] for row in rows):
        found = {
            (row["conversion"], row["form"], row["engine"]): row["milliseconds"]
            for row in rows
            if (row["model"], row["threads"]) == (name, threads)
        }
        cells = []
        for form in FORMS:
            plain, deployed = found["plain", form, "litert"], found["deployed", form, "litert"]
            cells.append(f"{milliseconds(plain)} -> **{milliseconds(deployed)}** ({plain / deployed:.1f}x)")
        for form in FORMS[1:]:
            time = found.get(("litert_int8", form, "litert"))
            ratio = time and found["plain", form, "litert"] / time
            cells.append(f"**{milliseconds(time)}** ({ratio:.1f}x)" if time else "-")
        for form in ("float32", "static int8"):
            peers = [(time, engine) for (kind, made, engine), time in found.items() if (kind, made) == ("timm", form)]
            cells.append(f"{milliseconds(min(peers)[0])} {min(peers)[1]}" if peers else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def milliseconds(time: float) -> str:
    """Return a time in ms with three digits, or whole from 100 on."""
    return f"{time:,.0f}" if time >= 100 else f"{time:.3g}"


def _number(value, form):
    return "-" if value is None else format(value, form)


def draw(path: Path, rows: list[dict]) -> None:
    """Draw a panel of bars for each ConvMixer: its time on one thread by form and conversion, and its fastest peer."""
    threads = min(row["threads"] for row in rows)
    names = list(dict.fromkeys(row["model"] for row in rows if row["model"].startswith("ConvMixer")))
    panels = [_bars([row for row in rows if (row["model"], row["threads"]) == (name, threads)]) for name in names]
    lengths = [bars[-1].position + 1 for bars in panels]
    with rc_context(STYLE):
        # 0.19 inches a bar, so that labels of 9 points (0.125 inches) do not touch; 0.6 for a panel's title and axis.
        figure = Figure(figsize=(7.2, 0.3 + sum(0.6 + 0.19 * length for length in lengths)), layout="constrained")
        axes = figure.subplots(len(names), 1, squeeze=False, height_ratios=lengths)[:, 0]
        for axis, name, bars in zip(axes, names, panels, strict=True):
            _draw_bars(axis, bars)
            axis.set_title(name, loc="left")
        axes[-1].set_xlabel(f"ms for one image, {threads} thread{'s' * (threads > 1)}; lower is better")
        save_png(figure, path)


class Bar(NamedTuple):
    """A bar of `draw`; `position` counts bars from the top of the panel."""

    position: float
    label: str
    milliseconds: float
    color: str
    hatch: str | None = None


def _bars(rows):
    """Return the bars of one model: form by form, with half a bar's space between forms."""
    bars, position = [], 0.0
    for form in FORMS:
        of_form = [row for row in rows if row["form"] == form]
        for conversion, color in COLORS.items():
            for row in of_form:
                if row["conversion"] == conversion:
                    bars.append(Bar(position, f"{form}, {conversion}", row["milliseconds"], color))
                    position += 1
        peers = [(row["milliseconds"], row["engine"]) for row in of_form if row["conversion"] == "timm"]
        if peers:
            milliseconds, engine = min(peers)
            bars.append(Bar(position, f"{form}, {engine}", milliseconds, "white", "///"))
            position += 1
        position += 0.5
    return bars


def _draw_bars(axis, bars):
    for bar in bars:
        axis.barh(bar.position, bar.milliseconds, color=bar.color, edgecolor="0.3", hatch=bar.hatch, linewidth=0.6)
        text = f"{bar.milliseconds:,.{1 if bar.milliseconds < 20 else 0}f}"
        axis.annotate(text, (bar.milliseconds, bar.position), (3, 0), textcoords="offset points", va="center_baseline")
    axis.set_yticks([bar.position for bar in bars], [bar.label for bar in bars])
    axis.set_ylim(bars[-1].position + 0.6, -0.6)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.set_xlim(0, max(bar.milliseconds for bar in bars) * 1.12)  # room for the number behind the longest bar


if __name__ == "__main__":
    RESULTS = Path(__file__).parents[1] / "results"
    stored = json.loads((RESULTS / "litert.json").read_text(encoding="utf-8"))
    (RESULTS / "litert.md").write_text(_markdown(stored), encoding="utf-8")
    draw(RESULTS / "litert.png", stored["rows"])
