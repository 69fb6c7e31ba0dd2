"""Time ConvMixer on LiteRT beside the models that its paper compares with, and draw accuracy over time.

`make benchmark-models`, or `python benchmarks/other_models.py --help`. Writes benchmarks/results/: other_models.json,
other_models.md and other_models.png. Batch 1; every file in a process of its own, all of all models taking turns;
medians. Weights are random ones, as time does not depend on them; accuracies are as reported.
"""

import json
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from on_litert.turns import Candidate, Row, take_turns

HERE = Path(__file__).parent
OF_TIMM = (
    "resnet50",
    "resnet152",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "vit_base_patch16_224",
    "mixer_b16_224",
    "resmlp_24_224",
    "mobilenetv4_conv_medium",
)
OF_KERAS = ("ConvMixer1024_20", "ConvMixer768_32", "ConvMixer1536_20", "ConvNeXtTiny")
FORMS = ("float32", "dynamic int8", "static int8")
MOST_DIFFERENT = 1e-3
"""A file whose logits differ by more from PyTorch's, as a share of their range, computes something else."""


def write_files_of_timm(folder: Path, python: Path, progress) -> dict[str, dict]:
    """Write timm's models, those that are missing in `folder`; return {model: {"size": ..., "parameters": ...}}."""
    list_of_files = folder / "timm.json"
    written = json.loads(list_of_files.read_text()) if list_of_files.exists() else {}
    missing = [name for name in OF_TIMM if name not in written]
    if not missing:
        return written
    task = progress.add_task("converting timm's models", total=len(missing), detail="")
    command = [python, HERE / "engines/timm_litert_files.py", folder, *missing]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            for line in process.stdout:
                described = json.loads(line)
                if described["difference"] > MOST_DIFFERENT:
                    raise RuntimeError(f"{described['name']}'s file differs from PyTorch by {described['difference']}")
                written[described.pop("name")] = described
                list_of_files.write_text(json.dumps(written, indent=1))
                progress.advance(task)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"litert-torch failed: {errors.read().strip().splitlines()[-1]}")
    progress.remove_task(task)
    return written


def write_files_of_keras(folder: Path, progress) -> dict[str, dict]:
    """Write ConvMixers and ConvNeXt, plain and deployed, those that are missing; return as `write_files_of_timm`."""
    from on_litert import artifacts, models

    list_of_files = folder / "keras.json"
    written = json.loads(list_of_files.read_text()) if list_of_files.exists() else {}
    missing = [name for name in OF_KERAS if name not in written]
    task = progress.add_task("converting Keras's models", total=len(missing), detail="")
    for name in missing:
        subject = models.SUBJECTS[name]
        model = models.build(subject)
        (folder / name).mkdir(exist_ok=True)
        artifacts.write_litert(model, subject, folder / name)
        written[name] = {"size": subject.size, "parameters": model.count_params()}
        list_of_files.write_text(json.dumps(written, indent=1))
        progress.advance(task)
    progress.remove_task(task)
    return written


def candidates_in(folder: Path, threads: int) -> list[Candidate]:
    """Start a process for each file in `folder` of the two functions above."""
    candidates = []

    def start(name, conversion, form, path):
        candidates.append(Candidate(Row(name, "litert", conversion, form, threads), path, folder / "images.npy"))

    for name in OF_KERAS:
        for conversion in ("plain", "deployed", "litert_int8"):
            for form in FORMS:
                path = folder / name / f"{conversion}_{form.replace(' ', '_')}.tflite"
                if path.exists():
                    start(name, conversion, form, path)
    for name in OF_TIMM:
        for form in FORMS:
            suffix = "" if form == "float32" else f"_{form.replace(' ', '_')}"
            start(name, "plain", form, folder / f"{name}{suffix}.tflite")
    return candidates


def main(
    litert_torch: Annotated[Path, tyro.conf.arg(metavar="PYTHON")] = Path(".venv-litert-torch/bin/python"),
    files: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("build/other_models"),
    threads: int = 1,
    seconds: float = 120.0,
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = HERE / "results",
) -> None:
    """Time ConvMixer beside the models that its paper compares with, on LiteRT: about half an hour.

    Args:
        litert_torch: Python of an environment with litert-torch and timm, which writes timm's models.
        files: folder of the files that are timed, 5 GB, which are kept for the next time.
        threads: threads of each engine.
        seconds: time for the turns; there are at least 5.
        out: folder to write to.
    """
    from on_litert import accuracy_and_time

    from keras_convmixer.environment.console import progress_bar, silence_native_logs

    silence_native_logs()
    files.mkdir(parents=True, exist_ok=True)
    np.save(files / "images.npy", np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8))
    with progress_bar() as progress:
        models = write_files_of_timm(files, litert_torch, progress) | write_files_of_keras(files, progress)
        candidates = candidates_in(files, threads)
        try:
            take_turns(candidates, seconds, progress)
        finally:
            for candidate in candidates:
                candidate.close()
    accuracy_and_time.write(out, models, [asdict(candidate.row) for candidate in candidates])
    print((out / "other_models.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.FlagCreatePairsOff,))
