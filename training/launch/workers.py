"""Workers on this machine: started, watched, and all started again from the last checkpoint when one fails."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from keras_convmixer.environment.console import report

from ..recipes import RECIPES
from ..stopping import INTERRUPTED, STOPPED, handling
from .loopback import Loopback, NoNetwork, loopback

HEARTBEAT = "CONVMIXER_HEARTBEAT"
"""Environment variable that names the file which a worker touches at each step."""
FORGIVEN = 3600
"""Seconds of training after which earlier restarts are not counted."""


def touch_heartbeat() -> None:
    """Tell the process that watches this one that a step is done; does nothing without a watcher."""
    if path := os.environ.get(HEARTBEAT):
        Path(path).touch()


class Outcome(NamedTuple):
    """End of an attempt."""

    code: int
    """Exit code of the launch, or of the worker that failed: negative if a signal ended it."""
    problem: str = ""
    """Why all workers are to be started again, as part of a sentence; empty if they are not."""


@dataclass
class Launch:
    """Workers that train together on this machine's CPUs. (A single process uses all GPUs of a machine.)"""

    arguments: list[str]
    """Arguments of `convmixer`, "train" first."""
    workers: int
    restarts: int = 10
    startup_seconds: float = 1800.0
    """Seconds in which every worker must have done its first step."""
    stall_seconds: float = 600.0
    """Seconds without a step after which a worker counts as stalled."""
    network: bool = False
    """Leave the workers in this machine's network, for data or weights on other machines."""
    _program: ClassVar[tuple] = (sys.executable, "-m", "keras_convmixer")

    def run(self) -> int:
        """Train; return the exit code: 0 done, 75 after SIGTERM, 130 after Ctrl-C, else that of the worker that failed.

        Workers cannot continue without one of them. When a worker is killed by a signal, stalls or never starts, all
        are started again, up to `restarts` times; when all have run for an hour, earlier restarts are not counted. The
        same when a worker fails after it had trained, but not twice in a row. A worker that refuses to start, for
        example because of a wrong argument, ends the launch.

        Workers run in a network of their own, see `loopback`, unless `network` is set or the arguments name something
        that only the machine's network reaches. A warning then says that other machines can reach the workers' ports.
        """
        self._told_to_stop, self._stopped, self._processes = False, STOPPED, []
        with (
            handling(signal.SIGTERM, self._stop),
            handling(signal.SIGINT, self._stop),
            contextlib.ExitStack() as context,
        ):
            self._loopback, self._reachable = self._network(context)
            return self._run()  # pyright: ignore[reportReturnType]

    def _network(self, context) -> tuple[Loopback | None, str]:
        """Return the workers' own network; or None, and the reason why other machines can reach the workers."""
        if self.workers == 1:  # a single worker opens no port
            return None, ""
        why = "--network is given" if self.network else needed_network(self.arguments)
        if not why:
            try:
                return context.enter_context(loopback()), ""
            except NoNetwork as error:
                why = str(error)
        return None, why

    def _run(self) -> int:
        """Train, and start all again after a failure, up to `restarts` times; return the exit code."""
        failed_before, restarts_left = False, self.restarts
        while True:
            started = time.monotonic()
            outcome = self._attempt()
            if not outcome.problem:
                return outcome.code
            if self._told_to_stop:
                return self._stopped
            failed = outcome.code > 0  # by itself, and not by a signal
            if failed and failed_before:  # twice in a row: the same error would only come again
                return outcome.code
            failed_before = failed
            if time.monotonic() - started > FORGIVEN:
                restarts_left = self.restarts
            then = "starting all again from the last checkpoint" if restarts_left else "no restarts are left"
            report(f"convmixer launch: {outcome.problem}; {then}")
            if not restarts_left:
                return 1
            restarts_left -= 1

    def _stop(self, number, frame):
        """Note that the workers are to stop; `_watch` tells them, including those that are just being started.

        A terminal sends Ctrl-C to the workers as well; a second one ends all at once.
        """
        if number == signal.SIGINT and self._stopped == INTERRUPTED:
            raise KeyboardInterrupt
        self._told_to_stop = True
        self._stopped = INTERRUPTED if number == signal.SIGINT else self._stopped

    def _attempt(self) -> Outcome:
        """Run the workers once."""
        with tempfile.TemporaryDirectory() as folder:
            ports = _free_ports(self.workers)
            addresses = [f"localhost:{port}" for port in ports]
            self._warn(ports)
            self._heartbeats = [Path(folder) / f"{worker}.beat" for worker in range(self.workers)]
            self._errors = [Path(folder) / f"{worker}.errors" for worker in range(self.workers)]
            self._processes = [self._start(worker, addresses) for worker in range(self.workers)]
            try:
                return self._watch()
            finally:
                for process in self._processes:
                    process.kill()
                    process.wait()

    def _warn(self, ports):
        """Warn, the first time, that other machines can reach the workers."""
        if self._reachable:
            report(
                "convmixer launch: other machines can reach the workers, which ask for no password, at ports "
                f"{', '.join(map(str, ports))}, as {self._reachable}: close these to them in the firewall; a restart "
                "takes others"
            )
            self._reachable = ""

    def _start(self, worker, addresses) -> subprocess.Popen:
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config), HEARTBEAT: str(self._heartbeats[worker])}
        command = [*self._program, *self.arguments]
        run = self._loopback.inside(command) if self._loopback else {"args": command}
        if worker == 0:  # the chief's messages are for the user; the others' would repeat them
            return subprocess.Popen(**run, env=environment)
        with self._errors[worker].open("w") as errors:
            return subprocess.Popen(**run, env=environment, stdout=subprocess.DEVNULL, stderr=errors)

    def _watch(self) -> Outcome:
        """Wait until the workers end, or until one fails or stalls."""
        self._started = time.time()
        while True:
            codes = [process.poll() for process in self._processes]  # None: still running
            if all(code == 0 for code in codes):
                return Outcome(0)
            ended = self._stop_running(codes) if self._told_to_stop else self._failure(codes)
            if outcome := ended or self._stall(codes):
                return outcome
            time.sleep(2 if self._told_to_stop else 0.2)

    def _stop_running(self, codes) -> Outcome | None:
        """Send SIGTERM to the workers that still run; when none does, return the outcome."""
        for process, code in zip(self._processes, codes, strict=True):
            if code is None:
                process.send_signal(signal.SIGTERM)
        if None in codes:
            return None
        stopped_as_told = {STOPPED, INTERRUPTED, -signal.SIGTERM, -signal.SIGINT} & set(codes)
        return Outcome(self._stopped if stopped_as_told else 1)

    def _failure(self, codes) -> Outcome | None:
        """Return the outcome if a worker failed."""
        worker = next((worker for worker, code in enumerate(codes) if code), None)
        if worker is None:
            return None
        code = codes[worker]
        if code < 0:
            return Outcome(code, f"worker {worker} was killed by {signal.Signals(-code).name}")
        if not any(heartbeat.exists() for heartbeat in self._heartbeats):  # before any step: starting again is no help
            return Outcome(self._first_refusal(worker))
        return Outcome(code, f"worker {worker} failed with exit code {code}{self._last_words(worker)}")

    def _stall(self, codes) -> Outcome | None:
        """Return the outcome if a worker does not start, or does no step."""
        for worker, (heartbeat, code) in enumerate(zip(self._heartbeats, codes, strict=True)):
            late = self._lateness(heartbeat)
            if code is None and late:
                return Outcome(-signal.SIGKILL, f"worker {worker} {late}")
        return None

    def _first_refusal(self, first):
        """Wait until worker 0, whose output the user sees, has reported the problem too; return the exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._processes[0].wait(20)
        if words := self._last_words(first):
            report(f"convmixer launch: worker {first} ended{words}")
        return next(code for code in (process.poll() for process in self._processes) if code)

    def _last_words(self, worker):
        """Return the last line of a worker's errors, after a colon; empty for worker 0, whose output the user sees."""
        if worker == 0:
            return ""
        with contextlib.suppress(OSError):
            lines = [line for line in self._errors[worker].read_text(errors="replace").splitlines() if line.strip()]
            lines = [line for line in lines if line.startswith("convmixer train: ")] or lines
            return f": {lines[-1].strip()}" if lines else ""
        return ""

    def _lateness(self, heartbeat) -> str | None:
        """Say in words how late a worker is; None where it is not."""
        if not heartbeat.exists():
            waited = time.time() - self._started
            return f"did not start within {waited:.0f} s" if waited > self.startup_seconds else None
        silent = time.time() - heartbeat.stat().st_mtime
        return f"has done no step for {silent:.0f} s" if silent > self.stall_seconds else None


def needed_network(arguments: list[str]) -> str:
    """Say in words why arguments of `convmixer` need the machine's network; empty where they do not."""
    remote = [word for word in (*arguments, os.environ.get("TFDS_DATA_DIR", "")) if "://" in word]
    if remote:
        return f"{remote[0]} is on another machine"
    recipe = next((RECIPES[word] for word in arguments if word in RECIPES), None)  # options may stand before it
    weights = recipe.model.weights if recipe else ""
    for word, after in itertools.pairwise([*arguments, ""]):
        option, _, value = word.partition("=")
        if option == "--weights":
            weights = value or after
    if "--look-up-country" in arguments:
        return "--look-up-country asks where this machine is"
    if weights == "imagenet":
        return "the published weights are fetched from the Hugging Face hub"
    return ""


def _free_ports(count):
    """Return the numbers of ports that were free a moment ago; all are open at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
