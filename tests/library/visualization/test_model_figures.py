import re
import textwrap

import keras
import numpy as np
import pytest
from figure_layout import assert_texts_have_room
from matplotlib.colors import LogNorm
from PIL import Image
from processes import run_python

from keras_convmixer import ConvMixer
from keras_convmixer.visualization import figures
from keras_convmixer.visualization.attribution import effective_receptive_field, grad_cam
from keras_convmixer.visualization.style import save_png

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (11, 8, 3), np.uint8)
NAMES = ("cat", "a $x_$ b", "dog")


@pytest.fixture
def drawn(monkeypatch):
    """The figure that a function would have written."""
    kept = []
    monkeypatch.setattr(figures, "save_png", lambda figure, path: kept.append(figure))
    return kept


@pytest.fixture(scope="module")
def mixer():
    keras.utils.set_random_seed(0)
    return ConvMixer(8, 2, kernel_size=3, patch_size=2, input_shape=(None, None, 3), classes=3)


def convolution(kernel):
    images = keras.Input((16, 16, kernel.shape[2]))
    layer = keras.layers.Conv2D(kernel.shape[3], kernel.shape[:2])
    model = keras.Model(images, layer(images))
    layer.set_weights([kernel, np.zeros(kernel.shape[3])])
    return model


def depthwise(*kernels):
    """Depthwise layers with these kernels `[height, width, channels]`, pointwise ones where channels change."""
    images = x = keras.Input((16, 16, 2))
    for kernel in kernels:
        if x.shape[-1] != kernel.shape[-1]:
            x = keras.layers.Conv2D(kernel.shape[-1], 1)(x)
        layer = keras.layers.DepthwiseConv2D(kernel.shape[:2], padding="same", use_bias=False)
        x = layer(x)
        layer.set_weights([kernel[..., None]])
    return keras.Model(images, x, name="layers")


def tiles(figure, rows, columns, side):
    """Read the weights `[row, column, height, width, ...]` off the sheet, each at the middle of its square."""
    sheet = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    height, width = sheet.shape[0] // rows, sheet.shape[1] // columns
    inside = [[int((i + 0.5) * (length - 2) / count) + 1 for i in range(count)] for length, count in
              zip((height, width), side, strict=True)]  # fmt: skip
    y = (np.arange(rows)[:, None] * height + inside[0]).ravel()
    x = (np.arange(columns)[:, None] * width + inside[1]).ravel()
    read = sheet[np.ix_(y, x)].reshape(rows, side[0], columns, side[1], *sheet.shape[2:])
    return read.swapaxes(1, 2)


# Patch embedding


def test_filters_are_sorted_by_norm_and_each_scaled_to_itself(drawn):
    kernel = RANDOM.normal(size=(2, 3, 3, 4)).astype("float32") * [1, 100, 0, 10]
    figures.draw_patch_embedding(convolution(kernel), None)
    shown = tiles(drawn[0], 2, 2, (2, 3)).reshape(4, 2, 3, 3)
    for tile, index in zip(shown, [1, 3, 0], strict=False):
        expected = kernel[..., index] / np.abs(kernel[..., index]).max()
        np.testing.assert_allclose((tile - 0.5) / 0.45, expected, atol=1e-5)
    assert (shown[3] == 0.5).all()  # a filter of zeros is all middle grey
    assert drawn[0].axes[0].get_title() == "patch embedding: 4 filters of 2x3, largest norm first"


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_filters_of_other_than_three_channels_are_grey_means(drawn, channels):
    kernel = RANDOM.normal(size=(3, 3, channels, 1)).astype("float32")
    figures.draw_patch_embedding(convolution(kernel), None)
    (shown,) = tiles(drawn[0], 1, 1, (3, 3)).reshape(1, 3, 3, 3)
    mean = kernel[..., 0].mean(-1)
    for color in range(3):
        np.testing.assert_allclose((shown[..., color] - 0.5) / 0.45, mean / np.abs(mean).max(), atol=1e-5)


