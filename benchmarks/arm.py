"""Count the instructions of an inference on emulated arm64 processors: LiteRT, plain and deployed, and ONNX Runtime.

`make arm` once, then `python benchmarks/arm.py`. Prints a table and writes benchmarks/results/arm.json.

Counts do not depend on how busy the machine is, and repeat to a few instructions in a million. They are not time:
caches and pipelines do not show in them. They compare forms of the same work. One image, one thread.
"""

import dataclasses
import importlib.metadata
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from on_arm.emulator import PROCESSORS, SET_UP, can_run, count_instructions, qemu_version

HERE = Path(__file__).parent
DEPTHS = {"ConvMixer1024_20": 4, "ConvMixer768_32": 4, "ConvMixer256_8": 8}
"""Models and their number of layers here: layers of one model are alike, and emulation is slow."""
FORMATS = ("float32", "float16", "dynamic", "int8", "int16x8", "weight_int8", "weight_int4")
IN_8_BITS = ("dynamic", "int8")
"""Those that compute in 8 bits, for which models are deployed for "litert_int8" too."""
PEERS = {"float32": "timm.onnx", "int8": "timm_int8.onnx"}
"""Format -> the file for ONNX Runtime that artifacts.py writes."""
PACKAGES = ("ai-edge-litert", "litert-quantizer", "tensorflow", "keras", "onnxruntime", "torch", "timm")
CONVERSIONS = ("plain", "litert", "litert_int8", "timm")
ENGINES = {"timm": "onnxruntime"}
"""Conversion -> engine; LiteRT runs the others."""


@dataclass
class Row:
    """One file on one processor."""

    processor: str
    model: str
    conversion: str
    """"plain", or what it was deployed for: "litert", "litert_int8"; "timm" of ONNX Runtime's."""
    format: str
    megabytes: float
    """Size of the file, in millions of bytes."""
    instructions: int = 0
    """For one inference."""
    largest_difference: float = 0.0
    """Of a logit on that processor from the one that the same file and engine give here, as a share of their range."""


def build_model(name: str):
    """Return a variant of the paper with DEPTHS's number of layers, as a `Subject` and a model with seeded weights."""
    from on_litert import models

    import keras_convmixer as kc

    variant = dataclasses.replace(kc.VARIANTS[name], depth=DEPTHS[name])

    def build():
        return kc.ConvMixer(
            variant.dim,
            variant.depth,
            variant.kernel_size,
            variant.patch_size,
            activation=variant.activation,
            input_shape=(variant.image_size, variant.image_size, 3),
            classes=variant.classes,
            include_preprocessing=True,
            classifier_activation=None,
        )

    subject = models.Subject(build, variant.image_size, variant)
    return subject, models.build(subject)


def write_files(name: str, formats: tuple[str, ...], folder: Path) -> dict[tuple[str, str], Path]:
    """Write a model's files, unless they lie in the folder already; return {(conversion, format): path}.

    An image to run them on lies beside them, uint8 `[1, height, width, 3]`.

    ONNX Runtime's are missing where PyTorch, timm or ONNX Runtime is not installed.
    """
    files = {("plain", format): folder / f"plain.{format}.tflite" for format in formats}
    files |= {("litert", format): folder / f"litert.{format}.tflite" for format in formats}
    files |= {
        ("litert_int8", format): folder / f"litert_int8.{format}.tflite" for format in formats if format in IN_8_BITS
    }
    files |= {("timm", format): folder / file for format, file in PEERS.items() if format in formats}
    if not all(path.exists() for path in (*files.values(), folder / "image.npy")):
        _convert(name, files, folder)
    return {key: path for key, path in files.items() if path.exists()}


def _convert(name, files, folder):
    from on_litert import artifacts, models

    import keras_convmixer as kc
    from keras_convmixer.export.formats import FORMATS as MADE
    from keras_convmixer.export.tflite.conversion import Conversion

    folder.mkdir(parents=True, exist_ok=True)
    subject, model = build_model(name)
    calibration = models.photographs(models.CALIBRATION, subject.size, seed=0)
    for conversion in ("plain", "litert", "litert_int8"):
        deployed = model if conversion == "plain" else kc.deploy(model, conversion)
        with Conversion(deployed) as converted:
            for (of, format), path in files.items():
                if of == conversion:
                    path.write_bytes(MADE[format].convert(converted, calibration))
    artifacts.write_peers(model, subject, folder)
    np.save(folder / "image.npy", models.photographs(1, subject.size, seed=1))


