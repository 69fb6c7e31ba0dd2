"""POSIX signals that are handled differently for a while."""

import contextlib
import signal


@contextlib.contextmanager
def handling(number: int, handler):
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
