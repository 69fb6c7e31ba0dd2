"""Figures of a run: learning curves, confusion matrix, sheet of predictions."""

from __future__ import annotations

import functools
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogLocator, NullFormatter

from keras_convmixer.files.printable import printable
from keras_convmixer.visualization.style import STYLE, save_png

from ..evaluation import Evaluation

if TYPE_CHECKING:
    from ..data.lazy_images import LazyImages

TRAINING = {"color": "0.55", "linestyle": "--", "label": "training"}
VALIDATION = {"color": "#1f4e9c", "label": "validation"}
CELL_WIDTH, FONT_SIZE = 1.3, 8
"""Inches of an image in the sheet of predictions, and points of its caption."""
NAME_LENGTH = 24
"""Characters of a class name on the confusion matrix; the middle of longer ones is left out."""
RIGHT = LinearSegmentedColormap.from_list("right", ("#8fadd9", "#1f4e9c"))
WRONG = LinearSegmentedColormap.from_list("wrong", ("white", "#f5a65b"))
"""Colors of the confusion matrix. In grey print too, every color of RIGHT is darker than every one of WRONG."""


def draw_curves(history: dict[str, list[float]], path: Path) -> None:
    """Draw loss and accuracy by epoch, of the training and the validation images; write a PNG.

    `history` holds one number for each epoch: loss and val_loss in nats, accuracy and val_accuracy in 0..1.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        axes = figure.subplots(1, 2)
        epochs = np.arange(1, len(history["loss"]) + 1)
        marker = "o" if len(epochs) == 1 else None  # a line of one point would be invisible
        for axis, name, scale in ((axes[0], "loss", 1), (axes[1], "accuracy", 100)):
            axis.plot(epochs, np.multiply(history[name], scale), marker=marker, **TRAINING)
            axis.plot(epochs, np.multiply(history[f"val_{name}"], scale), marker=marker, **VALIDATION)
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes[0].set(ylabel="cross-entropy (nats)")
        losses = np.concatenate([history["loss"], history["val_loss"]])
        if losses.max() > 10 * losses.min() > 0:  # within a decade, a logarithmic axis may have one number only
            axes[0].set_yscale("log")
            axes[0].yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")  # not TeX, off here
            axes[0].yaxis.set_minor_formatter(NullFormatter())
        axes[1].set(ylabel="accuracy (%)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
        save_png(figure, path)


def draw_confusion(evaluation: Evaluation, class_names: tuple[str, ...], path: Path) -> None:
    """Draw the confusion matrix, how many images of each true label were given each label; write a PNG.

    Counts are written up to 30 classes.
    """
    from sklearn.metrics import confusion_matrix

    count = len(class_names)
    matrix = confusion_matrix(evaluation.labels, evaluation.predicted, labels=np.arange(count))  # [true, predicted]
    percent = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    is_right = np.eye(count, dtype=bool)
    names = [_shortened(printable(name), NAME_LENGTH) for name in class_names]
    with_counts = count <= 30
    with rc_context(STYLE):
        side = max(3.2, 0.4 * count) if with_counts else 8  # inches of the matrix
        margin = 0.075 * max(map(len, names)) if with_counts else 0
        figure = Figure(figsize=(side + 2.8 + margin, side + 1.3 + margin), layout="constrained")
        axis = figure.subplots()
        # Each kind of cell has its own scale, as a few percent of wrong images would hardly be seen on one to 100 %.
        worst = percent[~is_right].max(initial=1)
        for name, colors, hidden, most in (("wrong", WRONG, is_right, worst), ("right", RIGHT, ~is_right, 100)):
            cells = axis.imshow(np.ma.array(percent, mask=hidden), cmap=colors, vmin=0, vmax=most)
            figure.colorbar(cells, shrink=0.7, label=f"{name}, % of the true label's images")
        axis.grid(False)
        axis.set(xlabel="predicted label", ylabel="true label")
        axis.set_title(f"{evaluation.accuracy:.2%} of {len(evaluation.labels):,} images correct")
        if with_counts:
            axis.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 2 else 0)
            axis.set_yticks(range(count), names)
            digits = len(str(matrix.max()))
            for row, column in zip(*np.nonzero((matrix > 0) | is_right), strict=True):
                color, weight = "black", "normal"
                if row == column:
                    color, weight = _ink(RIGHT(percent[row, column] / 100)), "bold"
                size = min(9, 28 / digits)  # points; a cell is 29 wide, and a digit 0.64 of its size
                style = {"color": color, "weight": weight, "size": size}
                axis.text(column, row, matrix[row, column], ha="center", va="center", **style)
        save_png(figure, path)


def draw_predictions(
    images: np.ndarray | LazyImages,
    evaluation: Evaluation,
    class_names: tuple[str, ...],
    path: Path,
    limit: int = 40,
) -> None:
    """Draw a sheet of images with predicted label and probability, the wrong ones first; write a PNG.

    Args:
        images: uint8 `[count, height, width, channels]`, 0..255.
        evaluation: predictions for these images.
        class_names: labels in the order of the evaluation's classes.
        path: file to write.
        limit: largest number of images.
    """
    names = [printable(name) for name in class_names]
    correct = evaluation.predicted == evaluation.labels
    shown = np.concatenate([np.flatnonzero(~correct), np.flatnonzero(correct)])[:limit]
    captions = [_caption(evaluation, names, index) for index in shown]
    columns = min(8, len(shown))
    rows = math.ceil(len(shown) / columns)
    height = 1.15 + 0.14 * max(len(caption.splitlines()) for caption in captions)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(columns * CELL_WIDTH, 4), rows * height + 0.4), layout="constrained")
        figure.suptitle(
            f"{correct.sum():,} of {len(correct):,} images correct; "
            f"{'none is wrong' if correct.all() else 'the wrong ones come first'}\n"
            "Each with its predicted label and probability"
        )
        for axis in figure.subplots(rows, columns, squeeze=False).flat:
            axis.set_axis_off()
        for axis, index, caption in zip(figure.axes, shown, captions, strict=False):
            image = images[index] if images.shape[-1] == 3 else images[index][..., 0]
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            style = {} if correct[index] else {"color": "#b00020", "weight": "bold"}
            axis.set_title(caption, fontsize=FONT_SIZE, **style)
        save_png(figure, path)


def _ink(color):
    """Return the color of text on a background (red, green, blue, alpha): black or white, whichever is easier to read.

    The luminance is that of WCAG 2, whose contrast for readable text is 4.5 or more: at 0.18 both have 4.6.
    """
    luminance = np.dot(np.power(color[:3], 2.2), (0.2126, 0.7152, 0.0722))
    return "white" if luminance < 0.18 else "black"


def _caption(evaluation, names, index):
    """Return the predicted label with its probability and, if it is wrong, the true label, in lines that fit a cell."""
    predicted, label = evaluation.predicted[index], evaluation.labels[index]
    probability = f"{evaluation.probabilities[index, predicted]:.0%}"
    caption = _wrapped(names[predicted], f"  {probability}")
    if predicted == label:
        return caption
    one_line = f"true: {names[label]}"
    return "\n".join([caption, one_line] if _width(one_line) <= 1 else [caption, "true:", _wrapped(names[label])])


def _wrapped(text, end=""):
    """Wrap a name into two lines of a cell's width at most, shortened if it is longer; `end` follows it."""
    if _width(text + end) <= 1:
        return text + end
    length = max(1, min(len(text), math.floor(0.9 * len(text) / _width(text))))  # letters that fill 9/10 of a line
    lines = textwrap.wrap(_shortened(text, 2 * length - 2), length)
    lines = [lines[0], f"{lines[1][: length - 1]}…"] if len(lines) > 2 else lines
    if end and _width(lines[-1] + end) <= 1:
        return "\n".join([*lines[:-1], lines[-1] + end])
    return "\n".join([*lines, end.strip()] if end else lines)


@functools.cache  # 20 ms for a long name, and names recur
def _width(text):
    """Return a bold caption's width as a fraction of the width that a cell has for it."""
    font = FontProperties(weight="bold")
    plain = text.replace("$", "S")  # a path's $ would begin a formula
    points = TextPath((0, 0), plain, size=FONT_SIZE, prop=font).get_extents().width if text.strip() else 0
    return points / (72 * (CELL_WIDTH - 0.1))


def _shortened(text, length):
    """Replace the middle of a long text, as the ends of class names often tell them apart."""
    if len(text) <= length:
        return text
    end = (length - 1) // 3
    return f"{text[: length - 1 - end].rstrip()}…{text[len(text) - end :]}"
