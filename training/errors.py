"""Reasons for which training ends before its last epoch."""

from .launch import INTERRUPTED, STOPPED


class Diverged(FloatingPointError):
    """The loss became NaN or infinite, or grew far beyond its starting value."""


class Stopped(RuntimeError):
    """Training was asked to stop, saved a checkpoint and can be resumed."""

    def __init__(self, sentence: str, interrupted: bool):
        super().__init__(sentence)
        self.exit_code = INTERRUPTED if interrupted else STOPPED
