"""What a person sees: progress and errors on stderr, results on stdout."""

import functools
import json
import logging
import os
import sys
import traceback
import warnings

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.table import Table
from rich.text import Text

from .files.printable import is_printable, printable


class _PlainColumn(TextColumn):
    """A column of a progress bar that shows text as it is, without markup, emoji codes and control characters."""

    def render(self, task):
        return Text(printable(self.text_format.format(task=task)))


def progress_bar(visible: bool = True) -> Progress:
    """Return a progress bar on stderr that goes away when done; none where stderr is no terminal.

    Its tasks need a field `detail`, which is shown at the end of the line.
    """
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        _PlainColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        _PlainColumn("{task.fields[detail]}"),
        console=console,
        transient=True,
        disable=not (visible and console.is_terminal),
    )


def waiting(for_what: str) -> Status:
    """Return a context that shows a spinner on stderr while something takes seconds."""
    return Console(stderr=True).status(Text(printable(for_what)))


def print_facts(title: str, facts: dict) -> None:
    """Print names and values on stdout."""
    print_table(title, None, [(name, str(value)) for name, value in facts.items()])


def print_table(title: str | None, columns: tuple[str, ...] | None, rows: list[tuple[str, ...]]) -> None:
    """Print rows on stdout; under `columns` the first one left-aligned, and the others, numbers, right-aligned."""
    heading = None if title is None else Text(printable(title), style="bold")
    table = Table(title=heading, title_justify="left", show_header=columns is not None)
    for index in range(len(rows[0])):
        numeric = columns is not None and index > 0
        justify, overflow = ("right", "ellipsis") if numeric else ("left", "fold")
        name = columns[index] if columns else ""
        # Where it is narrow, names fold and numbers stay whole.
        table.add_column(name, justify=justify, overflow=overflow, no_wrap=numeric)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # a path may hold brackets, or :codes: of emoji
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160  # a file or a pipe has no width
    console.print(table)


def print_json(content: object, indent: int | None = 2) -> None:
    """Print JSON on stdout, on one line with `indent=None`; characters that are not seen are escaped, as JSON can."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    print("".join(c if c == "\n" or is_printable(c) else json.dumps(c)[1:-1] for c in text))


def print_line(text: str) -> None:
    """Print a line on stdout, without control characters."""
    print(printable(text))


def report(text: str) -> None:
    """Print a line on stderr, without control characters."""
    print(printable(text), file=sys.stderr)


def report_traceback() -> None:
    """Print the traceback of the exception that is being handled, without control characters."""
    for line in traceback.format_exc().rstrip("\n").split("\n"):
        report(line)


def escape_warnings() -> None:
    """Let Python's warnings, and log records that nobody handles, show without control characters in this process."""
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda message, *place: format_warning(printable(str(message)), *place)
    if logging.lastResort:
        logging.lastResort.setFormatter(_PrintableFormatter())


class _PrintableFormatter(logging.Formatter):
    def format(self, record):
        return printable(super().format(record))


def announce(step: str, command: str) -> None:
    """Say on stderr which step begins, and with which command a person does it alone."""
    line = Text.assemble("\n", (step, "bold"), "   ", (printable(f"$ {command}"), "dim"))
    Console(stderr=True).print(line, soft_wrap=True)


@functools.cache  # a second call would find the null device
def silence_native_logs() -> None:
    """Keep what C++ writes to stderr (start-up notes, converter traces) off the screen for this process.

    No environment variable stops TensorFlow 2.21's. Python's own stderr stays. It costs the text of a native
    crash, which `--verbose` brings back.
    """
    python_stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    sys.stderr = open(python_stderr, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115, PTH123
