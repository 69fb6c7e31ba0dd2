"""What the commands print when they are done, one table each, on stdout."""

from pathlib import Path

from rich.filesize import decimal

from keras_convmixer.environment.console import duration, print_facts, print_line, print_table
from keras_convmixer.files.printable import first_of
from keras_convmixer.model.variants import Variant


def print_variants(variants: dict[str, Variant]) -> None:
    """Print the paper's variants with what they cost and how well they were reported to do, and where."""
    sources = list(dict.fromkeys(variant.source for variant in variants.values()))
    marks = dict(zip(sources, "abcdefgh", strict=False))
    rows = [
        (
            name,
            *(str(variant.kernel_size), str(variant.patch_size), variant.activation),
            *(f"{variant.parameters / 1e6:.2f}", f"{variant.gmacs:.2f}"),
            f"{variant.top1:.2f} {marks[variant.source]}",
            "yes" if variant.weights else "-",
        )
        for name, variant in variants.items()
    ]
    title = "ConvMixer{dim}_{depth}: kernel size k, patch size p, millions of parameters"
    print_table(title, ("function", "k", "p", "act", "params", "GMACs", "top-1 %", "hub"), rows)
    for source, mark in marks.items():
        (dataset,) = {variant.dataset for variant in variants.values() if variant.source == source}
        print_line(f"{mark}  {dataset}, {source}")
    print_line("hub: weights='imagenet' fetches its published weights from the Hugging Face hub")


def print_conversion(source: str, out: Path, facts: dict) -> None:
    """Print what became of a file of weights; `facts` are those of `weights.conversion.summary`."""
    shown = {
        "written": f"{out}, {decimal(out.stat().st_size)}",
        "activation": facts["activation"],
        "images": " x ".join(map(str, facts["images"])),
        "takes": "pixels 0..255" if facts["takes_pixels"] else "what preprocess_input returns",
        "outputs": " x ".join(map(str, facts["outputs"])),
        "parameters": f"{facts['parameters']:,}",
    }
    if out.suffix != ".keras":  # weights alone
        del shown["takes"]
    print_facts(f"Converted {source}", shown)


def print_recipes(recipes: dict, descriptions: dict[str, str]) -> None:
    """Print the recipes with their sizes and the accuracy that their descriptions expect."""
    rows = []
    for name, recipe in recipes.items():
        (accuracy,) = (line for line in descriptions[name].splitlines() if line.startswith("- Accuracy: "))
        model = recipe.model
        size = f"{model.dim}/{model.depth} k{model.kernel_size} p{model.patch_size}"
        expected = accuracy.removeprefix("- Accuracy: ").split(" of ")[0].split(" reported")[0]
        epochs = str(recipe.optimization.epochs)
        rows.append((name, recipe.data.dataset, size, str(model.image_size), epochs, expected))
    columns = ("recipe", "data", "model", "px", "epochs", "accuracy")
    print_table("Recipes; model: dim/depth, kernel size k, patch size p; px: side of the images", columns, rows)
    print_line("accuracy: expected on test images; see convmixer train RECIPE --help")


def print_plan(recipe, device: str, gpus: int, hosts: int, plan) -> None:
    """Print what `plan` estimated."""
    step = sum(plan.step_seconds.values())
    parts = ", ".join(f"{kind} {seconds / step:.0%}" for kind, seconds in plan.step_seconds.items())
    fits = "not known" if plan.fitting_share is None else f"at most {max(plan.fitting_share, 0):,} images at once"
    at_once = plan.share // recipe.optimization.gradient_accumulation_steps
    if plan.fitting_share is not None and plan.fitting_share < at_once:
        remedy = "raise --gradient-accumulation-steps"
        if plan.fitting_share <= 0:
            remedy = "the model alone is larger than the device"
        fits += f", and {at_once:,} are needed: {remedy}"
    power = "not known"
    if plan.kilowatt_hours is not None:
        power = f"{plan.kilowatt_hours:,.{0 if plan.kilowatt_hours >= 10 else 2}f} kWh, hosts included"
    print_facts(
        f"{recipe.name} on {hosts} x {gpus} {device}",
        {
            "parameters": f"{plan.work.parameters:,}",
            "forward pass": f"{plan.work.forward_operations / 1e9:,.2f} GFLOPs per image",
            "one step": f"{step * 1000:,.0f} ms for {plan.replicas * plan.share:,} images, {plan.share:,} per replica",
            "its parts": parts,
            "speed": f"{plan.images_per_second:,.{0 if plan.images_per_second >= 10 else 2}f} images/s",
            "memory per replica": ", ".join(f"{decimal(int(size))} {what}" for what, size in plan.memory.items()),
            "fits in memory": fits,
            "training": f"{plan.steps:,} steps, {duration(plan.hours * 3600)}",
            "energy": power,
        },
    )


