"""Write to the terminal: results to stdout, progress and messages to stderr.

No other file prints. All text is made printable here, so that control characters in a label or a path have no effect.
In the order of the file:

- results: `print_facts`, `print_table`, `print_json`, `print_line`, and `duration` for their cells;
- messages: `report`, `report_traceback`, `announce`;
- long work: `progress_bar` if its steps are counted, `waiting` if not. A terminal shows a bar or a spinner; a pipe or a
  file gets a line now and then;
- settings of the process: `escape_warnings`, `silence_native_logs`.
"""

import contextlib
import functools
import json
import logging
import os
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..files.printable import is_printable, printable

SHORT = 16
"""Longest text cell of a table, in characters, that is never wrapped; longer ones are, if the terminal is narrow."""
_NUMBER = re.compile(r"[-+]?[\d,.]+(e[-+]?\d+)?( ?\S)?")
"""Cells of a numeric column: a number, and perhaps a unit or the mark of a footnote of one character."""
PATIENCE, EVERY = 3.0, 10.0
"""Seconds before the first line about waiting in a pipe or a file, and between two such lines."""
SPEED_PERIOD = 300.0
"""Seconds over which speed is averaged to estimate the remaining time. rich's own 30 are fewer than some steps take."""


def print_facts(title: str, facts: dict) -> None:
    """Print names and values on stdout."""
    print_table(title, None, [(name, str(value)) for name, value in facts.items()])


def print_table(title: str | None, columns: tuple[str, ...] | None, rows: list[tuple[str, ...]]) -> None:
    """Print rows on stdout, under the names of `columns` if given: numbers right-aligned, text left-aligned."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160  # a file or a pipe has none of its own
    if title is not None:  # the table's own title would wrap at the width of the table
        console.print(Text(printable(title), style="bold"))
    table = Table(show_header=columns is not None)
    names = columns or ("",) * len(rows[0])
    narrow = sum(max(map(len, column)) + 3 for column in zip(names, *rows, strict=True)) >= console.width
    for index, name in enumerate(names):
        cells = [row[index] for row in rows]
        numeric = columns is not None and _is_numeric(cells)
        table.add_column(
            # In a narrow terminal, the names of numeric columns and long text wrap; numbers and short text stay whole.
            name.replace(" ", "\n") if numeric and narrow else name,
            justify="right" if numeric else "left",
            overflow="ellipsis" if numeric else "fold",
            no_wrap=numeric or max(map(len, cells)) <= SHORT,
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # a path may hold brackets, or :codes: of emoji
    console.print(table)


def _is_numeric(cells: list[str]) -> bool:
    """Tell whether a column holds numbers; "" and "-" stand for a missing one."""
    given = [cell for cell in cells if cell not in ("", "-")]
    return bool(given) and all(map(_NUMBER.fullmatch, given))


def print_json(content: object, indent: int | None = 2) -> None:
    """Print JSON on stdout, on one line with `indent=None`; invisible characters are escaped as JSON does."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    print("".join(c if c == "\n" or is_printable(c) else json.dumps(c)[1:-1] for c in text))


def print_line(text: str) -> None:
    """Print a line on stdout, with control characters escaped."""
    print(printable(text))


