"""Start workers on this machine, watch them, and start all again from the last checkpoint when one fails."""

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
from typing import ClassVar

from keras_convmixer.console import report

from ..recipes import RECIPES
from ..stop_signals import handling
from .loopback import Loopback, NoNetwork, loopback

HEARTBEAT = "CONVMIXER_HEARTBEAT"
"""The environment variable with the file that a worker touches at each step."""
STOPPED = 75
"""Exit code of a worker that saved a checkpoint and stopped because it was told to: EX_TEMPFAIL, try again."""
INTERRUPTED = 130
"""Exit code of one that saved a checkpoint and stopped because of Ctrl-C, as shells have it."""

FORGIVEN = 3600
"""Seconds after which earlier restarts do not count."""


def touch_heartbeat() -> None:
    """Tell whoever watches this process that it has done a step; without a watcher do nothing."""
    if path := os.environ.get(HEARTBEAT):
        Path(path).touch()


@dataclass
class Launch:
    """Workers that train together on a machine without GPUs, of which one process uses all.

    `arguments` are those of `convmixer`, "train" first.
    """

    arguments: list[str]
    workers: int
    restarts: int = 10
    startup_seconds: float = 1800.0
    """Within which every worker must have done its first step."""
    stall_seconds: float = 600.0
    """After which a worker that does no step counts as stalled."""
    network: bool = False
    """Leave the workers in this machine's network, for data or weights that are on others."""
    _program: ClassVar[tuple] = (sys.executable, "-m", "keras_convmixer")

    def run(self) -> int:
        """Train; return the exit code: 0 done, 75 after SIGTERM, 130 after Ctrl-C, else that of the worker that failed.

        A worker that dies by a signal, stalls or never starts has all of them started again, as workers cannot go on
        without one, up to `restarts` times, which are forgiven when all have run for an hour. So has one that fails
        after it had trained, but not twice in a row. One that refuses to start, as for a wrong argument, ends the
        launch.

        Workers run in a network of their own, see `loopback`, unless `network`, or unless the arguments name what only
        the machine's network has; a warning then says that other machines reach the workers' ports.
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
        """Return the workers' own network, or None and why they are in the machine's, if others reach them there."""
        if self.workers == 1:  # which listens nowhere
            return None, ""
        why = "--network is given" if self.network else needed_network(self.arguments)
        if not why:
            try:
                return context.enter_context(loopback()), ""
            except NoNetwork as error:
                why = str(error)
        return None, why

    def _run(self):
        failed_before, left = False, self.restarts
        while True:
            started = time.monotonic()
            code, problem = self._attempt()
            if problem is None:
                return code
            if self._told_to_stop:
                return self._stopped
            if code > 0 and failed_before:
                return code
            failed_before = code > 0
            if time.monotonic() - started > FORGIVEN:
                left = self.restarts
            then = "starting all again from the last checkpoint" if left else "no restarts are left"
            report(f"convmixer launch: {problem}; {then}")
            if not left:
                return 1
            left -= 1

    def _stop(self, number, frame):
        """Note that the workers are to stop; `_watch` tells them, those too that are being started now.

        A terminal's Ctrl-C reaches the workers themselves as well; a second one ends all at once.
        """
        if number == signal.SIGINT and self._stopped == INTERRUPTED:
            raise KeyboardInterrupt
        self._told_to_stop = True
        self._stopped = INTERRUPTED if number == signal.SIGINT else self._stopped

    def _attempt(self):
        """Run the workers once; return an exit code, and what went wrong if they are to be started again."""
        with tempfile.TemporaryDirectory() as folder:
            beats = [Path(folder) / f"{worker}.beat" for worker in range(self.workers)]
            ports = _free_ports(self.workers)
            addresses = [f"localhost:{port}" for port in ports]
            self._warn(ports)
            self._errors = [Path(folder) / f"{worker}.errors" for worker in range(self.workers)]
            self._processes = [self._start(worker, addresses, beats[worker]) for worker in range(self.workers)]
            try:
                return self._watch(beats)
            finally:
                for process in self._processes:
                    process.kill()
                    process.wait()

    def _warn(self, ports):
        """Say, the first time, that other machines reach the workers."""
        if self._reachable:
            report(
                "convmixer launch: other machines can reach the workers, which ask for no password, at ports "
                f"{', '.join(map(str, ports))}, as {self._reachable}: close these to them in the firewall; a restart "
                "takes others"
            )
            self._reachable = ""

    def _start(self, worker, addresses, heartbeat):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config), HEARTBEAT: str(heartbeat)}
        command = [*self._program, *self.arguments]
        run = self._loopback.inside(command) if self._loopback else {"args": command}
        if worker == 0:
            return subprocess.Popen(**run, env=environment)
        with self._errors[worker].open("w") as errors:
            return subprocess.Popen(**run, env=environment, stdout=subprocess.DEVNULL, stderr=errors)

    def _watch(self, beats):
        started = time.time()
        while True:
            codes = [process.poll() for process in self._processes]
            if all(code == 0 for code in codes):
                return 0, None
            if self._told_to_stop:
                for process, code in zip(self._processes, codes, strict=True):
                    if code is None:
                        process.send_signal(signal.SIGTERM)
                if all(code is not None for code in codes):
                    asked = {STOPPED, INTERRUPTED, -signal.SIGTERM, -signal.SIGINT} & set(codes)
                    return self._stopped if asked else 1, None
            failed = [worker for worker, code in enumerate(codes) if code not in (None, 0)]
            if failed and not self._told_to_stop:
                worker, code = failed[0], codes[failed[0]]
                if code > 0 and not any(beat.exists() for beat in beats):
                    return self._first_refusal(worker), None
                how = f"failed with exit code {code}{self._last_words(worker)}"
                if code < 0:
                    how = f"was killed by {signal.Signals(-code).name}"
                return code, f"worker {worker} {how}"
            for worker, (heartbeat, code) in enumerate(zip(beats, codes, strict=True)):
                late = self._lateness(heartbeat, started)
                if code is None and late:
                    return -signal.SIGKILL, f"worker {worker} {late}"
            time.sleep(2 if self._told_to_stop else 0.2)

    def _first_refusal(self, first):
        """Wait for worker 0, who is told so too, to say what is wrong; return the exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._processes[0].wait(20)
        if words := self._last_words(first):
            report(f"convmixer launch: worker {first} ended{words}")
        return next(code for code in (process.poll() for process in self._processes) if code)

    def _last_words(self, worker):
        """Return what a worker wrote last, after a colon; nothing for worker 0, whose output is seen."""
        if worker == 0:
            return ""
        with contextlib.suppress(OSError):
            said = [line for line in self._errors[worker].read_text(errors="replace").splitlines() if line.strip()]
            said = [line for line in said if line.startswith("convmixer train: ")] or said
            return f": {said[-1].strip()}" if said else ""
        return ""

    def _lateness(self, heartbeat, started):
        if not heartbeat.exists():
            waited = time.time() - started
            return f"did not start within {waited:.0f} s" if waited > self.startup_seconds else None
        silent = time.time() - heartbeat.stat().st_mtime
        return f"has done no step for {silent:.0f} s" if silent > self.stall_seconds else None


def needed_network(arguments: list[str]) -> str:
    """Return what in the arguments of `convmixer` is on other machines, as part of a sentence; else an empty string."""
    remote = [word for word in (*arguments, os.environ.get("TFDS_DATA_DIR", "")) if "://" in word]
    if remote:
        return f"{remote[0]} is on another machine"
    recipe = next((RECIPES[word] for word in arguments if word in RECIPES), None)  # options may stand before it
    weights = recipe.weights if recipe else ""
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
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
