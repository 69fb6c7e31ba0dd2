"""Write what `make benchmark-models` measured: other_models.json, a table in other_models.md, and other_models.png.

`python -m on_litert.accuracy_and_time` in benchmarks/ writes the table and the figure again from the committed json.
"""

import json
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_convmixer.visualization.style import STYLE, save_png

from .report import FORMS, machine, milliseconds
from .reported import MODELS

OURS, OTHERS = "#1f4e8c", "0.45"
"""Colors of ConvMixer and of the others."""
LABELED_BELOW = ("mixer_b16_224", "resmlp_24_224", "ConvNeXtTiny", "deit_base_patch16_224")
"""Models whose label would stand on another one's above the point."""


def write(out: Path, models: dict[str, dict], rows: list[dict]) -> None:
    """Write the three files; `models` has each model's image size and parameters."""
    content = {"machine": machine(), "models": models, "rows": rows}
    (out / "other_models.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "other_models.md").write_text(markdown(content), encoding="utf-8")
    draw(out / "other_models.png", rows)


def fastest(rows: list[dict], name: str, plain: bool, eight_bits: bool) -> dict | None:
    """Return a model's fastest row among plain or deployed files, of float32 or of 8 bits; None where it has none."""
    found = [
        row
        for row in rows
        if row["model"] == name and (row["conversion"] == "plain") == plain and (row["form"] != "float32") == eight_bits
    ]
    return min(found, key=lambda row: row["milliseconds"], default=None)


def table(content: dict) -> list[str]:
    """Return the lines of a Markdown table: a row for each model, the fastest first by its best time."""
    rows = content["rows"]

    def best(name):
        return min(row["milliseconds"] for row in rows if row["model"] == name)

    lines = [
        "| model | million parameters | side | accuracy, % | float32, ms | 8 bits, ms |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in sorted({row["model"] for row in rows}, key=best):
        described, reported = content["models"][name], MODELS[name]
        cells = []
        for eight_bits in (False, True):
            plain = fastest(rows, name, True, eight_bits)
            deployed = fastest(rows, name, False, eight_bits)
            cell = milliseconds(plain["milliseconds"])
            if deployed:
                cell = f"{cell} -> **{milliseconds(deployed['milliseconds'])}**"
            cells.append(f"{cell} {(deployed or plain)['form'].removesuffix(' int8')}" if eight_bits else cell)
        lines.append(
            f"| {reported.label} | {described['parameters'] / 1e6:.1f} | {described['size']} "
            f"| {reported.accuracy:.1f} | {' | '.join(cells)} |"
        )
    return lines


def markdown(content: dict) -> str:
    """Return the whole page."""
    described = content["machine"]
    threads = content["rows"][0]["threads"]
    lines = [
        "# ConvMixer beside other models, on LiteRT",
        "",
        f"{described['processor']}, {described['cores']} cores, {', '.join(described['vectors'])}; batch 1, {threads} "
        f"thread{'s' * (threads > 1)}; medians of turns taken in one run. By `make benchmark-models`.",
        "",
        ", ".join(f"{package} {version}" for package, version in described["versions"].items()),
        "",
        "Accuracy is on ImageNet, of one crop, as reported; weights here are random. Plain conversion -> deployed by "
        "`kc.deploy`, of Keras's models; the others are timm's, converted by litert-torch. 8 bits: the faster of "
        "dynamic and static int8; what that costs in accuracy was not measured.",
        "",
        *table(content),
        "",
        "| model | weights whose accuracy is stated | source |",
        "|---|---|---|",
        *(f"| {one.label} | {one.weights} | {one.source} |" for one in MODELS.values()),
        "",
        "| model | conversion | form | ms | file MB | memory MB |",
        "|---|---|---|--:|--:|--:|",
    ]
    for row in content["rows"]:
        label, time = MODELS[row["model"]].label, milliseconds(row["milliseconds"])
        lines.append(
            f"| {label} | {row['conversion']} | {row['form']} | {time} | {row['megabytes']:.1f} "
            f"| {row['peak_memory']:.0f} |"
        )
    return "\n".join([*lines, ""])


def draw(path: Path, rows: list[dict]) -> None:
    """Draw accuracy over time, float32 and 8 bits; a ConvMixer's plain file is hollow and its deployed one filled."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 6.4), layout="constrained")
        for axis, eight_bits in zip(figure.subplots(2, 1, sharex=True), (False, True), strict=True):
            _draw_panel(axis, rows, eight_bits)
        save_png(figure, path)


def _draw_panel(axis: Axes, rows: list[dict], eight_bits: bool) -> None:
    threads = rows[0]["threads"]
    for name in dict.fromkeys(row["model"] for row in rows):
        reported = MODELS[name]
        color = OURS if name.startswith("ConvMixer") else OTHERS
        plain = fastest(rows, name, True, eight_bits)["milliseconds"]
        deployed = fastest(rows, name, False, eight_bits)
        last = deployed["milliseconds"] if deployed else plain
        if deployed and plain / last > 1.1:
            axis.plot(plain, reported.accuracy, "o", markerfacecolor="white", color=color, markersize=5)
            axis.annotate(
                "",
                (last, reported.accuracy),
                (plain, reported.accuracy),
                arrowprops={"arrowstyle": "->", "color": color, "linewidth": 0.8, "shrinkA": 3, "shrinkB": 3},
            )
        axis.plot(last, reported.accuracy, "o", color=color, markersize=5)
        offset, vertical = ((0, -5), "top") if name in LABELED_BELOW else ((0, 5), "bottom")
        axis.annotate(
            reported.label,
            (last, reported.accuracy),
            offset,
            textcoords="offset points",
            horizontalalignment="center",
            verticalalignment=vertical,
            color=color,
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.margins(0.1, 0.15)
    axis.set_ylabel("ImageNet top-1, %, as reported")
    axis.set_title("fastest file of 8 bits" if eight_bits else FORMS[0], loc="left")
    axis.tick_params(labelbottom=True)
    axis.set_xlabel(f"ms for one image on LiteRT, {threads} thread{'s' * (threads > 1)}: plain -> deployed")


if __name__ == "__main__":
    RESULTS = Path(__file__).parents[1] / "results"
    stored = json.loads((RESULTS / "other_models.json").read_text(encoding="utf-8"))
    (RESULTS / "other_models.md").write_text(markdown(stored), encoding="utf-8")
    draw(RESULTS / "other_models.png", stored["rows"])
