"""README.md of a bundle: what the model is, what each file is for, what validation measured, how to use them."""

from __future__ import annotations

from pathlib import Path

from keras_convmixer.install import install_command

from .text import markdown

NAME = "README.md"
SHOWN = 20
"""Labels that are listed; labels.txt has all."""


def write_model_card(bundle: Path, manifest: dict, class_names: tuple[str, ...]) -> None:
    """Write the card of a bundle from its manifest's content; its first lines are read by the Hugging Face hub."""
    preprocessing = manifest["artifacts"][0]["preprocessing"]
    images = manifest["artifacts"][0]["validation"]["images"]
    shown = ", ".join(map(markdown, class_names[:SHOWN]))
    labels = shown + (f" and {len(class_names) - SHOWN} more" * (len(class_names) > SHOWN))
    rows = [
        f"| {artifact['path']} | {artifact.get('scheme', 'for TF Serving')} | {artifact['size'] / 1000:,.0f} "
        f"| {artifact['validation']['agreement']:.2%} | {percent(artifact['validation']['accuracy'])} "
        f"| {artifact.get('oldest_runtime', '')} |"
        for artifact in manifest["artifacts"]
    ]
    names = list(manifest["artifacts"][0].get("signatures", ()))
    signatures = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
    rejected = [f"- {markdown(file['reason'])}" for file in manifest["rejected"]]
    text = f"""\
---
library_name: keras
pipeline_tag: image-classification
---

# {markdown(manifest["model"]["name"])}

{title(manifest)} with {manifest["model"]["parameters"]:,} parameters and {len(class_names)} labels: {labels}.
It sees {preprocessing["height"]}x{preprocessing["width"]} pixels, {preprocessing["colours"]}: a picture's centre, of
{preprocessing["crop_fraction"]:.0%} of its shorter side. {meaning(manifest, class_names)}

Each file was run on {images:,} images that it was not calibrated with and compared with the Keras model, whose accuracy
on them is {percent(manifest["reference_accuracy"])}:

| file | what it is | kB | {agreement(manifest)} | accuracy | runs from |
|---|---|--:|--:|--:|---|
{chr(10).join(rows)}

{"Not published:" if rejected else "Every file that was asked for is published."}
{chr(10).join(rejected)}
## Use

- Pictures: `convmixer predict . picture.jpg`, after {install_command("export")}.
- Apps: the .tflite files take raw pixels 0..255 and hold their labels; MediaPipe Tasks reads them as they are.
- Batches: the .tflite files take one image; for four at once, resize the input first. Another image size is refused.

      from ai_edge_litert.interpreter import Interpreter
      interpreter = Interpreter("litert/float32.tflite")
      images, probabilities = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
      interpreter.resize_tensor_input(images["index"], [4, *images["shape"][1:]])
      interpreter.allocate_tensors()
      interpreter.set_tensor(images["index"], four_images)  # of images["dtype"], pixels 0..255
      interpreter.invoke()
      interpreter.get_tensor(probabilities["index"])  # [4, labels]

- TF Serving: `docker compose up` in `serving/`; signatures {signatures}.

`manifest.json` has every file's checksum, input, output and preprocessing, and all that was measured.
"""
    (bundle / NAME).write_text(text.replace("\n\n\n", "\n\n"), encoding="utf-8")


def title(manifest: dict) -> str:
    """Name the kind of classifier in a bundle, as "A binary image classifier"."""
    kind = manifest["outputs"]["kind"]
    return {"single-label": "An image classifier", "multi-label": "A multi-label image classifier"}.get(
        kind, "A binary image classifier"
    )


def meaning(manifest: dict, class_names: tuple[str, ...]) -> str:
    """Explain the numbers that the files return, in a sentence."""
    kind, threshold = manifest["outputs"]["kind"], manifest["outputs"]["threshold"]
    if kind == "single-label":
        return "It returns a probability for each label; they sum to 1."
    if kind == "multi-label":
        return f"It returns a probability for each label by itself; a label is given at {threshold:g} or more."
    other = f", else {markdown(class_names[0])}" if len(class_names) == 2 else ""
    return (
        f"It returns one number, the probability of {markdown(class_names[-1])}, which is given at {threshold:g} or "
        f"more{other}."
    )


def agreement(manifest: dict) -> str:
    """Return the heading of the column of agreement with the Keras model."""
    return (
        "the Keras model's class"
        if manifest["outputs"]["kind"] == "single-label"
        else "exactly the Keras model's labels"
    )


def percent(share: float | None) -> str:
    """Return a share, 0..1, as text."""
    return "not known" if share is None else f"{share:.2%}"