def print_training(run: Path, summary: dict) -> None:
    """Print what `train` returned."""
    parts = summary["step_seconds"]  # None on accelerators, where several steps are one call
    step = (
        {"one step": f"{sum(parts.values()):.3g} s, {summary['input_share']:.1%} waiting for images"} if parts else {}
    )
    memory = ", ".join(f"{decimal(size)} {device}" for device, size in summary["peak_memory_bytes"].items())
    print_facts(
        f"Trained {run}",
        {
            "test accuracy": f"{summary['test_accuracy']:.2%} of {summary['test_images']:,} images",
            "parameters": f"{summary['parameters']:,}",
            "training": f"{duration(summary['seconds'])}, {summary['images_per_second']:,.0f} images/s",
            **step,
            "evaluation": duration(summary["evaluation_seconds"]),
            "peak memory": memory,
            "energy": f"{summary['kilowatt_hours']:.2g} kWh, "
            + ("by the processor's counter" if summary["energy_measured"] else "estimated from the processor's load"),
            "CO2": f"{summary['kilograms_co2']:.2g} kg, by the electricity mix of {summary['co2_of']}",
            "model": run / "model.keras",
            "best": f"best.keras, of epoch {summary['best_epoch'] + 1} of {summary['epochs']}: "
            f"{summary['best_validation_accuracy']:.2%} of the validation images",
            "figures": ", ".join(f"{name}.png" for name in ("curves", "confusion", "predictions")),
        },
    )


def print_evaluation(title: str, accuracy: float, loss: float, classes: list[dict], figures: Path | None) -> None:
    """Print accuracy and loss, and precision and recall of the classes that there are images of."""
    facts = {"accuracy": f"{accuracy:.2%}", "cross-entropy": f"{loss:.4f} nats"}
    print_facts(title, {**facts, **({"figures": figures} if figures else {})})
    rows = [
        (c["label"], f"{c['precision']:.1%}", f"{c['recall']:.1%}", f"{c['images']:,}") for c in classes if c["images"]
    ]
    print_table(None, ("label", "precision", "recall", "images"), rows)


def print_bundle(out: Path, manifest: dict) -> None:
    """Print each file of a bundle with what validation measured."""
    digits = 0 if any(artifact["size"] >= 1e7 for artifact in manifest["artifacts"]) else 1
    rows = [
        (
            artifact["path"],
            f"{artifact['size'] / 1000:,.{digits}f}",
            artifact["input"]["dtype"],
            f"{artifact['validation']['agreement']:.2%}",
            f"{artifact['validation']['max_difference']:.1e}",
            f"{artifact['validation']['accuracy']:.2%}",
        )
        for artifact in manifest["artifacts"]
    ]
    print_table(
        f"Exported {out}: each file run on {manifest['artifacts'][0]['validation']['images']:,} held-out images "
        f"(Keras accuracy {manifest['reference_accuracy']:.2%})",
        ("file", "kB", "input", "agrees", "largest error", "accuracy"),
        rows,
    )
    worst = manifest["layer_errors"]
    if worst and worst["layers"]:
        from keras_convmixer.export.tflite.layer_errors import largest_rise

        layer, before, after = largest_rise(worst["layers"])
        print_line(
            f"{worst['format']} agrees least; its error grows most in layer {layer}, from {before:.2%} to {after:.2%} "
            "of the layer's output"
        )


def print_compression(out: Path, steps: int, images: int, rows: dict[str, tuple]) -> None:
    """Print accuracy, bytes with int8 weights, bytes of that under gzip, and share of zeros, of models by name."""
    print_table(
        f"Compressed {out} in {steps:,} steps: {images:,} test images, kB of a .tflite file of int8 weights",
        ("model", "accuracy", "zeros", "kB", "under gzip"),
        [
            (name, f"{accuracy:.2%}", f"{zeros:.1%}", f"{size / 1000:,.1f}", f"{zipped / 1000:,.1f}")
            for name, (accuracy, size, zipped, zeros) in rows.items()
        ],
    )
    print_line("It gains nothing in speed: LiteRT computes with zeros and shared values as with any other.")


def print_files(bundle: Path, found: dict, accelerated: dict) -> None:
    """Print what each .tflite file of a bundle holds, by its path, and how many of its operators each engine takes.

    `accelerated` is each file's entry of that name in the manifest, or None.
    """
    rows = [
        (
            Path(path).stem,
            f"{file.size / 1000:,.1f}",
            f"{file.inputs[0]['dtype']} {'x'.join(map(str, file.inputs[0]['shape'][1:]))}",
            file.outputs[0]["dtype"],
        )
        for path, file in found.items()
    ]
    print_table(str(bundle), ("file", "kB", "input", "output"), rows)

    def taken(path, name, support):
        measured = (accelerated[path] or {}).get("nodes") if name == "GPU" else None
        return str(sum(support.taken.values()) if measured is None else measured)

    engines = next((file.engines for file in found.values()), {})
    rows = [
        (
            Path(path).stem,
            str(sum(file.operators.values())),
            *(taken(path, name, support) for name, support in file.engines.items()),
        )
        for path, file in found.items()
    ]
    print_table("Operators, and how many of them each engine takes", ("file", "operators", *engines), rows)
    known = {name: _known_by(support) for name, support in engines.items()}
    run = {entry["engine"] for entry in accelerated.values() if entry and entry["nodes"] is not None}
    if run:
        known["GPU"] = f"run when the bundle was exported: {', '.join(sorted(run))}"
    print_facts("How that is known", known)
    print_line(f"of one file: convmixer inspect {next(iter(found), bundle)}")