def test_of_many_filters_the_strongest_are_shown(drawn):
    kernel = np.ones((2, 2, 1, 300), "float32") * np.where(np.arange(300) < 256, -2, 1)
    figures.draw_patch_embedding(convolution(kernel), None)
    np.testing.assert_allclose(tiles(drawn[0], 16, 16, (2, 2)), 0.05, atol=1e-6)
    assert drawn[0].axes[0].get_title() == "patch embedding: 300 filters of 2x2, the 256 of largest norm"


# Depthwise kernels


def test_rows_are_layers_and_zero_is_the_middle_of_the_colors(drawn):
    kernels = [RANDOM.normal(size=(3, 3, 2)).astype("float32") * scale for scale in (1, 1000, 0)]
    figures.draw_depthwise_kernels(depthwise(*kernels), None)
    shown = tiles(drawn[0], 3, 2, (3, 3))
    for layer in (0, 1):
        for channel in (0, 1):
            kernel = kernels[layer][..., channel]
            np.testing.assert_allclose(shown[layer, channel], kernel / np.abs(kernel).max(), atol=1e-5)
    assert (shown[2] == 0).all()
    axis, bar = drawn[0].axes
    assert axis.images[0].get_clim() == (-1, 1)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "2", "3"]
    assert axis.get_ylabel() == "layer"
    assert axis.get_title() == "depthwise kernels: 2 channels"
    assert bar.get_xlabel() == "weight, relative to the kernel's largest"


def test_labels_stand_at_the_middle_of_their_rows(drawn):
    figures.draw_depthwise_kernels(depthwise(*np.ones((4, 3, 3, 2), "float32")), None)
    axis = drawn[0].axes[0]
    top, bottom = axis.get_ylim()[::-1]
    np.testing.assert_allclose(axis.get_yticks(), top + (bottom - top) * np.array([1, 3, 5, 7]) / 8)


def test_of_many_layers_and_channels_some_are_shown_evenly(drawn):
    many = np.broadcast_to(np.linspace(-1, -0.5, 100), (1, 1, 100)).astype("float32")
    kernels = [np.ones((1, 1, 2), "float32")] * 39 + [many]
    figures.draw_depthwise_kernels(depthwise(*kernels), None)
    labels = [int(label.get_text()) for label in drawn[0].axes[0].get_yticklabels()]
    assert len(labels) == 32
    assert (labels[0], labels[-1]) == (1, 40)
    assert set(np.diff(labels)) == {1, 2}
    assert drawn[0].axes[0].get_title() == "depthwise kernels: 2 of 100 channels, 32 of 40 layers"
    figures.draw_depthwise_kernels(depthwise(many, many), None)
    assert drawn[1].axes[0].get_title() == "depthwise kernels: 24 of 100 channels"
    assert tiles(drawn[1], 2, 24, (1, 1)).shape[:2] == (2, 24)


def test_a_smaller_kernel_stands_in_the_middle_of_its_square(drawn):
    kernels = [np.ones((5, 5, 2), "float32"), -2 * np.ones((3, 1, 2), "float32")]
    figures.draw_depthwise_kernels(depthwise(*kernels), None)
    shown = tiles(drawn[0], 2, 2, (5, 5))
    assert (shown[0] == 1).all()
    assert (shown[1, :, 1:4, 2] == -1).all()
    assert np.isnan(shown[1]).sum() == 2 * 22


def test_several_kernels_of_one_channel_are_all_there(drawn):
    images = keras.Input((8, 8, 2))
    layer = keras.layers.DepthwiseConv2D(1, depth_multiplier=3, use_bias=False)
    model = keras.Model(images, layer(images))
    layer.set_weights([np.array([1, -1, 1, 1, -1, -1], "float32").reshape(1, 1, 2, 3)])
    figures.draw_depthwise_kernels(model, None)
    assert tiles(drawn[0], 1, 6, (1, 1)).ravel().tolist() == [1, -1, 1, 1, -1, -1]


