"""README.md of a bundle, its model card: files, preprocessing, and code that classifies with them."""

from __future__ import annotations

from pathlib import Path

from keras_convmixer.environment.install import install_command

from .templates import fill_template
from .text import escape_markdown

NAME = "README.md"
SHOWN = 20
"""Labels that are listed; labels.txt has all."""
PURPOSES = {
    "saved_model": "servers: TF Serving, or TensorFlow in Python",
    "float32": "comparison with the other files; CPUs and GPUs",
    "float16": "GPUs; weights take half of float32's bytes; CPUs compute it in float32, not faster than float32.tflite",
    "dynamic": "CPUs of phones, computers and browsers, with float pixels; needed no calibration",
    "int8": "CPUs of phones, computers and browsers, and accelerators that compute in integers only",
    "qat_int8": "as int8, with the accuracy that training for it kept",
    "int16x8": "accelerators with int16 activations; slow on CPUs, as XNNPACK has no kernels for it",
    "weight_int8": "downloads: weights take a quarter of float32's bytes; computes in float32",
    "weight_int4": "the smallest downloads; computes in float32",
}
"""What an artifact is used for, by its name in the manifest."""
FOR_GPUS = "; deployed for GPUs (litert_gpu)"
PREFERRED_ON_PHONES = ("dynamic", "float32", "float16")
"""Files with float32 input, which the code for Android and iOS takes; the first that is there."""


def write_model_card(bundle: Path, manifest: dict, class_names: tuple[str, ...]) -> None:
    """Write a bundle's README.md from its manifest's content.

    Its first lines, in YAML, are read by the Hugging Face hub. Its Python code runs in the bundle's folder.

    Args:
        bundle: the bundle's folder.
        manifest: the content of manifest.json.
        class_names: all labels, in the order of the outputs.

    Raises:
        OSError: the disk is full.
    """
    artifacts = manifest["artifacts"]
    preprocessing = artifacts[0]["preprocessing"]
    crop_fraction = preprocessing["crop_fraction"]
    names = [artifact["name"] for artifact in artifacts if artifact["format"] == "litert"]
    paths = {artifact["name"]: artifact["path"] for artifact in artifacts}
    # The Python code takes float32, as `convmixer predict` does; the apps' code takes a small file with float input.
    shown_format = "float32" if "float32" in names else next(iter(names), None)
    phone_format = next((name for name in PREFERRED_ON_PHONES if name in names), shown_format)
    values = {
        "title": title(manifest),
        "meaning": meaning(manifest, class_names),
        "class_names": class_names,
        "shown": SHOWN,
        "artifacts": [_described(artifact) for artifact in artifacts],
        "choice": _choice(paths, shown_format, phone_format),
        "agreement_on": agreement_on(manifest),
        "on_gpus": on_gpus(manifest),
        "validation_images": artifacts[0]["validation"]["images"],
        **{side: preprocessing[side] for side in ("height", "width", "channels")},
        "crop_fraction": crop_fraction,
        # As Preprocessing computes them.
        "resized_height": int(preprocessing["height"] / crop_fraction),
        "resized_width": int(preprocessing["width"] / crop_fraction),
        "install": install_command("predict"),
        "format_name": shown_format,
        "has_int8": "int8" in names,
        "int8_file": paths.get("int8"),
        "has_gelu": any("GELU" in artifact["ops"] for artifact in artifacts),
        "file_name": paths.get(shown_format),
        "phone_name": phone_format,
        "phone_file": paths.get(phone_format),
        "phone_dtype": next((a["input"]["dtype"] for a in artifacts if a["name"] == phone_format), None),
        "signatures": list(artifacts[0].get("signatures", ())),
        "license": manifest["model"].get("license"),
        "training_data": manifest["model"].get("training_data"),
    }
    card = fill_template("model_card.md.jinja", **(manifest | values))
    (bundle / NAME).write_text(card, encoding="utf-8")