def count(row: Row, path: Path, images: np.ndarray) -> None:
    """Fill in a row."""
    from engines import run_engine

    engine = ENGINES.get(row.conversion, "litert")
    row.instructions, logits = count_instructions(row.processor, engine, path, images)
    expected = run_engine.ENGINES[engine](str(path), 1)[2](images.astype("float32"))
    row.largest_difference = float(np.abs(logits - expected).max() / np.ptp(expected))


def ratios(row: Row, rows: list[Row]) -> tuple[float | None, float | None]:
    """Return a row's instructions as shares of two others': of the plain file's, and of ONNX Runtime's.

    Both are of the same model and processor. The plain file is of the same format. ONNX Runtime's is float32 for
    formats that compute in float32, and static int8 for those that compute in 8 bits. None where there is no such file.
    """
    beside = [other for other in rows if (other.processor, other.model) == (row.processor, row.model)]
    of_peer = "int8" if row.format in IN_8_BITS else "float32"
    plain = [other.instructions for other in beside if (other.conversion, other.format) == ("plain", row.format)]
    peer = [other.instructions for other in beside if (other.conversion, other.format) == ("timm", of_peer)]
    if row.conversion == "timm":
        return None, None
    return (row.instructions / plain[0] if plain else None, row.instructions / peer[0] if peer else None)


def table(rows: list[Row]) -> list[tuple[str, ...]]:
    """Return a table's rows of text: what the file is, millions of instructions, both ratios, megabytes, difference."""
    return [
        (
            row.processor,
            row.model,
            row.conversion,
            row.format,
            f"{row.instructions / 1e6:,.1f}",
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios(row, rows)),
            f"{row.megabytes:.1f}",
            f"{row.largest_difference:.1e}",
        )
        for row in rows
    ]


COLUMNS = ("processor", "model", "conversion", "format", "million instructions", "of plain", "of ONNX Runtime")
COLUMNS += ("file MB", "from x86")


def main(
    models: tuple[str, ...] = tuple(DEPTHS),
    formats: tuple[str, ...] = FORMATS,
    processors: tuple[str, ...] = tuple(PROCESSORS),
    files: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = HERE.parent / "build/arm_files",
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = HERE / "results/arm.json",
) -> None:
    """Count an inference's instructions on emulated arm64 processors: an hour or two for all.

    Args:
        models: which models, of 4 layers, ConvMixer256_8 of its 8.
        formats: which formats of .tflite files.
        processors: which processors.
        files: folder for the models' files, which are written if some are missing; empty it after a change of the code.
        out: JSON file. Counts that it has of the same versions stay, so that several runs make one table.
    """
    from keras_convmixer.environment.console import print_table, progress_bar, silence_native_logs

    if not can_run():
        sys.exit(SET_UP)
    silence_native_logs()
    with progress_bar() as progress:
        for name in models:
            task = progress.add_task(f"{name}: writing files", total=None, detail="")
            found = write_files(name, formats, files / name)
            images = np.load(files / name / "image.npy")
            progress.update(task, description=name, total=len(found) * len(processors), completed=0)
            for processor in processors:
                for (conversion, format), path in found.items():
                    row = Row(processor, name, conversion, format, path.stat().st_size / 1e6)
                    count(row, path, images)
                    write(out, row)
                    progress.update(task, advance=1, detail=f"{processor}, {conversion}, {format}")
            progress.remove_task(task)
    print_table("Instructions of one inference", COLUMNS, table(read(out)))


def read(out: Path) -> list[Row]:
    """Return the rows of a JSON file that were counted in the versions at hand."""
    content = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    return [Row(**row) for row in content["rows"]] if content.get("versions") == versions() else []


def write(out: Path, row: Row) -> None:
    """Write a row to the JSON file, in place of an older one of the same file and processor.

    Sentences under its "notes" are written by hand, and stay.
    """

    def key(row):
        names = (list(PROCESSORS), list(DEPTHS), list(CONVERSIONS), list(FORMATS))
        of_row = (row.processor, row.model, row.conversion, row.format)
        return [known.index(name) for known, name in zip(names, of_row, strict=True)]

    rows = sorted([*(other for other in read(out) if key(other) != key(row)), row], key=key)
    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    content = {
        "notes": before.get("notes", []),
        "command": "python benchmarks/arm.py",
        "versions": versions(),
        "processors": {name: asdict(processor) for name, processor in PROCESSORS.items()},
        "layers": DEPTHS,
        "rows": [asdict(row) for row in rows],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Return the versions of QEMU and of the packages that write and run the files."""
    return {"qemu": qemu_version(), **{name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)}}


def _installed(package):
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.FlagCreatePairsOff,))
