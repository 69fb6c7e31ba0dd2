"""Time ConvMixer on LiteRT, plain against deployed, beside ResNets and the peers that are installed.

`make benchmark`, or `python benchmarks/litert.py --help`. Writes benchmarks/results/: litert.md, litert.png and
litert.json, with the machine's description. Batch 1; every candidate of a model in a process of its own, all taking
turns; medians.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from on_litert.turns import Candidate, Row, compare, take_turns

HERE = Path(__file__).parent
MODELS = ("ConvMixer1024_20", "ConvMixer768_32", "ConvMixer1536_20", "ConvMixer256_8", "ResNet50", "ResNet152")


def benchmark(
    name: str, threads: tuple[int, ...], seconds: float, with_peers: bool, progress
) -> tuple[list[Row], list]:
    """Measure one model; return its rows, and what the operators of its deployed float32 file cost."""
    from on_litert import artifacts, models
    from on_litert.operators_alone import operator_costs

    subject = models.SUBJECTS[name]
    task = progress.add_task(f"{name}: writing files", total=None, detail="")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = models.build(subject)
        images = models.photographs(models.TEST, subject.size, seed=1)
        np.save(folder / "images.npy", images)
        reference = model.predict_on_batch(images.astype("float32"))
        files = {
            ("litert", conversion, form): path
            for (conversion, form), path in artifacts.write_litert(model, subject, folder).items()
        }
        if subject.variant and with_peers:
            peers = artifacts.write_peers(model, subject, folder)
            files |= {(engine, "timm", form): path for (engine, form), path in peers.items()}
        for count in threads:
            progress.update(task, description=f"{name}: {count} thread{'s' * (count > 1)}")
            candidates = [Candidate(Row(name, *key, count), path, folder / "images.npy") for key, path in files.items()]
            try:
                compare([one for one in candidates if one.row.conversion != "pointwise alone"], reference)
                take_turns(candidates, seconds, progress)
            finally:
                for candidate in candidates:
                    candidate.close()
            rows += [candidate.row for candidate in candidates]
        progress.update(task, description=f"{name}: operators")
        costs = operator_costs(files["litert", "deployed", "float32"].read_bytes()) if subject.variant else []
    progress.remove_task(task)
    return rows, costs


def main(
    models: tuple[str, ...] = MODELS,
    threads: tuple[int, ...] = (1, 2),
    seconds: float = 30.0,
    peers: bool = True,
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = HERE / "results",
) -> None:
    """Time plain against deployed files on LiteRT, beside ResNets and installed peers: about half an hour.

    Args:
        models: which models.
        threads: thread counts, each measured by itself.
        seconds: time for the turns of each model and thread count; there are at least 5.
        peers: measure PyTorch, ONNX Runtime and OpenVINO too, where they are installed.
        out: folder to write to.
    """
    from on_litert import report

    from keras_convmixer.environment.console import progress_bar, silence_native_logs

    silence_native_logs()

    rows, costs = [], {}
    with progress_bar() as progress:
        for name in models:
            found, costs[name] = benchmark(name, threads, seconds, peers, progress)
            rows += found
            out.mkdir(parents=True, exist_ok=True)
            report.write(out, [asdict(row) for row in rows], {n: list(map(asdict, c)) for n, c in costs.items() if c})
    print((out / "litert.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.FlagCreatePairsOff,))
