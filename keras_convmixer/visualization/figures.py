"""Figures of a model, as in the ConvMixer paper: its kernels, its effective receptive field, and Grad-CAM.

Source of the first two: Trockman and Kolter, "Patches Are All You Need?", https://arxiv.org/abs/2201.09792.
"""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..files.printable import printable
from ..outputs.classifier import as_classifier
from .attribution import effective_receptive_field, grad_cam
from .style import STYLE, save_png

MAX_FILTERS, MAX_LAYERS, MAX_CHANNELS = 256, 32, 24
"""Drawn at most: filters of the patch embedding, layers of depthwise kernels, and kernels of each."""
# Lightness rises from -1 to 1, so that a grey print shows the sign too: dark is negative, light positive.
SIGNED = LinearSegmentedColormap.from_list("signed", ["#10204f", "#2f5fa8", "#999999", "#efa75f", "#ffe9b0"])
SMALLEST = 1e-4
"""Lower end of the receptive field's scale, as a share of its largest value; smaller values are drawn as this."""


def draw_all(
    model: keras.Model, image: np.ndarray | None, folder: Path, class_names: Sequence[str] | None = None
) -> list[Path]:
    """Draw a model's figures into a folder; return the paths of the PNGs.

    They are patch_embedding.png and depthwise_kernels.png; with an image receptive_field.png; and with an image and a
    model that returns classes grad_cam.png.

    Example:
        ```python
        from pathlib import Path
        from keras_convmixer.visualization.figures import draw_all

        draw_all(model, images[0], Path("."), ["red", "green", "blue"])
        ```

    Args:
        model: functional or Sequential, with a 2-D convolution and a depthwise one.
        image: `[height, width, channels]`, uint8 or float, pixels 0..255; None draws the kernels alone.
        folder: where the PNGs are written; it exists.
        class_names: one for each class; None shows the class's index.

    Raises:
        ValueError: the model has no such layers, or it does not fit the image or the names.
        RuntimeError: with an image, if Keras does not run on TensorFlow.
        OSError: a PNG cannot be written.
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
    """Draw the filters of the first convolution as a PNG, sorted by norm, the largest first.

    Filters of 3 channels are drawn in color, others in grey, as the mean over channels. Middle grey is a weight
    of 0; each filter is scaled to its own largest weight. At most 256 filters are drawn, those of largest norm.

    Source: the paper's figures of patch embedding weights; choice and order of the filters differ.

    Example:
        ```python
        from pathlib import Path
        from keras_convmixer.visualization.figures import draw_patch_embedding

        draw_patch_embedding(model, Path("patch_embedding.png"))
        ```

    Raises:
        ValueError: the model has no 2-D convolution.
        OSError: the PNG cannot be written.
    """
    kernel = _kernels(model, keras.layers.Conv2D)[0]
    filters = np.moveaxis(kernel, -1, 0)  # [filters, height, width, channels]
    norms = np.linalg.norm(filters.reshape(len(filters), -1), axis=1)
    shown = filters[np.argsort(-norms, kind="stable")[:MAX_FILTERS]]
    if shown.shape[-1] != 3:
        shown = np.repeat(shown.mean(-1, keepdims=True), 3, axis=-1)
    columns = min(math.ceil(math.sqrt(len(shown))), 16)
    sheet = _sheet(0.5 + 0.45 * _scaled(shown), columns, gap=1.0)  # 0.05..0.95: no weight is white like the gaps
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
    """Draw kernels of the depthwise convolutions as a PNG, a row for each layer.

    Each row has the same number of channels, at most 24, evenly spaced; each kernel is scaled to its own largest
    weight, and the middle of the color scale is a weight of 0. Of more than 32 layers, 32 evenly spaced ones are drawn,
    the first and the last among them.

    Source: the paper's figure of depthwise kernels, which draws random channels.

    Example:
        ```python
        from pathlib import Path
        from keras_convmixer.visualization.figures import draw_depthwise_kernels

        draw_depthwise_kernels(model, Path("depthwise_kernels.png"))
        ```

    Raises:
        ValueError: the model has no depthwise 2-D convolution.
        OSError: the PNG cannot be written.
    """
    kernels = [  # for each layer [channels, height, width]
        np.moveaxis(kernel.reshape(*kernel.shape[:2], -1), -1, 0)
        for kernel in _kernels(model, keras.layers.DepthwiseConv2D)
    ]
    layers = _evenly_spaced(len(kernels), MAX_LAYERS)
    columns = min(MAX_CHANNELS, *(len(kernels[layer]) for layer in layers))
    side = [max(kernels[layer].shape[axis] for layer in layers) for axis in (1, 2)]
    tiles = [_padded(kernels[layer][_evenly_spaced(len(kernels[layer]), columns)], side) for layer in layers]
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
    """Draw an image and, beside it, its effective receptive field at the central position, as a PNG.

    The scale is logarithmic, from 1/10,000 of the largest value to the largest.

    Example:
        ```python
        from pathlib import Path
        from keras_convmixer.visualization.figures import draw_effective_receptive_field

        draw_effective_receptive_field(model, images[0], Path("receptive_field.png"))
        ```

    Args:
        model: as `effective_receptive_field` takes it.
        image: `[height, width, channels]`, uint8 or float, pixels 0..255.
        path: the PNG.

    Raises:
        ValueError: as `effective_receptive_field`.
        RuntimeError: Keras does not run on TensorFlow.
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
    """Draw an image and, beside it, the Grad-CAM of a class on top of the image in grey, as a PNG.

    The map is divided by its largest value, interpolated between the positions of the feature map, and stretched over
    the whole image. The title has the class and its probability.

    Example:
        ```python
        from pathlib import Path
        from keras_convmixer.visualization.figures import draw_grad_cam

        draw_grad_cam(model, images[0], Path("grad_cam.png"), class_names=["red", "green", "blue"])
        ```

    Args:
        model: as `grad_cam` takes it.
        image: `[height, width, channels]`, uint8 or float, pixels 0..255.
        path: the PNG.
        class_names: one for each class; None shows the class's index.
        class_index: 0 to classes - 1; None is the predicted class.

    Raises:
        ValueError: as `grad_cam`, or the number of names is not that of the classes.
        RuntimeError: Keras does not run on TensorFlow.
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
        right.imshow(
            _displayed(image).mean(-1), cmap="gray", vmin=-0.6, vmax=1
        )  # light grey, so that the map's colors stand out
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
        bar.set_label("evidence, relative to the largest" if heat.any() else "no position supports this class")
        save_png(figure, path)


def _image_beside(image, title=""):
    """Return a figure with the image on the left, axes of the same size on the right, and axes for a color bar.

    Axes are placed in inches: with Matplotlib's layouts, texts of very tall or very wide images overlap.
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
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        # A tick's label is 0.13 inches high; of an image 0.3 inches high, only two fit.
        axis.yaxis.set_major_locator(MaxNLocator(min(max(int(panel[1] / 0.25), 1), 8), integer=True))
    left.set_ylabel("y (pixels)")
    left.set_title("image")
    left.imshow(_displayed(image))
    return figure, right, bar


