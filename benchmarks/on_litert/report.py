"""The benchmark's results as a table, a picture and JSON."""

import importlib.metadata
import json
import os
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from keras_convmixer.export.runtime.benchmarking import processor
from keras_convmixer.visualization.style import STYLE, save_png

FORMS = ("float32", "dynamic int8", "static int8")
PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "litert-quantizer", "torch", "timm", "onnxruntime", "openvino")
COSTS = 8


def machine() -> dict:
    """Describe the machine and the versions of what was measured."""
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
    """Return how many times faster a row is than the plain file of its form and than the best float32 peer."""
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
    """Return the lines of a table of plain -> deployed milliseconds, a row for each model."""
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
            cells.append(f"{_milliseconds(plain)} -> **{_milliseconds(deployed)}** ({plain / deployed:.1f}x)")
        for form in FORMS[1:]:
            time = found.get(("litert_int8", form, "litert"))
            ratio = time and found["plain", form, "litert"] / time
            cells.append(f"**{_milliseconds(time)}** ({ratio:.1f}x)" if time else "-")
        for form in ("float32", "static int8"):
            peers = [(time, engine) for (kind, made, engine), time in found.items() if (kind, made) == ("timm", form)]
            cells.append(f"{_milliseconds(min(peers)[0])} {min(peers)[1]}" if peers else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _milliseconds(time):
    return f"{time:,.0f}" if time >= 100 else f"{time:.3g}"


def _number(value, form):
    return "-" if value is None else format(value, form)


def draw(path: Path, rows: list[dict]) -> None:
    """Draw time on one thread: each ConvMixer plain and deployed in each form, and its fastest peer."""
    threads = min(row["threads"] for row in rows)
    names = list(dict.fromkeys(row["model"] for row in rows if row["model"].startswith("ConvMixer")))
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.0 + 1.5 * len(names)), layout="constrained")
        axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
        for axis, name in zip(axes, names, strict=True):
            _draw_model(axis, [row for row in rows if row["model"] == name and row["threads"] == threads])
            axis.set_title(name, loc="left")
        axes[-1].set_xlabel(f"ms for one image, {threads} thread{'s' * (threads > 1)}; lower is better")
        save_png(figure, path)


def _draw_model(axis, rows):
    bars = []
    for form in FORMS:
        for conversion, colour in (("plain", "0.75"), ("deployed", "#1f4e8c"), ("litert_int8", "#5b9bd5")):
            found = [row["milliseconds"] for row in rows if (row["conversion"], row["form"]) == (conversion, form)]
            bars += [(f"{conversion}, {form}", found[0], colour, None)] if found else []
    for form in ("float32", "static int8"):
        peers = [(r["milliseconds"], r["engine"]) for r in rows if r["conversion"] == "timm" and r["form"] == form]
        if peers:
            time, engine = min(peers)
            bars.append((f"{engine}, {form}", time, "white", "///"))
    for position, (_, time, colour, hatch) in enumerate(bars):
        axis.barh(position, time, color=colour, edgecolor="0.3", hatch=hatch, linewidth=0.6)
        axis.annotate(
            f"{time:,.{1 if time < 20 else 0}f}", (time, position), (3, 0), textcoords="offset points", va="center"
        )
    axis.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0, labelsize=7)
    axis.set_xlim(0, max(bar[1] for bar in bars) * 1.12)


if __name__ == "__main__":  # the table and the picture anew from litert.json
    RESULTS = Path(__file__).parents[1] / "results"
    stored = json.loads((RESULTS / "litert.json").read_text(encoding="utf-8"))
    (RESULTS / "litert.md").write_text(_markdown(stored), encoding="utf-8")
    draw(RESULTS / "litert.png", stored["rows"])
