"""Learning curves of training here and of the reference's PyTorch script: loss and accuracy by epoch, several seeds.

`python benchmarks/loss_curves.py --data-dir FOLDER`, with the peers installed: recipe cifar10, by default of a small
model for a few epochs, on the same images in the same number of steps. PyTorch's side is timm's model with
torchvision's augmentation, AdamW and the schedule of train.py of locuslab/convmixer-cifar10, written here anew; only
clipping (there an option) and leaving out the batch that does not fill up are the recipe's. Each run is a process of
its own and its figures are kept in benchmarks/results/loss_curves/, from which the figure is drawn; a run that is
there is not repeated, and one that was interrupted continues after its last whole epoch.
"""

import csv
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import tyro

RESULTS = Path(__file__).parent / "results" / "loss_curves"
CIFAR_MEAN, CIFAR_DEVIATION = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
NAMES = {"keras": "keras_convmixer", "pytorch": "reference's settings in PyTorch"}
COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of the model, and length of its training."""

    data_dir: str
    dim: int = 64
    depth: int = 4
    epochs: int = 5

    @property
    def name(self) -> str:
        """Name of the results' folder and figure."""
        return f"{self.dim}_{self.depth}_{self.epochs}_epochs"


def recipe_of(size: Size, seed: int):
    """Return the recipe that both follow."""
    from keras_convmixer.training import RECIPES

    values = dataclasses.asdict(size)
    return RECIPES["cifar10"].replace(name=size.name, seed=seed, **values)


def run_keras(size: Size, seed: int, threads: int, folder: Path) -> list[dict]:
    """Train with this package; return the metrics of each epoch."""
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command line
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)

    from keras_convmixer.training import train

    if not (folder / "model.keras").exists():
        train(recipe_of(size, seed), folder)
    with (folder / "metrics.csv").open() as file:
        return [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]


def run_pytorch(size: Size, seed: int, threads: int, folder: Path) -> list[dict]:
    """Train in PyTorch; return the metrics of each epoch."""
    import engines.torchvision_operators  # noqa: F401 - before timm
    import torch
    from PIL import Image
    from timm.models.convmixer import ConvMixer
    from torchvision import transforms

    from keras_convmixer import Preprocessing
    from keras_convmixer.training import load_dataset

    recipe = recipe_of(size, seed)
    augmentation, optimization = recipe.augmentation, recipe.optimization
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    data = load_dataset("cifar10", Preprocessing(32, 32), data_dir=size.data_dir)
    scaled = [transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_DEVIATION)]
    augment = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(augmentation.rand_augment_num_ops, int(augmentation.rand_augment_magnitude)),
            *scaled,
        ]
    )
    model = ConvMixer(size.dim, size.depth, recipe.model.kernel_size, recipe.model.patch_size, num_classes=10)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=optimization.learning_rate, weight_decay=optimization.weight_decay
    )
    points = [0, optimization.epochs * 2 / 5, optimization.epochs * 4 / 5, optimization.epochs]
    rates = [0, optimization.learning_rate, optimization.learning_rate / 20, 0]

    def loss_of(images, labels):
        logits = model(torch.stack(images).to(memory_format=torch.channels_last))
        labels = torch.tensor(labels)
        return torch.nn.functional.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum().item()

    def images_of(split, chosen, transform):
        return [transform(Image.fromarray(split.images[index])) for index in chosen]

    rows, steps = [], len(data.train) // optimization.batch_size
    plain = transforms.Compose(scaled)
    saved = folder / "after_epoch.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=False)
        rows = state["rows"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
    for epoch in range(len(rows), optimization.epochs):
        order = torch.randperm(len(data.train)).numpy()
        total, right = 0.0, 0
        model.train()
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = np.interp(epoch + (step + 1) / steps, points, rates)
            chosen = order[step * optimization.batch_size : (step + 1) * optimization.batch_size]
            loss, correct = loss_of(images_of(data.train, chosen, augment), data.train.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), optimization.clip_norm)
            optimizer.step()
            total, right = total + loss.item(), right + correct
        model.eval()
        everything = np.arange(len(data.validation))
        with torch.no_grad():
            val_loss, val_right = loss_of(images_of(data.validation, everything, plain), data.validation.labels)
        accuracy = right / steps / optimization.batch_size
        measured = (total / steps, accuracy, val_loss.item(), val_right / len(everything))
        rows.append(dict(zip(COLUMNS, measured, strict=True)))
        state = {"rows": rows, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state | {"random": torch.get_rng_state()}, saved.with_suffix(".partial"))
        saved.with_suffix(".partial").rename(saved)
        print(f"pytorch, seed {seed}, epoch {epoch + 1}: {rows[-1]}", file=sys.stderr, flush=True)
    return rows


def draw(size: Size) -> Path:
    """Draw every run of a size that is there; return the figure's path."""
    from matplotlib import pyplot

    from keras_convmixer.visualization.style import STYLE, save_png

    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
        for color, (framework, label) in zip(("C0", "C1"), NAMES.items(), strict=True):
            runs = [read(file) for file in sorted((RESULTS / size.name).glob(f"{framework}_*.csv"))]
            for number, run in enumerate(runs):
                epochs = np.arange(1, len(run["loss"]) + 1)
                shown = f"{label}, {len(runs)} seeds" if number == 0 else None
                axes[0].plot(epochs, run["loss"], color=color, alpha=0.7, label=shown)
                axes[1].plot(epochs, 100 * run["val_accuracy"], color=color, alpha=0.7)
        axes[0].set(title="training loss, nats", xlabel="epoch")
        axes[1].set(title="validation accuracy, %", xlabel="epoch")
        axes[0].legend()
        path = RESULTS / f"{size.name}.png"
        save_png(figure, path)
    return path


def read(file: Path) -> dict[str, np.ndarray]:
    """Return a run's metrics by name, an array over the epochs each."""
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    return {name: np.array([float(row[name]) for row in rows]) for name in COLUMNS}


def main(size: tyro.conf.OmitArgPrefixes[Size], seeds: int = 3, threads: int = 2) -> None:
    """Train with both for each seed, print the last epochs' figures, draw the curves.

    Args:
        size: sizes of the model, and length of its training.
        seeds: number of runs of each.
        threads: number of threads of each run.
    """
    for seed in range(seeds):
        for framework in NAMES:
            if not (RESULTS / size.name / f"{framework}_{seed}.csv").exists():
                sizes = [size.data_dir, str(size.dim), str(size.depth), str(size.epochs)]
                subprocess.run(
                    [sys.executable, __file__, "--run", framework, str(seed), str(threads), *sizes], check=True
                )
    for framework, label in NAMES.items():
        ends = [read(file) for file in sorted((RESULTS / size.name).glob(f"{framework}_*.csv"))]
        for name in COLUMNS:
            last = np.array([run[name][-1] for run in ends])
            print(f"{label}: {name} {last.mean():.4f}, {last.min():.4f} to {last.max():.4f}")
    print(draw(size))


def run(framework: str, seed: int, threads: int, size: Size) -> None:
    """Train once, and write the metrics to a file."""
    file = RESULTS / size.name / f"{framework}_{seed}.csv"
    unfinished = file.with_suffix(".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    rows = {"keras": run_keras, "pytorch": run_pytorch}[framework](size, seed, threads, unfinished)
    with file.with_suffix(".partial").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    file.with_suffix(".partial").rename(file)
    shutil.rmtree(unfinished)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        framework, seed, threads, data_dir, *numbers = sys.argv[2:]
        run(framework, int(seed), int(threads), Size(data_dir, *map(int, numbers)))
    else:
        tyro.cli(main)
