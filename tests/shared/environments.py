"""Python environments of their own, for packages that must not be in this one."""

import subprocess
import sys
import venv
from pathlib import Path


def create_environment(folder: Path, *packages: str | Path) -> subprocess.CompletedProcess:
    """Create an environment and install packages with this Python's pip; returns pip's process, ended.

    The environment has no pip of its own, and nothing is compiled before it is imported: both would take seconds.
    """
    venv.create(folder, clear=True)
    command = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet", "--no-compile"]
    return subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
