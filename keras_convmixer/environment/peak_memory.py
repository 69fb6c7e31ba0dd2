"""Measure the peak memory of this process."""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    if STATUS.exists():  # Linux, where getrusage would count the peak of the process that started this one too
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, elsewhere kilobytes
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
