"""benchmarks/on_litert/report.py: the committed table and figure are those of the committed litert.json."""

import json
from pathlib import Path

import pytest
from figure_layout import assert_texts_have_room, drawn_texts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from on_litert import report

    return report


def test_the_committed_table_is_that_of_the_json(report):
    results = BENCHMARKS / "results"
    stored = json.loads((results / "litert.json").read_text())
    assert report._markdown(stored) == (results / "litert.md").read_text()


def test_every_bar_has_room_for_its_label(report, monkeypatch):
    figures = []
    monkeypatch.setattr(report, "save_png", lambda figure, path: figures.append(figure))
    rows = json.loads((BENCHMARKS / "results/litert.json").read_text())["rows"]
    report.draw(None, rows)
    assert_texts_have_room(figures[0])
    texts = [text for text, _ in drawn_texts(figures[0])]
    assert texts.count("static int8, litert_int8") == 3
    assert "2,352" in texts
    assert any("ms for one image" in text for text in texts)
