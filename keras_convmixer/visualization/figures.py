"""The paper's pictures of a model: its kernels, what a position sees, and what speaks for a class."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from ..files.printable import printable
from ..outputs.classifier import as_classifier
from .attribution import effective_receptive_field, grad_cam
from .style import STYLE, save_png

FILTERS = 256
LAYERS = 32
KERNELS = 24
# Its lightness rises all the way, so that a grey print shows the sign too: dark is negative, light positive.
SIGNED = LinearSegmentedColormap.from_list("signed", ["#10204f", "#2f5fa8", "#999999", "#efa75f", "#ffe9b0"])
SMALLEST = 1e-4  # of the receptive field's largest value; what is below is drawn as this


def draw_all(
    model: keras.Model, image: np.ndarray | None, folder: Path, class_names: Sequence[str] | None = None
) -> list[Path]:
    """Draw every picture of this file that there is a reason for; return the PNGs, named for what they show.

    Without an image none that needs one, without a classifier no Grad-CAM. Raises what the others raise.
    """
    drawings = {"patch_embedding": draw_patch_embedding, "depthwise_kernels": draw_depthwise_kernels}
    if image is not None:
        drawings["receptive_field"] = lambda model, path: draw_effective_receptive_field(model, image, path)
    if image is not None and len(model.output_shape) == 2:
        drawings["grad_cam"] = lambda model, path: draw_grad_cam(model, image, path, class_names)
    for name, draw in drawings.items():
        draw(model, folder / f"{name}.png")
    return [folder / f"{name}.png" for name in drawings]


def draw_patch_embedding(model: keras.Model, path: Path) -> None:
    """Draw the filters of the first convolution, the largest norm first; write a PNG.

    Filters of 3 channels are drawn in colour, others in grey, as the mean over channels. Middle grey is a weight
    of 0; each filter is scaled to its own largest weight. At most 256 filters are drawn.

    Source: the figures of patch embedding weights in "Patches Are All You Need?"; its choice and order differ.

    Raises:
        ValueError: the model has no 2-D convolution.
        OSError: the PNG cannot be written.
    """
    kernel = _kernels(model, keras.layers.Conv2D)[0]
    filters = np.moveaxis(kernel, -1, 0)
    norms = np.linalg.norm(filters.reshape(len(filters), -1), axis=1)
    shown = filters[np.argsort(-norms, kind="stable")[:FILTERS]]
    if shown.shape[-1] != 3:
        shown = np.repeat(shown.mean(-1, keepdims=True), 3, axis=-1)
    columns = min(math.ceil(math.sqrt(len(shown))), 16)
    sheet = _sheet(0.5 + 0.45 * _scaled(shown), columns, gap=1.0)  # no weight is as white as the paper
    rows = math.ceil(len(shown) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(columns * 0.45, 4.8), rows * 0.45 + 0.7), layout="constrained")
        axis = figure.subplots()
        axis.imshow(sheet)
        axis.set_axis_off()
        height, width = filters.shape[1:3]
        which = f"the {len(shown)} of largest norm" if len(shown) < len(filters) else "largest norm first"
        axis.set_title(f"patch embedding: {len(filters):,} filters of {height}x{width}, {which}")
        figure.supxlabel("middle grey is 0; each filter is scaled to its largest weight", fontsize=8)
        save_png(figure, path)


def draw_depthwise_kernels(model: keras.Model, path: Path) -> None:
    """Draw kernels of the depthwise convolutions, one row for each layer; write a PNG.

    Each row holds the same count of channels, at most 24, spread evenly; each kernel is scaled to its own
    largest weight, and the middle of the colours is a weight of 0. Of more than 32 layers, 32 are drawn, the
    first, the last and others spread evenly.

    Source: the figure of depthwise kernels in "Patches Are All You Need?", which draws them at random.

    Raises:
        ValueError: the model has no depthwise 2-D convolution.
        OSError: the PNG cannot be written.
    """
    kernels = [
        np.moveaxis(kernel.reshape(*kernel.shape[:2], -1), -1, 0)
        for kernel in _kernels(model, keras.layers.DepthwiseConv2D)
    ]
    layers = _spread(len(kernels), LAYERS)
    columns = min(KERNELS, *(len(kernels[layer]) for layer in layers))
    side = [max(kernels[layer].shape[axis] for layer in layers) for axis in (1, 2)]
    tiles = [_padded(kernels[layer][_spread(len(kernels[layer]), columns)], side) for layer in layers]
    sheet = _sheet(_scaled(np.concatenate(tiles))[..., None], columns, gap=np.nan)[..., 0]
    with rc_context(STYLE):
        size = (max(columns * 0.3, 4.2) + 0.5, len(layers) * 0.3 + 1.1)
        figure = Figure(figsize=size, layout="constrained")
        axis = figure.subplots()
        image = axis.imshow(sheet, cmap=SIGNED, vmin=-1, vmax=1)
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.set_xticks([])
        pitch = sheet.shape[0] / len(layers)
        axis.set_yticks((np.arange(len(layers)) + 0.5) * pitch - 0.5, [layer + 1 for layer in layers])
        axis.tick_params(length=0)
        axis.set_ylabel("layer")
        axis.set_title(_depthwise_title(kernels, layers, columns))
        bar = figure.colorbar(image, ticks=[-1, 0, 1], orientation="horizontal", shrink=0.5, aspect=40)
        bar.set_label("weight, relative to the kernel's largest")
        save_png(figure, path)


def draw_effective_receptive_field(model: keras.Model, image: np.ndarray, path: Path) -> None:
    """Draw an image beside what the central position of the last feature map sees of it; write a PNG.

    The scale is logarithmic and ends at 1/10,000 of the largest value.

    Args:
        model, image: as `effective_receptive_field` takes them; drawn are pixels 0..255.
        path: the PNG.

    Raises:
        ValueError: as `effective_receptive_field`.
        RuntimeError: Keras runs on another backend than TensorFlow.
        OSError: the PNG cannot be written.
    """
    field = effective_receptive_field(model, image)
    with rc_context(STYLE):
        figure, right, bar = _image_beside(image)
        shown = right.imshow(np.maximum(field, SMALLEST), cmap="magma", norm=LogNorm(SMALLEST, 1))
        right.set_title("effective receptive field, central position")
        bar = figure.colorbar(shown, bar, orientation="horizontal")
        bar.ax.minorticks_off()
        bar.set_ticks([SMALLEST, 1e-3, 1e-2, 1e-1, 1], labels=["0.0001 or less", "0.001", "0.01", "0.1", "1"])
        bar.set_label("absolute gradient, relative to the largest (log scale)")
        save_png(figure, path)


def draw_grad_cam(
    model: keras.Model,
    image: np.ndarray,
    path: Path,
    class_names: Sequence[str] | None = None,
    class_index: int | None = None,
) -> None:
    """Draw an image beside the Grad-CAM of a class over it; write a PNG.

    The heat map is scaled to its largest value, interpolated between the positions of the feature map, and
    stretched over the whole image.

    Args:
        model, image: as `grad_cam` takes them; drawn are pixels 0..255.
        path: the PNG.
        class_names: one for each class; None writes the index.
        class_index: 0 to classes - 1; None is the predicted class.

    Raises:
        ValueError: as `grad_cam`, or there is another number of names than of classes.
        RuntimeError: Keras runs on another backend than TensorFlow.
        OSError: the PNG cannot be written.
    """
    classifier = as_classifier(model)
    classes = classifier.outputs[0].shape[-1]
    if class_names is not None and len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names, and the model has {classes} classes: give one for each")
    heat, index = grad_cam(model, image, class_index)
    probability = float(classifier(np.asarray(image)[None].astype("float32"), training=False)[0, index])
    name = f"class {index}" if class_names is None else printable(class_names[index])
    height, width = np.shape(image)[:2]
    with rc_context(STYLE):
        figure, right, bar = _image_beside(image, textwrap.fill(f"{name}  {probability:.1%}", 80))
        right.imshow(_displayed(image).mean(-1), cmap="gray", vmin=-0.6, vmax=1)  # light, to let the colours shine
        shown = right.imshow(
            heat / heat.max() if heat.any() else heat,
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=0.6,
            interpolation="bilinear",
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        right.set_title(f"Grad-CAM, {heat.shape[0]}x{heat.shape[1]} positions")
        bar = figure.colorbar(shown, bar, orientation="horizontal", ticks=[0, 0.5, 1])
        bar.set_label("evidence, relative to the largest" if heat.any() else "no position speaks for this class")
        save_png(figure, path)


def _image_beside(image, title=""):
    """Return a figure with the image, and axes of the same size and for a horizontal colour bar.

    Placed by hand, in inches: Matplotlib's layouts let the words of very tall or very wide images collide.
    """
    lines = title.count("\n") + 1 if title else 0
    height, width = np.shape(image)[:2]
    panel = (3.2, min(max(3.2 * height / width, 0.3), 6))
    size = (7.8, panel[1] + 1.6 + 0.2 * lines)
    figure = Figure(figsize=size)
    figure.suptitle(title, y=1 - 0.08 / size[1])

    def axes(x, y, width, height):
        return figure.add_axes((x / size[0], y / size[1], width / size[0], height / size[1]))

    left, right, bar = axes(0.7, 1.2, *panel), axes(4.5, 1.2, *panel), axes(2.3, 0.55, 3.2, 0.1)
    for axis in (left, right):
        axis.grid(False)
        axis.set_xlabel("x (pixels)")
        for side in (axis.xaxis, axis.yaxis):
            side.get_major_locator().set_params(integer=True)
    left.set_ylabel("y (pixels)")
    left.set_title("image")
    left.imshow(_displayed(image))
    return figure, right, bar


def _displayed(image):
    """Return pixels 0..255 as the RGB 0..1 that Matplotlib draws; other than 3 channels become grey."""
    image = np.clip(np.asarray(image, "float32") / 255, 0, 1)
    return image if image.shape[-1] == 3 else np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)


def _kernels(model, kind):
    """Return the kernels of all layers of a kind, from the input on, as float32 `[height, width, ...]`."""
    layers = [layer for layer in _layers(model) if isinstance(layer, kind) and layer.built]
    if not layers:
        raise ValueError(
            f"{model.name} has no {kind.__name__} layer with weights: give a built model that has, such as ConvMixer"
        )
    return [keras.ops.convert_to_numpy(layer.kernel).astype("float32") for layer in layers]


def _layers(model):
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield layer


def _spread(count, limit):
    """Return up to `limit` of `count` indices, spread evenly from the first to the last."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(int).tolist()


