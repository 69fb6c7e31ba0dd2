"""Signals that are handled otherwise for a while."""

import contextlib
import signal


@contextlib.contextmanager
def handling(number: int, handler):
    """Handle a signal by a function, or by signal.SIG_DFL, in the block; outside the main thread leave it as it is."""
    try:
        former = signal.signal(number, handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(number, former)
