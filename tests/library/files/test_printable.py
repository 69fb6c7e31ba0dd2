"""Labels, names and paths that hold markup, emoji codes or control characters are shown as they are, everywhere."""

import json
import logging
import subprocess
import sys
import warnings

import pytest
from processes import convmixer

from keras_convmixer.environment import console
from keras_convmixer.files.labels import is_label, read_labels, require_labels, write_labels
from keras_convmixer.files.printable import is_printable, printable
from keras_convmixer.images.folders import report_left_out

EVIL = "[bold]x[/bold] :smile: \x1b]0;title\x07\x1b[2J\r\n\u202eback\u2066 \x9b31m\u2028\udcff$\\frac$"
SHOWN = "[bold]x[/bold] :smile: \\x1b]0;title\\x07\\x1b[2J\\r\\n\\u202eback\\u2066 \\x9b31m\\u2028\\udcff$\\frac$"


def lines_of(text):
    """The lines of what was printed, without the control codes of rich's own that a terminal gets."""
    lines = text.split("\n")
    assert all(map(is_printable, "".join(lines))), text
    return lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, SHOWN),
        ("größer als 3\u00a0px, 猫, 👩\u200d🚀", "größer als 3\u00a0px, 猫, 👩\u200d🚀"),
        ("ab\u200ccd", "ab\u200ccd"),
        ("a\tb\x7f\u00ad\ufeff\U000e0041", "a\\tb\\x7f\\xad\\ufeff\\U000e0041"),
        ("", ""),
    ],
)
def test_what_is_not_seen_is_written_as_python_writes_it(text, shown):
    assert printable(text) == shown


def test_tables_and_lines_show_text_as_it_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    console.print_facts(EVIL, {EVIL: EVIL})
    console.print_table(None, ("label", "share"), [(EVIL, EVIL)])
    console.print_line(EVIL)
    console.report(EVIL)
    report_left_out([EVIL], [EVIL])
    captured = capsys.readouterr()
    title, facts, table, line, *_ = (line for line in lines_of(captured.out) if SHOWN in line)
    assert title.strip() == SHOWN
    assert facts.count(SHOWN) == table.count(SHOWN) == 2
    assert line == SHOWN
    line, left_out, counted, others, rest = lines_of(captured.err)
    assert (line, left_out, others, rest) == (SHOWN, f"convmixer: left out: {SHOWN}", f"convmixer: {SHOWN}", "")
    assert "1 image is damaged" in counted


def test_progress_and_spinner_show_text_as_it_is(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich, stderr is a terminal then
    monkeypatch.setenv("COLUMNS", "400")
    with console.progress_bar() as progress:
        progress.add_task(EVIL, total=2, detail=EVIL)
    with console.waiting(EVIL):
        pass
    console.announce("1", EVIL)
    shown = capsys.readouterr().err
    assert shown.count(SHOWN) >= 4
    for part in ("\x1b]0;", "\x1b[2J", "\x07", "\u202e", "\x9b", "😄"):
        assert part not in shown


def test_json_keeps_text_and_shows_none_of_it(capsys):
    for indent in (None, 2):
        console.print_json({"label": EVIL, "other": "größer"}, indent)
        text = capsys.readouterr().out
        lines_of(text)
        assert "größer" in text
        assert json.loads(text)["label"] == EVIL


def test_tracebacks_warnings_and_logs_show_text_as_it_is(capsys, monkeypatch):
    try:
        raise ValueError(EVIL)
    except ValueError:
        console.report_traceback()
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    console.escape_warnings()
    record = logging.LogRecord("x", logging.WARNING, "x", 1, EVIL, None, None)
    text = warnings.formatwarning(EVIL, UserWarning, "x.py", 1) + logging.lastResort.format(record)
    assert SHOWN in text
    lines_of(text)
    *_, beginning, rest, end = lines_of(capsys.readouterr().err)  # a message of two lines stays two
    assert (f"{beginning}\\n{rest}", end) == (f"ValueError: {SHOWN}", "")


def test_a_path_on_the_command_line_is_shown_as_it_is(tmp_path):
    (tmp_path / "file.tflite").write_bytes(b"nothing")
    evil = EVIL.replace("/", "")
    for arguments in (("predict", evil, "a.png"), ("predict", evil, "a.png", "--verbose"), ("inspect", evil)):
        process = convmixer(*arguments, cwd=tmp_path)
        assert process.returncode == 1
        *_, sentence, end = lines_of(process.stderr)
        assert sentence.startswith(f"convmixer {arguments[0]}: {printable(evil)}")
        assert end == ""


def test_a_terminal_gets_no_codes_of_a_labels(tmp_path):
    code = "import sys; from keras_convmixer.commands.tables import print_predictions\n"
    code += "from keras_convmixer.export.runtime.classifier import Prediction\n"
    code += "print_predictions([('a.png', (Prediction(sys.argv[1], 0.5),))])"
    label = "\x1b]0;title\x07[red]r[/red] :smile:"
    environment = {"FORCE_COLOR": "1", "COLUMNS": "300", "PATH": ""}
    process = subprocess.run([sys.executable, "-c", code, label], capture_output=True, text=True, env=environment)
    assert printable(label) in process.stdout, process.stderr


@pytest.mark.parametrize(
    ("label", "allowed"),
    [("a\x1b[1m b", True), ("über", True), ("a\nb", False), ("a\x85b", False), ("\udcff", False), (" ", False)],
)
def test_a_label_is_one_line_of_text(tmp_path, label, allowed):
    assert is_label(label) == allowed
    if allowed:
        write_labels(tmp_path, ["first", label])
        assert read_labels(tmp_path / "labels.txt") == ("first", label)
        require_labels(tmp_path, [label])
    else:
        with pytest.raises(ValueError, match=r"has the label .*: rename it"):
            require_labels(tmp_path, ["first", label])


def test_labels_in_another_encoding_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "labels.txt").write_bytes("größer\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels\.txt is not UTF-8 text: write the label of each class, one a line"):
        read_labels(tmp_path / "labels.txt")
