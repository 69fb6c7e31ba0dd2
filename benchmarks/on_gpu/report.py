"""The GPU benchmark's results as a table: gpu.md from gpu.json."""

import json
import sys
from pathlib import Path


def outcome(answer: dict) -> str:
    """Return one line for a result."""
    if "failed" in answer:
        return f"failed: {answer['failed']}"
    if "left_out" in answer:
        return f"left out: {answer['left_out']}"
    parts = [f"{answer['milliseconds']:.3f} ms"]
    if "tflops" in answer:
        parts.append(f"{answer['tflops']:.1f} TFLOP/s")
    if answer.get("images_per_second"):
        parts.append(f"{answer['images_per_second']:,.0f} images/s")
    if answer.get("difference") is not None:
        parts.append(f"differs by {answer['difference']:.1e}")
    return ", ".join(parts)


def multiplications(result: dict) -> int:
    """Return a model's multiplications for one image, forward: embedding, depthwise, pointwise and classifier."""
    dim, patch = result["dim"], result["patch_size"]
    positions = (result["image"] // patch) ** 2
    layer = positions * dim * (result["kernel_size"] ** 2 + dim)
    return positions * dim * 3 * patch**2 + result["depth"] * layer + dim * result["classes"]


def share_of_peak(result: dict, tflops: float | None) -> float | None:
    """Return the share of the measured matrix peak that a model's own multiplications use; training counts 3 times."""
    if not tflops:
        return None
    passes = 3 if result["direction"] == "training step" else 1
    return 2 * multiplications(result) * passes * result["images_per_second"] / (tflops * 1e12)


def markdown(content: dict) -> str:
    """Return gpu.md."""
    machine, results = content["machine"], content["results"]
    pytorch = machine.get("pytorch", {})
    versions = [
        f"{k} {v}" for k, v in (*machine.items(), *pytorch.items()) if k in ("jax", "keras", "python", "torch", "timm")
    ]
    card = ", ".join(f"{key} {value}" for key, value in machine.get("card", {}).items())
    lines = ["# Depthwise convolutions and whole ConvMixers on a GPU", ""]
    lines += [f"{machine.get('device', 'unknown')}{f' ({card})' if card else ''}; {', '.join(versions)}.", ""]
    lines += [
        f"By `python benchmarks/gpu.py`; {content['plan']['dtype']}. Medians. Difference: from form keras, over its "
        "norm, the largest of outputs and gradients. Memory: on JAX what XLA plans, on PyTorch the peak allocated. "
        "Share: of the measured matrix peak, by the model's own multiplications, three times forward for a "
        "training step. On JAX the layers of a model run in a loop (`lax.scan`).",
        "",
    ]
    peaks = [r for r in results if r["kind"] == "peak" and "tflops" in r]
    for peak in peaks:
        lines += [
            f"Matrix product {peak['size']}x{peak['size']}x{peak['size']}: {peak['tflops']:.4g} TFLOP/s; copy: "
            f"{peak['copy_gb_per_second']:,.0f} GB/s, read and written{_clocks(peak)}.",
            "",
        ]
    lines += ["## One depthwise layer", ""]
    lines += ["| model | batch | direction | form | ms | x keras | memory MB | compile s | difference | MHz |"]
    lines += ["|---|--:|---|---|--:|--:|--:|--:|--:|--:|"]
    layers = [r for r in results if r["kind"] == "layer"]
    keras = {_case(r): r["milliseconds"] for r in layers if r["form"] == "keras" and "milliseconds" in r}
    for r in layers:
        start = f"| {r['name']} | {r['batch']} | {r['direction']} | {r['form']} |"
        if "milliseconds" not in r:
            lines.append(f"{start} {_cell(outcome(r))} | | | | | |")
            continue
        faster = keras[_case(r)] / r["milliseconds"] if _case(r) in keras else None
        lines.append(
            f"{start} {r['milliseconds']:.3f} | {_number(faster, '.2f')} | {_number(r['megabytes'], ',.0f')} "
            f"| {r['compile_seconds']:.1f} | {_number(r['difference'], '.1e')} | {_number(r.get('sm_mhz'), '.0f')} |"
        )
    lines += ["", "## Whole models", ""]
    lines += ["| model | batch | direction | on | ms | images/s | memory MB | share | start s | MHz |"]
    lines += ["|---|--:|---|---|--:|--:|--:|--:|--:|--:|"]
    for r in sorted((r for r in results if r["kind"] == "model"), key=lambda r: (r["name"], r["direction"])):
        on = f"JAX, {r['form']}" if "form" in r else f"timm, PyTorch {r['mode']}, {r['memory']}"
        start = f"| {r['name']} | {r['batch']} | {r['direction']} | {on} |"
        if "milliseconds" not in r:
            lines.append(f"{start} {_cell(outcome(r))} | | | | | |")
            continue
        share = share_of_peak(r, peaks[0]["tflops"] if peaks else None)
        lines.append(
            f"{start} {r['milliseconds']:.2f} | {r['images_per_second']:,.0f} | {_number(r['megabytes'], ',.0f')} "
            f"| {_number(share, '.1%')} | {r['compile_seconds']:.1f} | {_number(r.get('sm_mhz'), '.0f')} |"
        )
    return "\n".join([*lines, ""])


def _case(result):
    return result["name"], result["batch"], result["direction"]


def _clocks(result):
    return f", at {result['sm_mhz']:.0f} MHz, {result['watts']:.0f} W" if "sm_mhz" in result else ""


def _cell(text):
    return text.replace("|", "/")


def _number(value, form):
    return "-" if value is None else format(value, form)


if __name__ == "__main__":  # the table anew: python benchmarks/on_gpu/report.py FOLDER/gpu.json
    path = Path(sys.argv[1])
    path.with_suffix(".md").write_text(markdown(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
