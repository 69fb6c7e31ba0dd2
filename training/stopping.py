"""How training ends before its last epoch: the exceptions, a worker's exit codes, and the signals that ask for it."""

import contextlib
import signal
from collections.abc import Callable, Iterator

STOPPED = 75
"""Exit code of a worker that saved a checkpoint and stopped on SIGTERM: EX_TEMPFAIL of sysexits.h, try again."""
INTERRUPTED = 130
"""Exit code of a worker that saved a checkpoint and stopped on Ctrl-C: 128 + SIGINT, as in shells."""


class Diverged(FloatingPointError):
    """The loss became NaN or infinite, or grew far beyond its starting value."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem


class Stopped(RuntimeError):
    """Training was asked to stop, saved a checkpoint and can be resumed."""

    def __init__(self, sentence: str, interrupted: bool):
        super().__init__(sentence)
        self.exit_code = INTERRUPTED if interrupted else STOPPED


@contextlib.contextmanager
def handling(number: int, handler: Callable | signal.Handlers) -> Iterator[None]:
    """Handle a signal by `handler`, a function or signal.SIG_DFL; outside the main thread this has no effect."""
    try:
        former = signal.signal(number, handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(number, former)
