"""Run Python and the command line in processes of their own."""

import subprocess
import sys


def run_python(code: str, *arguments, check=True, timeout=None) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own, with the repository's package importable."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=check, timeout=timeout
    )


def convmixer(*arguments, cwd=None, blocked=()) -> subprocess.CompletedProcess:
    """Run the command line in a process in which importing a `blocked` module fails."""
    code = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    code += "from keras_convmixer.__main__ import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False
    )
