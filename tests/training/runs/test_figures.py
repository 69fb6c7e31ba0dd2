import matplotlib.colors
import numpy as np
import pytest
from figure_layout import assert_texts_have_room

from keras_convmixer.training.evaluation import Evaluation
from keras_convmixer.training.runs import figures

NAMES = ("cat", "dog", "a $x_$ b")
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.0, 0.25, 0.75]], "float32")
EVALUATION = Evaluation(PROBABILITIES, labels=np.array([0, 1, 2]))


@pytest.fixture
def drawn(monkeypatch):
    """The figure that a function would have written."""
    kept = []
    monkeypatch.setattr(figures, "save_png", lambda figure, path: kept.append(figure))
    return kept


def test_curves_show_training_and_validation(drawn):
    history = {"loss": [20, 1], "val_loss": [30, 1.5], "accuracy": [0.5, 0.75], "val_accuracy": [0.25, 0.5]}
    figures.draw_curves(history, None)
    loss, accuracy = drawn[0].axes
    shown = {line.get_label(): line.get_ydata().tolist() for line in loss.lines}
    assert shown == {"training": [20, 1], "validation": [30, 1.5]}
    shown = {line.get_label(): line.get_ydata().tolist() for line in accuracy.lines}
    assert shown == {"training": [50, 75], "validation": [25, 50]}
    drawn[0].canvas.draw()
    assert {"1", "2"} <= {label.get_text() for label in loss.get_yticklabels()}
    assert not any(label.get_text() for label in loss.get_yticklabels(minor=True))
    assert "nats" in loss.get_ylabel()
    assert "%" in accuracy.get_ylabel()


@pytest.mark.parametrize(("smallest", "scale"), [(0.7, "linear"), (0.01, "log"), (0.0, "linear")])
def test_the_loss_has_several_numbers_at_its_axis_whatever_it_spans(drawn, smallest, scale):
    figures.draw_curves(
        {"loss": [1.1, smallest], "val_loss": [1, 0.8], "accuracy": [0, 1], "val_accuracy": [0, 1]}, None
    )
    axis = drawn[0].axes[0]
    drawn[0].canvas.draw()
    low, high = axis.get_ylim()
    assert axis.get_yscale() == scale
    assert sum(low <= tick <= high for tick in axis.get_yticks()) >= 3


def test_confusion_counts_labels_by_row(drawn):
    figures.draw_confusion(EVALUATION, NAMES, None)
    axis, *bars = drawn[0].axes
    counts = {text.get_position(): text.get_text() for text in axis.texts}
    # (predicted, true): a dog was taken for a cat, and no dog was right.
    assert counts == {(0, 0): "1", (0, 1): "1", (1, 1): "0", (2, 2): "1"}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted label", "true label")
    assert "66.67% of 3 images correct" in axis.get_title()
    assert [bar.get_ylabel() for bar in bars] == [
        f"{kind}, % of the true label's images" for kind in ("wrong", "right")
    ]


@pytest.mark.parametrize("count", [3, 40])
def test_right_and_wrong_cells_differ_in_grey_print_too(drawn, count):
    """A right cell without any image is darker than a wrong one with all images of its label."""
    all_wrong = Evaluation(np.eye(count, dtype="float32")[[1, 1]], labels=np.array([0, 0]))
    figures.draw_confusion(all_wrong, tuple(map(str, range(count))), None)
    wrong, right = (
        image.to_rgba(image.get_array())[..., :3] @ (0.299, 0.587, 0.114) for image in drawn[0].axes[0].images
    )
    assert right[0, 0] < wrong[0, 1] - 0.04
    assert wrong[0, 1] < wrong[0, 2] - 0.2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 8])
def test_wrong_predictions_come_first(drawn, channels, side):
    images = np.zeros((3, side, side, channels), np.uint8)
    figures.draw_predictions(images, EVALUATION, NAMES, None)
    titles = [axis.get_title() for axis in drawn[0].axes]
    assert titles == ["cat  80%\ntrue: dog", "cat  90%", "a $x_$ b  75%"]


def test_labels_are_drawn_without_control_characters(drawn):
    names = ("cat", "\udcff\n\u202edog", "x")
    figures.draw_confusion(EVALUATION, names, None)
    figures.draw_predictions(np.zeros((3, 8, 8, 3), np.uint8), EVALUATION, names, None)
    ticks = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert ticks == ["cat", r"\udcff\n\u202edog", "x"]
    assert drawn[1].axes[0].get_title().replace("\n", " ") == "cat  80% true: " + ticks[1]


LONG_NAMES = ("golden retriever (long-haired)", "W" * 50, "a_long_name_without_any_space_in_it", "Staphylococcus", "x")


@pytest.mark.parametrize("count", [3, 10, 30])
def test_long_names_of_any_number_of_classes_have_room(drawn, count):
    names = tuple(f"{LONG_NAMES[index % 5]}{index}" for index in range(count))
    labels = np.arange(16) % count
    probabilities = np.eye(count, dtype="float32")[np.where(np.arange(16) < 9, labels[::-1], labels)]
    evaluation = Evaluation(probabilities, labels)
    figures.draw_confusion(evaluation, names, None)
    figures.draw_predictions(np.zeros((16, 8, 8, 3), np.uint8), evaluation, names, None)
    for figure in drawn:
        assert_texts_have_room(figure)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_counts_are_read_on_every_color(drawn, share):
    right = round(20_000 * share)
    probabilities = np.eye(2)[(np.arange(20_000) >= right).astype(int)]
    figures.draw_confusion(Evaluation(probabilities.astype("float32"), np.zeros(20_000, int)), ("a", "b"), None)
    figure = drawn[0]
    assert_texts_have_room(figure)
    axis = figure.axes[0]
    wrong, right = (image.to_rgba(image.get_array()) for image in axis.images)
    for text in axis.texts:
        column, row = text.get_position()
        colors = (right if row == column else wrong)[row, column], matplotlib.colors.to_rgb(text.get_color())
        darker, lighter = sorted(np.power(color[:3], 2.2) @ (0.2126, 0.7152, 0.0722) for color in colors)
        assert (lighter + 0.05) / (darker + 0.05) > 4.5, text  # WCAG's contrast of readable text
        assert text.get_window_extent().width < axis.get_window_extent().width / 2


def test_what_is_written_is_an_image_also_of_names_like_formulas(tmp_path):
    from PIL import Image

    path = tmp_path / "confusion.png"
    figures.draw_confusion(EVALUATION, NAMES, path)
    assert min(Image.open(path).size) > 300
