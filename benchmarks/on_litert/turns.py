"""Time files in engines, each in a process of its own, all taking turns: a slow moment of the machine hits all."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ENGINES = Path(__file__).parents[1] / "engines"
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
    """Size of the file, in millions of bytes."""
    peak_memory: float = 0.0
    """Peak memory of the engine's process, in millions of bytes."""
    largest_difference: float | None = None
    """Largest distance of a logit from Keras's, as a share of the range of Keras's logits."""
    mean_difference: float | None = None


class Candidate:
    """A file in an engine in a process of its own."""

    def __init__(self, row: Row, path: Path, images: Path):
        self.row = row
        self.times: list[float] = []
        row.megabytes = path.stat().st_size / 1e6
        command = [sys.executable, ENGINES / "run_engine.py", row.engine, path, str(row.threads), images]
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


def compare(candidates: list[Candidate], reference: np.ndarray) -> None:
    """Fill in how far the candidates' logits are from `reference`, Keras's."""
    for candidate in candidates:
        difference = np.abs(np.array(candidate.ask("logits")) - reference) / np.ptp(reference)
        candidate.row.largest_difference = float(difference.max())
        candidate.row.mean_difference = float(difference.mean())


def take_turns(candidates: list[Candidate], seconds: float, progress) -> None:
    """Fill in the candidates' times, medians of turns, and memory."""
    task = progress.add_task("loading", total=len(candidates), detail="")
    estimates = []
    for candidate in candidates:
        estimates.append(candidate.ask("time") / 1000)
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
