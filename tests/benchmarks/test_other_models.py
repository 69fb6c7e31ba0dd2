"""benchmarks/on_litert/accuracy_and_time.py: the table and the figure of ConvMixer beside other models."""

import json
from pathlib import Path

import pytest
from figure_layout import assert_texts_have_room, drawn_texts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def accuracy_and_time(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from on_litert import accuracy_and_time

    return accuracy_and_time


@pytest.fixture
def stored():
    return json.loads((BENCHMARKS / "results/other_models.json").read_text())


def row(model, conversion, form, milliseconds):
    return {"model": model, "conversion": conversion, "form": form, "milliseconds": milliseconds, "threads": 1}


def test_the_committed_table_is_that_of_the_json(accuracy_and_time, stored):
    assert accuracy_and_time.markdown(stored) == (BENCHMARKS / "results/other_models.md").read_text()


def test_every_label_has_room(accuracy_and_time, stored, monkeypatch):
    figures = []
    monkeypatch.setattr(accuracy_and_time, "save_png", lambda figure, path: figures.append(figure))
    accuracy_and_time.draw(None, stored["rows"])
    assert_texts_have_room(figures[0])
    texts = [text for text, _ in drawn_texts(figures[0])]
    for label in ("ConvMixer-768/32", "DeiT-B", "MobileNetV4-M"):
        assert texts.count(label) == 2  # once in each panel


def test_a_row_has_the_fastest_file_of_each_kind(accuracy_and_time):
    rows = [
        row("ConvMixer768_32", "plain", "float32", 900.0),
        row("ConvMixer768_32", "deployed", "float32", 400.0),
        row("ConvMixer768_32", "plain", "dynamic int8", 700.0),
        row("ConvMixer768_32", "deployed", "dynamic int8", 200.0),
        row("ConvMixer768_32", "litert_int8", "static int8", 150.0),
        row("resnet50", "plain", "float32", 80.0),
        row("resnet50", "plain", "dynamic int8", 25.0),
        row("resnet50", "plain", "static int8", 23.0),
    ]
    models = {
        "ConvMixer768_32": {"parameters": 21_110_000, "size": 224},
        "resnet50": {"parameters": 25_560_000, "size": 224},
    }
    assert accuracy_and_time.table({"rows": rows, "models": models})[2:] == [
        "| ResNet-50 | 25.6 | 224 | 80.8 | 80 | 23 static |",
        "| ConvMixer-768/32 | 21.1 | 224 | 80.2 | 900 -> **400** | 700 -> **150** static |",
    ]