def _choice(paths, shown_format, phone_format):
    """Return the sentence for readers who do not know which file to take."""
    server = f"TF Serving takes `{paths['saved_model']}`"
    if shown_format is None:
        return f"{server}."
    if phone_format == shown_format:
        return f"If you are unsure, take `{paths[shown_format]}`; {server}."
    return f"If you are unsure, take `{paths[phone_format]}` in an app and `{paths[shown_format]}` elsewhere; {server}."


def _described(artifact):
    """Return an artifact with what the card's tables say about it."""
    purpose = PURPOSES[artifact["name"]]
    quantization = artifact["quantization"] or {}
    return {
        **artifact,
        "input": _tensor(artifact["input"], quantization.get("input")),
        "output": _tensor(artifact["output"], quantization.get("output")),
        "oldest_runtime": artifact.get("oldest_runtime", ""),
        "scheme": artifact.get("scheme", "SavedModel, float32"),
        "purpose": purpose + FOR_GPUS * (artifact.get("target") == "litert_gpu"),
    }


def _tensor(tensor, quantization):
    """Return a tensor in words, as "`uint8 [1, 3]`: 0..1 is 0.00390625 x value"."""
    shape = ", ".join("any" if length is None else str(length) for length in tensor["shape"])
    low, high = tensor["range"]
    words = f"`{tensor['dtype']} [{shape}]`: {low:g}..{high:g}"
    # With scale 1 and zero point 0, as of an int8 file's input, values are what they stand for.
    if not quantization or (quantization["scale"], quantization["zero_point"]) == (1, 0):
        return words
    value = f"(value - {quantization['zero_point']})" if quantization["zero_point"] else "value"
    return f"{words} is {quantization['scale']:g} x {value}"


def title(manifest: dict) -> str:
    """Return the kind of classifier in a bundle, as "A binary image classifier"."""
    kind = manifest["outputs"]["kind"]
    return {"single-label": "An image classifier", "multi-label": "A multi-label image classifier"}.get(
        kind, "A binary image classifier"
    )


def meaning(manifest: dict, class_names: tuple[str, ...]) -> str:
    """Return a sentence, in Markdown, that explains the numbers that the files return."""
    kind, threshold = manifest["outputs"]["kind"], manifest["outputs"]["threshold"]
    if kind == "single-label":
        return "It returns a probability for each label; they sum to 1."
    if kind == "multi-label":
        return f"It returns a probability for each label by itself; a label is given at {threshold:g} or more."
    positive, other = escape_markdown(class_names[-1]), ""
    if len(class_names) == 2:
        other = f", else {escape_markdown(class_names[0])}"
    return f"It returns one number, the probability of {positive}, which is given at {threshold:g} or more{other}."


def on_gpus(manifest: dict) -> str:
    """Return sentences on how many operators of each .tflite file LiteRT's GPU engine takes; "" without such files."""
    measured = {a["name"]: a["accelerated"] for a in manifest["artifacts"] if "accelerated" in a}
    if not measured:
        return ""
    engine = next(iter(measured.values()))["engine"]
    wholly, partly, unknown = [], [], {}  # unknown: names by reason
    for name, found in measured.items():
        if found["reason"] is not None:
            unknown.setdefault(found["reason"], []).append(name)
        elif found["nodes"] == found["of"]:
            wholly.append(name)
        else:
            partly.append(f"{found['nodes']} of {found['of']} operators of {name}")
    sentences = []
    if wholly or partly:
        taken = [f"all operators of {', '.join(wholly)}"] if wholly else []
        sentences.append(f"LiteRT's GPU engine ({engine}) takes {'; '.join([*taken, *partly])}.")
    if unknown:
        listed = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in unknown.items())
        sentences.append(f"Whether LiteRT's GPU engine ({engine}) takes them was not measured: {listed}.")
    return " ".join(sentences)


def agreement_on(manifest: dict) -> str:
    """Return what a file and the Keras model agree on, as "the class that"."""
    return "the class that" if manifest["outputs"]["kind"] == "single-label" else "exactly the labels that"
