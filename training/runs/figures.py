"""The pictures of a run: curves, confusion matrix, sheet of predictions."""

import math
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from keras_convmixer.files.printable import printable
from keras_convmixer.visualization.style import STYLE, save_png

from ..evaluation import Evaluation

TRAINING = {"color": "0.55", "linestyle": "--", "label": "training"}
VALIDATION = {"color": "#1f4e9c", "label": "validation"}


def draw_curves(history: dict[str, list[float]], path: Path) -> None:
    """Draw loss and accuracy by epoch from what `fit` recorded; write a PNG."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots(1, 2)
        epochs = np.arange(1, len(history["loss"]) + 1)
        marker = "o" if len(epochs) == 1 else None  # a line of one point is not seen
        for axis, name, scale in ((axes[0], "loss", 1), (axes[1], "accuracy", 100)):
            axis.plot(epochs, np.multiply(history[name], scale), marker=marker, **TRAINING)
            axis.plot(epochs, np.multiply(history[f"val_{name}"], scale), marker=marker, **VALIDATION)
            axis.set_xlabel("epoch")
            axis.legend(frameon=False)
            axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes[0].set(ylabel="cross-entropy (nats)", yscale="log")
        axes[0].yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")  # by default TeX, off here
        axes[0].yaxis.set_minor_formatter(NullFormatter())
        axes[1].set(ylabel="accuracy (%)")
        save_png(figure, path)


def draw_confusion(evaluation: Evaluation, class_names: tuple[str, ...], path: Path) -> None:
    """Draw how often each label got each class; write a PNG. Counts are written in up to 30 classes."""
    from sklearn.metrics import confusion_matrix

    count, class_names = len(class_names), [printable(name) for name in class_names]
    matrix = confusion_matrix(evaluation.labels, evaluation.predicted, labels=np.arange(count))
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    with rc_context(STYLE):
        side = min(4.5 + count / 10, 14)
        figure = Figure(figsize=(side, side), layout="constrained")
        axis = figure.subplots()
        axis.imshow(share, cmap="Greys", vmin=0, vmax=1)
        axis.grid(False)
        axis.set(xlabel="predicted class", ylabel="label")
        axis.set_title(f"{evaluation.accuracy:.2%} of {len(evaluation.labels):,} images right")
        if count <= 30:
            axis.set_xticks(range(count), class_names, rotation=45 if max(map(len, class_names)) > 2 else 0)
            axis.set_yticks(range(count), class_names)
            for row, column in zip(*np.nonzero(matrix), strict=True):
                ink = "white" if share[row, column] > 0.5 else "black"
                axis.text(column, row, matrix[row, column], ha="center", va="center", color=ink)
        save_png(figure, path)


def draw_predictions(
    images: np.ndarray, evaluation: Evaluation, class_names: tuple[str, ...], path: Path, limit: int = 40
) -> None:
    """Draw a sheet of images with predicted class and probability, the wrong ones first; write a PNG."""
    class_names = [printable(name) for name in class_names]
    wrong = np.flatnonzero(evaluation.predicted != evaluation.labels)
    right = np.flatnonzero(evaluation.predicted == evaluation.labels)
    chosen = np.concatenate([wrong, right])[:limit]
    columns = min(10, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(columns * 0.9, rows * 1.15 + 0.4), layout="constrained")
        figure.suptitle(
            f"{len(evaluation.labels) - len(wrong):,} of {len(evaluation.labels):,} images right; "
            f"{'the wrong ones come first' if len(wrong) else 'none is wrong'}"
        )
        for axis in figure.subplots(rows, columns, squeeze=False).flat:
            axis.set_axis_off()
        for axis, index in zip(figure.axes, chosen, strict=False):
            predicted, label = evaluation.predicted[index], evaluation.labels[index]
            title = f"{class_names[predicted]}  {evaluation.probabilities[index, predicted]:.0%}"
            axis.imshow(
                images[index] if images.shape[-1] == 3 else images[index, ..., 0], cmap="gray", vmin=0, vmax=255
            )
            if predicted == label:
                axis.set_title(title, fontsize=8)
            else:
                axis.set_title(f"{title}\nis {class_names[label]}", fontsize=8, color="#b00020", weight="bold")
        save_png(figure, path)