def duration(seconds: float) -> str:
    """Return a duration in a fitting unit: "12 s", "3.4 minutes", "5.2 hours", "6.3 days"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    for unit, length, most in (("minutes", 60, 100), ("hours", 3600, 48), ("days", 86400, float("inf"))):
        if seconds < most * length:
            return f"{seconds / length:,.1f} {unit}"
    return "forever"


def report(text: str) -> None:
    """Print a line on stderr, with control characters escaped."""
    print(printable(text), file=sys.stderr)


def report_traceback() -> None:
    """Print the traceback of the current exception on stderr, with control characters escaped."""
    for line in traceback.format_exc().rstrip("\n").split("\n"):
        report(line)


def announce(step: str, command: str) -> None:
    """Print on stderr which step begins, and the command that does this step alone."""
    line = Text.assemble("\n", (step, "bold"), "   ", (printable(f"$ {command}"), "dim"))
    Console(stderr=True).print(line, soft_wrap=True)


class _PlainColumn(TextColumn):
    """A text column of a progress bar, without markup and emoji codes, and with control characters escaped."""

    def render(self, task):
        return Text(printable(self.text_format.format(task=task)))


class _LinesInsteadOfBar(Progress):
    """Progress for a pipe or a file, where a bar cannot move: a line for each unfinished task every 10 s."""

    def start(self) -> None:
        self._last: dict[int, tuple[str, float]] = {}  # what each task's last line was about, and how far it was
        self._lines = contextlib.ExitStack()
        self._lines.enter_context(_repeatedly(self._report, EVERY))

    def stop(self) -> None:
        self._lines.close()

    def _report(self) -> None:
        for task in self.tasks:
            if not task.finished:
                now = task.description, task.completed
                report(_progress_line(task, moved=self._last.get(task.id, (task.description, 0)) != now))
                self._last[task.id] = now


def _progress_line(task: Task, moved: bool) -> str:
    """Return what is known of a task: "reading photos: 1,200 of 50,000, 310 a second, 2.6 minutes left".

    Without a step since the last line it is "exporting int8: 4 of 5, 34 s so far": what is left cannot be told then.
    """
    line = task.description
    if task.total is not None:
        line += f": {task.completed:,.0f} of {task.total:,.0f}"
    if moved and task.speed and task.speed >= 1:
        line += f", {task.speed:,.0f} a second"
    left = moved and task.time_remaining
    line += f", {duration(left)} left" if left else f", {duration(task.elapsed or 0)} so far"
    return f"{line}, {task.fields['detail']}" if task.fields["detail"] else line


def progress_bar(visible: bool = True) -> Progress:
    """Return a progress bar on stderr that disappears when it is done; if stderr is not a terminal, it prints lines.

    Each task needs a field `detail`, text that is shown at the end of its line. If not `visible`, it shows nothing.

    Example:
        ```python
        from keras_convmixer.environment.console import progress_bar

        with progress_bar() as progress:
            task = progress.add_task("timing", total=6, detail="")
            progress.update(task, advance=1, detail="int8")
        ```
    """
    console = Console(stderr=True)
    kind = Progress if console.is_terminal or not visible else _LinesInsteadOfBar
    return kind(
        SpinnerColumn(),
        _PlainColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        _PlainColumn("{task.fields[detail]}"),
        console=console,
        transient=True,
        speed_estimate_period=SPEED_PERIOD,
        disable=not (visible and console.is_terminal),
    )


@contextlib.contextmanager
def waiting(for_what: str, visible: bool = True) -> Iterator[None]:
    """Show a spinner on stderr in this context; if stderr is not a terminal, print a line after 3 s and every 10 s."""
    console = Console(stderr=True)
    if not visible:
        yield
    elif console.is_terminal:
        with console.status(Text(printable(for_what))):
            yield
    else:
        started = time.monotonic()
        with _repeatedly(lambda: report(f"{for_what}: {duration(time.monotonic() - started)}"), EVERY, PATIENCE):
            yield


@contextlib.contextmanager
def _repeatedly(action: Callable[[], None], every: float, first: float | None = None) -> Iterator[None]:
    """Call `action` from another thread every `every` seconds in this context, the first time after `first` seconds."""
    ended = threading.Event()

    def run():
        pause = every if first is None else first
        while not ended.wait(pause):
            action()
            pause = every

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def escape_warnings() -> None:
    """Escape control characters in the warnings and log records that Python writes to stderr, in this process."""
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda message, *place: format_warning(printable(str(message)), *place)
    if logging.lastResort:
        logging.lastResort.setFormatter(_PrintableFormatter())


class _PrintableFormatter(logging.Formatter):
    def format(self, record):
        return printable(super().format(record))


@functools.cache  # a second call would take the null device for stderr
def silence_native_logs() -> None:
    """Discard what C++ code writes to stderr (start-up notes, traces of the converter), in this process.

    No environment variable silences TensorFlow 2.21. Python's own stderr still works. The message of a crash in C++ is
    lost too; with --verbose, the commands do not call this.
    """
    python_stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    sys.stderr = open(python_stderr, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115, PTH123