def test_a_grey_print_shows_the_sign():
    colors = figures.SIGNED(np.linspace(0, 1, 101))[:, :3]
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    assert luminance[-1] > 2 * luminance[50] > 20 * luminance[0]


# Receptive field


def test_the_receptive_field_stands_beside_the_image(drawn, mixer):
    figures.draw_effective_receptive_field(mixer, IMAGE, None)
    left, right, bar = drawn[0].axes
    np.testing.assert_allclose(left.images[0].get_array(), IMAGE / 255, atol=1e-6)
    field = effective_receptive_field(mixer, IMAGE)
    np.testing.assert_array_equal(right.images[0].get_array(), np.maximum(field, 1e-4))
    assert isinstance(right.images[0].norm, LogNorm)
    assert right.images[0].get_clim() == (1e-4, 1)
    assert "log scale" in bar.get_xlabel()
    assert [label.get_text() for label in bar.get_xticklabels()] == ["0.0001 or less", "0.001", "0.01", "0.1", "1"]
    np.testing.assert_allclose(bar.get_xticks(), [1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert [axis.get_xlabel() for axis in (left, right)] == ["x (pixels)"] * 2
    assert left.get_ylabel() == "y (pixels)"


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_without_three_channels_are_grey(drawn, channels):
    model = ConvMixer(
        4, 1, kernel_size=3, patch_size=2, input_shape=(8, 8, channels), include_top=False, activation="linear"
    )
    image = np.linspace(-50, 300, 64 * channels).reshape(8, 8, channels)
    figures.draw_effective_receptive_field(model, image, None)
    shown = drawn[0].axes[0].images[0].get_array()
    assert shown.shape == (8, 8, 3)
    np.testing.assert_allclose(shown[..., 0], np.clip(image / 255, 0, 1).mean(-1), atol=1e-6)


# Grad-CAM


@pytest.mark.parametrize("class_index", [None, 0, 1, 2])
def test_the_heat_map_lies_over_the_whole_image(drawn, mixer, class_index):
    figures.draw_grad_cam(mixer, IMAGE, None, NAMES, class_index)
    left, right, bar = drawn[0].axes
    heat, index = grad_cam(mixer, IMAGE, class_index)
    grey, over = right.images
    np.testing.assert_allclose(left.images[0].get_array(), IMAGE / 255, atol=1e-6)
    np.testing.assert_allclose(grey.get_array(), IMAGE.mean(-1) / 255, atol=1e-6)
    np.testing.assert_allclose(over.get_array(), heat / heat.max(), atol=1e-6)
    assert over.get_extent() == grey.get_extent() == [-0.5, 7.5, 10.5, -0.5]
    probability = mixer.predict(IMAGE[None].astype("float32"), verbose=0)[0, index]
    assert drawn[0].get_suptitle() == f"{NAMES[index]}  {probability:.1%}"
    assert "5x4 positions" in right.get_title()
    assert bar.get_xlabel() == "evidence, relative to the largest"


def test_logits_are_drawn_with_a_probability_and_classes_without_names_with_their_index(drawn):
    images = keras.Input((4, 4, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(1, 1, kernel_initializer="ones")(images))
    layer = keras.layers.Dense(2, kernel_initializer="zeros")
    model = keras.Model(images, layer(x))
    layer.set_weights([np.array([[0.0, 0.0]]), np.log([3.0, 1.0])])
    figures.draw_grad_cam(model, IMAGE[:4, :4], None)
    assert drawn[0].get_suptitle() == "class 0  75.0%"
    assert drawn[0].axes[2].get_xlabel() == "no position supports this class"
    assert not drawn[0].axes[1].images[1].get_array().any()


def test_a_long_name_goes_on_in_a_second_line(drawn, mixer):
    figures.draw_grad_cam(mixer, IMAGE, None, ["sulphur-crested cockatoo, " * 5] * 3)
    lines = drawn[0].get_suptitle().split("\n")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("count", [2, 4])
def test_every_class_needs_a_name(mixer, count, tmp_path):
    with pytest.raises(ValueError, match=f"{count} class names, and the model has 3 classes"):
        figures.draw_grad_cam(mixer, IMAGE, tmp_path / "cam.png", ["cat"] * count)


# All of them

DRAWINGS = {
    "embedding": lambda model, path: figures.draw_patch_embedding(model, path),
    "kernels": lambda model, path: figures.draw_depthwise_kernels(model, path),
    "field": lambda model, path: figures.draw_effective_receptive_field(model, IMAGE, path),
    "cam": lambda model, path: figures.draw_grad_cam(model, IMAGE, path, NAMES, class_index=1),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_figure_is_one_png_with_a_white_border(draw, mixer, tmp_path):
    path = tmp_path / "figure.png"
    draw(mixer, path)
    assert list(tmp_path.iterdir()) == [path]
    picture = Image.open(path)
    assert picture.format == "PNG"
    assert min(picture.size) > 200
    pixels = np.asarray(picture.convert("L"))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 255).all()  # nothing is cut off
    assert (pixels < 100).any()


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_texts_do_not_overlap(draw, mixer, drawn):
    draw(mixer, None)
    assert_texts_have_room(drawn[0])


@pytest.mark.parametrize("shape", [(20, 400, 3), (300, 20, 3)])
def test_texts_beside_a_very_wide_or_tall_image_do_not_overlap(shape, mixer, drawn):
    image = RANDOM.integers(0, 256, shape, np.uint8)
    figures.draw_effective_receptive_field(mixer, image, None)
    figures.draw_grad_cam(mixer, image, None, ["sulphur-crested cockatoo, " * 5] * 3)
    for figure in drawn:
        assert_texts_have_room(figure)


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_model_in_a_model_is_drawn_too(draw, mixer, tmp_path):
    images = keras.Input((11, 8, 3))
    draw(keras.Model(images, mixer(images)), tmp_path / "nested.png")
    draw(mixer, tmp_path / "plain.png")
    assert (tmp_path / "nested.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (figures.draw_patch_embedding, "flat has no Conv2D layer with weights: give"),
        (figures.draw_depthwise_kernels, "flat has no DepthwiseConv2D layer with weights: give"),
    ],
)
def test_a_model_without_such_layers_is_named(draw, words, tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="flat")
    with pytest.raises(ValueError, match=words):
        draw(model, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


EXPLAINED = (
    *(figures.draw_all, figures.draw_patch_embedding, figures.draw_depthwise_kernels),
    *(figures.draw_effective_receptive_field, figures.draw_grad_cam, effective_receptive_field, grad_cam),
)


@pytest.mark.parametrize("function", EXPLAINED, ids=lambda function: function.__name__)
def test_the_example_in_the_docstring_runs(function, mixer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", function.__doc__, re.DOTALL)
    names = {"model": mixer, "images": IMAGE[None], "np": np}
    exec(textwrap.dedent(example), names)
    drawn = {path.name for path in tmp_path.iterdir()}
    expected = {"patch_embedding.png", "depthwise_kernels.png", "receptive_field.png", "grad_cam.png"}
    assert drawn == (expected if function is figures.draw_all else drawn & expected)
    assert bool(drawn) == function.__name__.startswith("draw_")


def test_a_figure_that_fails_leaves_the_former_file(tmp_path):
    class Broken:
        def savefig(self, path, **arguments):
            path.write_bytes(b"half")
            raise RuntimeError("no font")

    path = tmp_path / "figure.png"
    path.write_bytes(b"former")
    with pytest.raises(RuntimeError, match="no font"):
        save_png(Broken(), path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("figure.png", b"former")]


def test_the_style_costs_no_import_of_matplotlib():
    run_python("import sys, keras_convmixer.visualization.style; assert 'matplotlib' not in sys.modules")
