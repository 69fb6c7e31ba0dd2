"""A training step of ConvMixer-256/8 at 32 pixels here and of timm's model in PyTorch, taking turns.

`python benchmarks/training.py`, with the peers installed. Forward, backward, clipping, AdamW; batch 64, float32, the
same threads; PyTorch with channels last. Each in a process of its own, stopped while the other runs; medians. Writes
benchmarks/results/training.json.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tyro

HERE = Path(__file__).parent
BATCH = 64


def keras_step(images: np.ndarray, labels: np.ndarray, threads: int):
    """Return a function that trains a step in Keras on TensorFlow."""

    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command line
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)

    from keras_convmixer.training import RECIPES
    from keras_convmixer.training.devices.strategy import choose_strategy
    from keras_convmixer.training.step.model import build_model, build_training_model
    from keras_convmixer.training.step.step import Step

    recipe = RECIPES["cifar10"].replace(batch_size=BATCH)
    model = build_training_model(build_model(recipe.model, 10), num_replicas=1)
    step, batch = (
        Step(model, recipe.optimization, choose_strategy("one_device"), 10_000),
        (tf.constant(images), tf.one_hot(labels, 10)),
    )
    return lambda: float(step.run(batch).loss)


def pytorch_step(images: np.ndarray, labels: np.ndarray, threads: int):
    """Return a function that trains a step in PyTorch."""
    import engines.torchvision_operators  # noqa: F401 - before timm
    import torch
    from timm.models.convmixer import ConvMixer

    torch.set_num_threads(threads)
    model = ConvMixer(256, 8, 5, 2, num_classes=10).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.005)
    scaled = torch.tensor(images / 255).permute(0, 3, 1, 2).to(memory_format=torch.channels_last)
    labels = torch.tensor(labels)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(scaled), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


STEPS = {"keras_convmixer": keras_step, "timm, PyTorch": pytorch_step}


def serve(name: str, threads: int) -> None:
    """Train a step for each line on stdin; answer with its milliseconds."""
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (BATCH, 32, 32, 3)).astype("float32")
    step = STEPS[name](images, random.integers(0, 10, BATCH), threads)
    step()
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        print((time.perf_counter() - started) * 1000, flush=True)


def main(rounds: int = 30, threads: int = 2) -> None:
    """Time both, and print images a second and their ratio.

    Args:
        rounds: number of steps of each.
        threads: number of threads of each.
    """
    processes, times = {}, {name: [] for name in STEPS}
    for name in STEPS:
        command = [sys.executable, __file__, "--serve", name, str(threads)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        processes[name] = subprocess.Popen(command, text=True, **pipes)
    for turn in range(rounds + 2):
        for name, process in processes.items():
            os.kill(process.pid, signal.SIGCONT)
            print("step", file=process.stdin, flush=True)
            milliseconds = float(process.stdout.readline())
            if turn >= 2:
                times[name].append(milliseconds)
            if turn:  # both have started
                os.kill(process.pid, signal.SIGSTOP)
    for process in processes.values():
        os.kill(process.pid, signal.SIGCONT)
        process.communicate()
    speed = {name: BATCH / np.median(found) * 1000 for name, found in times.items()}
    ours, theirs = speed.values()
    result = {"threads": threads, "rounds": rounds, "images_per_second": speed, "ratio": ours / theirs}
    (HERE / "results/training.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        tyro.cli(main)
