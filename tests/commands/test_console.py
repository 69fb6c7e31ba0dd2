"""What a terminal of 80 columns and a pipe get to see: tables, times, and lines about work that takes long."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from keras_convmixer.commands import tables
from keras_convmixer.commands.training import recipes
from keras_convmixer.environment import console
from keras_convmixer.export.choices import FormatName
from keras_convmixer.export.runtime.inspection import Inspection
from keras_convmixer.model.variants import VARIANTS


def rows_of(table):
    """The cells of a printed table, spaces included, for each line between its borders."""
    return [line.strip("┃│\n").split("│" if "│" in line else "┃") for line in table.splitlines() if line[:1] in "┃│"]


@pytest.mark.parametrize("command", [recipes, lambda: tables.print_variants(VARIANTS)])
def test_tables_fit_into_80_columns_and_show_every_name(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    command()
    shown = capsys.readouterr().out
    names = ["imagenet_1536_20", "imagenet2012"] if command is recipes else list(VARIANTS)
    for name in names:
        assert f"│ {name} " in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_text_is_left_aligned_and_numbers_right(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    columns = ("file", "input", "kB", "accuracy", "error", "top-1 %", "hub", "range")
    rows = [
        ("a.tflite", "uint8", "1,234.5", "99.00%", "1.2e-05", "81.37 a", "yes", "99.4 to 99.7 %"),
        ("b.tflite", "float32", "7.0", "8.00%", "-", "7.10 b", "-", "over 94 %"),
    ]
    console.print_table(None, columns, rows)
    _, first, second = rows_of(capsys.readouterr().out)
    right = [first[i].endswith(f"{rows[0][i]} ") and second[i].endswith(f"{rows[1][i]} ") for i in range(8)]
    left = [first[i].startswith(f" {rows[0][i]}") and second[i].startswith(f" {rows[1][i]}") for i in range(8)]
    assert [columns[i] for i in range(8) if not left[i]] == ["kB", "accuracy", "error", "top-1 %"]
    assert all(right[i] for i in range(8) if not left[i])


def test_names_of_numbers_fold_before_a_file_does(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    columns = ("file", "threads", "median ms", "90 % under ms", "start ms", "memory MB", "kB")
    console.print_table("bundle", columns, [("litert/float32.tflite", "1", "0.05", "0.06", "10.2", "105.1", "1,102.3")])
    shown = capsys.readouterr().out
    assert "│ litert/float32.tflite │ " in shown
    assert "│ 1,102.3 │" in shown


def test_a_title_does_not_fold_where_a_narrow_table_ends(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    title = "Evaluated runs/digits on the 360 test images of digits"
    tables.print_evaluation(title, 0.99, 0.05, [{"label": "7", "precision": 1, "recall": 1, "images": 36}], None)
    assert capsys.readouterr().out.splitlines()[0] == title


@pytest.mark.parametrize("size", [74_912, 102_700_000])
def test_the_table_of_a_bundle_shows_every_file_name_at_80_columns(capsys, monkeypatch, size):
    monkeypatch.setenv("COLUMNS", "80")
    measured = {"images": 2000, "agreement": 1.0, "max_difference": 1.2e-05, "accuracy": 1.0}
    paths = ["saved_model/1", *(f"litert/{name}.tflite" for name in get_args(FormatName))]
    artifacts = [{"path": path, "size": size, "input": {"dtype": "float32"}, "validation": measured} for path in paths]
    tables.print_bundle(Path("bundle"), {"artifacts": artifacts, "reference_accuracy": 1.0, "layer_errors": None})
    shown = capsys.readouterr().out
    for path in paths:
        assert f"│ {path} " in shown
    assert f"{size / 1000:,.0f}" in shown.replace("74.9", "75")
    assert max(map(len, shown.splitlines())) <= 80


def test_the_table_of_what_files_hold_fits_into_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    tensor = {"dtype": "float32", "shape": [1, 224, 224, 3], "name": "x", "quantization": None}
    engine = SimpleNamespace(taken={"ADD": 300}, known_by="list", source="the maker's list")
    engines = dict.fromkeys(("XNNPACK", "GPU", "Edge TPU", "Qualcomm", "MediaTek"), engine)
    file = Inspection(102_700_000, (tensor,), (tensor,), {"ADD": 400}, {"ADD": 300}, engines, {}, {}, ())
    found = {f"bundle/litert/{name}.tflite": file for name in get_args(FormatName)}
    tables.print_files(Path("bundle"), found, dict.fromkeys(found))
    *shown, hint = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in row[1:]] for row in rows_of("\n".join(shown))]
    assert cells.count(["102,700.0", "float32 224x224x3", "float32"]) == len(found)
    assert cells.count(["400", *["300"] * len(engines)]) == len(found)
    assert max(map(len, shown)) <= 80
    assert hint.endswith("convmixer inspect bundle/litert/float32.tflite")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (12.4, "12 s"),
        (99, "99 s"),
        (150, "2.5 minutes"),
        (5400, "90.0 minutes"),
        (7200, "2.0 hours"),
        (3600 * 40, "40.0 hours"),
        (86400 * 12.5, "12.5 days"),
        (float("inf"), "forever"),
    ],
)
def test_a_duration_has_the_unit_that_fits(seconds, shown):
    assert console.duration(seconds) == shown


def wait_for(text, capsys, seconds=20):
    shown, until = "", time.monotonic() + seconds
    while text not in shown and time.monotonic() < until:
        time.sleep(0.02)
        shown += capsys.readouterr().err
    return shown


def test_in_a_pipe_progress_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(console, "EVERY", 0.2)
    with console.progress_bar() as progress:
        task = progress.add_task("reading photos", total=50_000, detail="")
        progress.update(task, advance=1, detail="a.png")
        time.sleep(0.05)
        progress.update(task, advance=1_199)
        shown = wait_for("left", capsys)
        progress.update(task, completed=50_000)
        time.sleep(0.3)
        capsys.readouterr()
        time.sleep(0.5)
        assert capsys.readouterr().err == ""  # of what is done there is nothing to say
    assert shown.startswith("reading photos: 1,200 of 50,000, ")
    for part in (" a second", " left", ", a.png\n"):
        assert part in shown
    time.sleep(0.5)
    assert capsys.readouterr().err == ""


def test_a_step_that_takes_long_says_how_long_instead_of_what_is_left(capsys, monkeypatch):
    monkeypatch.setattr(console, "EVERY", 0.2)
    with console.progress_bar() as progress:
        task = progress.add_task("exporting float32", total=3, detail="")
        time.sleep(0.3)
        progress.advance(task)
        progress.update(task, description="exporting int8")
        shown = wait_for("exporting int8: 1 of 3, 1 s so far", capsys)
    first, second, *_ = shown.splitlines()
    assert first == "exporting float32: 0 of 3, 0 s so far"
    assert second.startswith("exporting int8: 1 of 3, ")  # what is left, or how long it took so far
    assert all("left" not in line for line in shown.splitlines() if "so far" in line)


def test_progress_that_is_not_wanted_prints_nothing(capsys, monkeypatch):
    monkeypatch.setattr(console, "EVERY", 0.05)
    with console.progress_bar(visible=False) as progress:
        progress.add_task("reading", total=5, detail="")
        time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_in_a_pipe_waiting_is_a_line_after_some_seconds(capsys, monkeypatch):
    with console.waiting("starting TensorFlow"):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(console, "PATIENCE", 0.1)
    with console.waiting("starting TensorFlow"):
        shown = wait_for("\n", capsys)
    assert shown == "starting TensorFlow: 0 s\n"
