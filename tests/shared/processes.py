"""Run Python and the command line in processes of their own.

Importing TensorFlow takes some 4 seconds of CPU time. A command is therefore forked from a server that has imported it
once and has started none of its threads.
"""

import atexit
import functools
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("tensorflow", "keras", "matplotlib.pyplot", "sklearn.datasets", "keras_convmixer.__main__"),
        *("keras_convmixer.visualization.figures", "keras_convmixer.weights.conversion"),
        *("keras_convmixer.training.trainer", "keras_convmixer.training.runs.run"),
        *("keras_convmixer.training.runs.figures", "keras_convmixer.export.bundle"),
    ]
)
READ_AT_IMPORT = ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "TF_USE_LEGACY_KERAS")
"""Environment variables that packages read when they are imported: other values need a new process."""
IMPORTED_AGAIN = ("huggingface_hub",)
"""Packages that read the environment as well, and are quickly imported anew in a forked process."""
STARTED_WITH = {name: os.environ.get(name) for name in READ_AT_IMPORT}


def run_python(code: str, *arguments, check=True, timeout=None, cwd=None) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own, with the repository's package importable."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=timeout, cwd=cwd)


def run_forked(code: str, *arguments, blocked=(), cwd=None) -> subprocess.CompletedProcess:
    """Run Python code in a forked process in which importing a `blocked` package fails, as if it never had been."""
    return Forked(code, blocked, *map(str, arguments), cwd=cwd, function=_run_code).finished()


def convmixer(*arguments, cwd=None, blocked=(), new=False) -> subprocess.CompletedProcess:
    """Run the command line in a process in which importing a `blocked` module fails.

    The process is a forked one, or one that imports everything itself where a module is blocked or `new` asks for it.
    """
    if not (new or blocked or any(os.environ.get(name) != STARTED_WITH[name] for name in READ_AT_IMPORT)):
        return Forked(*arguments, cwd=cwd).finished()
    code = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    code += "from keras_convmixer.__main__ import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False
    )


class Forked:
    """A function, or the command line, in a process forked from the server; `output()` reads what it writes."""

    def __init__(self, *arguments, cwd=None, environment=None, function=None):
        self._folder = tempfile.TemporaryDirectory(prefix="convmixer_")
        self.arguments = list(arguments) if function else [str(argument) for argument in arguments]
        variables = {**os.environ, **(environment or {})}
        self.process = SERVER.Process(
            target=_in_child,
            args=(function or _command_line, self.arguments, str(cwd or Path.cwd()), variables, self._folder.name),
        )
        self.process.start()

    def output(self, name: str = "stdout") -> str:
        """Return what the process has written to `name`, stdout or stderr, until now."""
        path = Path(self._folder.name, name)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def wait_for(self, words: str, seconds: float = 120) -> None:
        """Wait until the process has written `words` to stderr."""
        until = time.monotonic() + seconds
        while words not in self.output("stderr"):
            assert self.process.is_alive(), self.output("stderr")
            assert time.monotonic() < until, self.output("stderr")
            time.sleep(0.01)

    def finished(self, seconds: float | None = None) -> subprocess.CompletedProcess:
        """Wait for the process to end, as `subprocess.run` does."""
        self.process.join(seconds)
        code = self.process.exitcode
        assert code is not None, f"not done after {seconds} s: {self.output('stderr')}"
        return subprocess.CompletedProcess(self.arguments, code, self.output(), self.output("stderr"))


def _command_line(*arguments):
    from keras_convmixer.__main__ import main

    sys.argv = ["convmixer", *arguments]
    main()


def _run_code(code, blocked, *arguments):
    _forget(blocked)
    sys.modules.update(dict.fromkeys(blocked))
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})


def _forget(packages):
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[name]


def save_time() -> None:
    """Let exports in this process time their files by few runs, and trainings draw 16 predictions instead of 40.

    Of a small export that is a tenth of the time, of a small training a third.
    """
    from keras_convmixer.export.runtime import benchmarking
    from keras_convmixer.training.runs import figures

    benchmarking.QUICK_SECONDS = 0.0
    figures.draw_predictions = functools.partial(figures.draw_predictions, limit=16)


def _in_child(function, arguments, cwd, variables, folder):
    """Call a function in the forked process as if a new process did, but for the imports."""
    gc.freeze()  # what was imported is never garbage; to look through it takes a second each time
    save_time()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    _forget(IMPORTED_AGAIN)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    try:
        function(*arguments)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
