"""Time ConvMixer on LiteRT, plain against deployed, beside ResNets and the peers that are installed.

`make benchmark`, or `python benchmarks/litert.py --help`. Writes benchmarks/results/: litert.md, litert.png and
litert.json, with the machine's description. Batch 1; every candidate of a model in a process of its own, all taking
turns; medians.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

HERE = Path(__file__).parent
MODELS = ("ConvMixer1024_20", "ConvMixer768_32", "ConvMixer1536_20", "ConvMixer256_8", "ResNet50", "ResNet152")
ROUNDS = (5, 40)
"""Turns of each candidate, at least and at most; between them `seconds` decides."""


@dataclass
class Row:
    """One candidate of one model."""

    model: str
    engine: str
    """"litert", or a peer."""
    conversion: str
    """"plain", "deployed", "litert_int8" (deployed for that target), "pointwise alone"; "timm" of a peer."""
    form: str
    threads: int
    milliseconds: float = 0.0
    rounds: int = 0
    megabytes: float = 0.0
    """Of the file, in millions of bytes."""
    peak_memory: float = 0.0
    """Of the process with the engine, in millions of bytes."""
    largest_difference: float | None = None
    """Of a logit from Keras's, as a share of the range of Keras's logits."""
    mean_difference: float | None = None


class Candidate:
    """A file in an engine in a process of its own."""

    def __init__(self, row: Row, path: Path, images: Path):
        self.row = row
        self.times: list[float] = []
        row.megabytes = path.stat().st_size / 1e6
        command = [sys.executable, HERE / "engines/run_engine.py", row.engine, path, str(row.threads), images]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def ask(self, question: str):
        """Ask the process what run_engine.py answers."""
        os.kill(self._process.pid, signal.SIGCONT)
        with suppress(BrokenPipeError):
            print(question, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        os.kill(self._process.pid, signal.SIGSTOP)  # some engines' threads spin a while, at the next one's cost
        if not answer:
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:]
            raise RuntimeError(f"{self.row.engine}, {self.row.form}, failed on {self.row.model}: {''.join(last)}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        os.kill(self._process.pid, signal.SIGCONT)
        self._process.communicate()
        self._errors.close()


def measure(candidates: list[Candidate], reference: np.ndarray, seconds: float, progress) -> None:
    """Fill in the candidates' rows; `reference` is Keras's logits."""
    task = progress.add_task("loading", total=len(candidates), detail="")
    estimates = []
    for candidate in candidates:
        estimates.append(candidate.ask("time") / 1000)
        if candidate.row.conversion != "pointwise alone":
            difference = np.abs(np.array(candidate.ask("logits")) - reference) / np.ptp(reference)
            candidate.row.largest_difference = float(difference.max())
            candidate.row.mean_difference = float(difference.mean())
        progress.advance(task)
    rounds = int(np.clip(seconds / (2 * sum(estimates)), *ROUNDS))
    progress.update(task, description="timing", completed=0, total=rounds)
    for _ in range(rounds):
        for candidate in candidates:
            candidate.times.append(candidate.ask("time"))
        progress.advance(task)
    for candidate in candidates:
        candidate.row.milliseconds, candidate.row.rounds = float(np.median(candidate.times)), rounds
        candidate.row.peak_memory = candidate.ask("memory") / 1e6
    progress.remove_task(task)


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
                measure(candidates, reference, seconds, progress)
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