def _scaled(tiles):
    """Scale each tile to -1..1 by its own largest absolute value; NaN stays."""
    largest = np.nanmax(np.abs(tiles), axis=tuple(range(1, tiles.ndim)), keepdims=True)
    return tiles / np.where(largest > 0, largest, 1)


def _padded(tiles, side):
    """Pad `[count, height, width]` with NaN to `side`, the tile in the middle."""
    margins = [(wanted - have) for wanted, have in zip(side, tiles.shape[1:], strict=True)]
    return np.pad(tiles, [(0, 0), *((m // 2, m - m // 2) for m in margins)], constant_values=np.nan)


def _sheet(tiles, columns, gap):
    """Lay `[count, height, width, channels]` out in rows of `columns`, with lines of the value `gap` between."""
    count, height, width, channels = tiles.shape
    rows = math.ceil(count / columns)
    magnified = max(1, math.ceil(16 / max(height, width)))  # so that a line is thin beside a small kernel too
    tiles = tiles.repeat(magnified, axis=1).repeat(magnified, axis=2)
    line = 2
    cells = np.full((rows * columns, height * magnified + line, width * magnified + line, channels), gap, "float32")
    cells[:count, line // 2 : -line // 2, line // 2 : -line // 2] = tiles
    cells = cells.reshape(rows, columns, *cells.shape[1:])
    return cells.swapaxes(1, 2).reshape(rows * cells.shape[2], columns * cells.shape[3], channels)


def _depthwise_title(kernels, layers, columns):
    channels = {len(kernel) for kernel in kernels} - {columns}
    of_channels = f" of {channels.pop():,}" if len(channels) == 1 else ""
    of_layers = f", {len(layers)} of {len(kernels)} layers" if len(layers) < len(kernels) else ""
    return f"depthwise kernels: {columns}{of_channels} channels{of_layers}"