def _known_by(support) -> str:
    words = {
        "run": "run on this machine",
        "compared list": "its list, which tests compare with the engine",
        "list": "its maker's list alone; the engine was not run",
    }
    return f"{words[support.known_by]}: {support.source}"


def _left_to_the_cpu(support) -> str:
    """Return the operators that an engine refuses, those of a reason together, as "GELU, SOFTMAX: on INT8"."""
    reasons = {}
    for name, reason in support.refused.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def print_inspection(file: Path, found) -> None:
    """Print what a .tflite file holds."""

    def shown(tensor):
        quantization = tensor["quantization"]
        if quantization is None:
            return f"{tensor['dtype']} {tensor['shape']}"
        scale, zero_point = quantization["scale"], quantization["zero_point"]
        return f"{tensor['dtype']} {tensor['shape']}, scale {scale:.6g}, zero point {zero_point}"

    labels = first_of(found.labels, 5)
    multiplied = ", ".join(f"{count / 1e6:,.2f} {name}" for name, count in found.multiplications.items())
    facts = {
        "size": f"{found.size / 1000:,.1f} kB",
        "input": "; ".join(map(shown, found.inputs)),
        "output": "; ".join(map(shown, found.outputs)),
        "labels": labels or "none in its metadata",
        "constants": ", ".join(f"{size / 1000:,.1f} kB {dtype}" for dtype, size in found.weights.items()),
        "multiplications": f"{sum(found.multiplications.values()) / 1e6:,.2f} million an image: {multiplied}",
    }
    print_facts(str(file), facts)
    rows = [
        (
            name,
            str(count),
            *(str(support.taken.get(name, 0)) for support in found.engines.values()),
        )
        for name, count in found.operators.items()
    ]
    print_table("Operators, and how many of them each engine takes", ("operator", "count", *found.engines), rows)
    refused = {name: _left_to_the_cpu(support) for name, support in found.engines.items() if support.refused}
    if refused:
        print_facts("What they leave to LiteRT's own kernels, and why", refused)
    print_facts("How that is known", {name: _known_by(support) for name, support in found.engines.items()})


def print_benchmark(bundle: Path, timings: list, figure: Path | None) -> None:
    """Print what each file of a bundle took."""
    rows = [
        (
            timing.name,
            str(timing.threads),
            f"{timing.median:,.2f}",
            f"{timing.p90:,.2f}",
            f"{timing.cold_start:,.1f}",
            f"{timing.peak_memory / 1e6:,.1f}",
            f"{timing.size / 1000:,.1f}",
        )
        for timing in timings
    ]
    columns = ("file", "threads", "median ms", "90 % under ms", "start ms", "memory MB", "kB")
    print_table(f"{bundle}: one image at a time", columns, rows)
    if figure:
        print_line(str(figure))


def print_quickstart(run: Path, seconds: float, manifest: dict, right: int, images: int) -> None:
    """Print the summary of a quickstart: accuracy, each file's size and agreement, digits predicted right."""
    print_facts(
        f"Done in {duration(seconds)}",
        {
            "test accuracy": f"{manifest['reference_accuracy']:.2%}",
            **{
                artifact["path"]: f"{artifact['size'] / 1000:,.1f} kB, "
                f"{artifact['validation']['agreement']:.2%} agreement with Keras"
                for artifact in manifest["artifacts"]
            },
            "predict": f"{right} of {images} held-out digits right",
            "report": f"{run}/bundle/report.html",
            "figures": f"{run}/predictions.png and others",
        },
    )


def print_predictions(answers: list[tuple[Path, tuple]]) -> None:
    """Print each image's labels; `answers` are images with what a `Classifier` returned.

    For multi-label and binary models a column says which labels reach the threshold.
    """
    present = {True: "yes", False: "no", None: ""}
    rows = []
    for path, best in answers:
        for rank, prediction in enumerate(best):
            row = ("" if rank else str(path), prediction.label, f"{prediction.probability:.1%}")
            rows.append((*row, present[prediction.present]))
    columns = ("image", "label", "probability", "present")
    if all(prediction.present is None for _, best in answers for prediction in best):
        columns, rows = columns[:3], [row[:3] for row in rows]
    print_table(None, columns, rows)