def _displayed(image):
    """Return pixels 0..255 as RGB 0..1 `[height, width, 3]`; images without 3 channels become grey."""
    image = np.clip(np.asarray(image, "float32") / 255, 0, 1)
    return image if image.shape[-1] == 3 else np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)


def _kernels(model, kind):
    """Return the kernels of all layers of a type, input first, as float32 `[height, width, ...]`."""
    layers = [layer for layer in _layers(model) if isinstance(layer, kind) and layer.built]
    if not layers:
        raise ValueError(
            f"{model.name} has no {kind.__name__} layer with weights: give a built model that has one, "
            "such as ConvMixer"
        )
    return [np.asarray(keras.ops.convert_to_numpy(layer.kernel)).astype("float32") for layer in layers]


def _layers(model):
    """Yield a model's layers, and those of models inside it, input first."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield layer


def _evenly_spaced(count, limit):
    """Return up to `limit` of `count` indices, evenly spaced from the first to the last."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(int).tolist()


def _scaled(tiles):
    """Scale each tile to -1..1 by its own largest absolute value; NaN stays."""
    largest = np.nanmax(np.abs(tiles), axis=tuple(range(1, tiles.ndim)), keepdims=True)
    return tiles / np.where(largest > 0, largest, 1)


def _padded(tiles, side):
    """Center tiles `[count, height, width]` in `side`, (height, width), with NaN around them."""
    missing = [(wanted - have) for wanted, have in zip(side, tiles.shape[1:], strict=True)]
    return np.pad(tiles, [(0, 0), *((m // 2, m - m // 2) for m in missing)], constant_values=np.nan)


def _sheet(tiles, columns, gap):
    """Arrange tiles `[count, height, width, channels]` in rows of `columns`, separated by lines of the value `gap`.

    For example, 5 tiles of 8x8 in rows of 3 make a sheet `[2 * (16 + 2), 3 * (16 + 2), channels]`: each is magnified to
    16x16, and has a line of 1 pixel on each side.
    """
    count, height, width, channels = tiles.shape
    rows = math.ceil(count / columns)
    magnified = max(1, math.ceil(16 / max(height, width)))  # so that lines are thin beside small kernels too
    tiles = tiles.repeat(magnified, axis=1).repeat(magnified, axis=2)
    line = 2
    cells = np.full((rows * columns, height * magnified + line, width * magnified + line, channels), gap, "float32")
    cells[:count, line // 2 : -line // 2, line // 2 : -line // 2] = tiles
    cells = cells.reshape(rows, columns, *cells.shape[1:])  # [rows, columns, cell height, cell width, channels]
    return cells.swapaxes(1, 2).reshape(rows * cells.shape[2], columns * cells.shape[3], channels)


def _depthwise_title(kernels, layers, columns):
    channels = {len(kernel) for kernel in kernels} - {columns}
    of_channels = f" of {channels.pop():,}" if len(channels) == 1 else ""
    of_layers = f", {len(layers)} of {len(kernels)} layers" if len(layers) < len(kernels) else ""
    return f"depthwise kernels: {columns}{of_channels} channels{of_layers}"
