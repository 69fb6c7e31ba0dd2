"""How the GPU benchmark's processes take tasks and time them; imports the standard library only."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time

SECONDS = float(os.environ.get("GPU_BENCHMARK_SECONDS", "0.25"))  # that one task is timed for
REPEATS = 5


def answer_tasks(functions: dict) -> None:
    """Run a function for each line `{"kind": name, ...arguments}` of stdin; answer with a line of JSON on stdout.

    An exception is answered as `{"failed": its sentence}`. What else writes to stdout is sent to stderr.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        try:
            answer = functions[task.pop("kind")](**task)
        except Exception as error:  # whatever fails is recorded, and the next task is tried
            lines = [text.strip() for text in str(error).splitlines() if text.strip()] or ["no message"]
            answer = {"failed": f"{type(error).__name__}: {lines[0][:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


def median_seconds(run, wait) -> float:
    """Time `run`, whose work is asynchronous; `wait(result)` ends when its work has.

    Runs are queued one behind the other and waited for once, so that starting them is hidden behind the device's work;
    the median of REPEATS such rounds, after one that warms up.
    """
    wait(run())
    started = time.perf_counter()
    wait(run())
    once = max(time.perf_counter() - started, 1e-5)
    count = max(1, min(200, int(SECONDS / REPEATS / once)))
    rounds = []
    for _ in range(REPEATS if once < 0.5 else 2):  # what takes seconds varies little
        started = time.perf_counter()
        for _ in range(count):
            result = run()
        wait(result)
        rounds.append((time.perf_counter() - started) / count)
    return statistics.median(rounds)


def read_clocks(run_and_wait) -> dict:
    """Read the card's clocks (MHz), power (W) and temperature while it works; {} without nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return {}
    fields = {"clocks.sm": "sm_mhz", "clocks.mem": "memory_mhz", "power.draw": "watts", "temperature.gpu": "celsius"}
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"]
    query = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    ends = time.monotonic() + 5
    while query.poll() is None and time.monotonic() < ends:
        run_and_wait()
    if query.poll() is None:
        query.kill()
    texts = query.communicate()[0].strip().split(", ")
    try:
        return dict(zip(fields.values(), map(float, texts), strict=True))
    except ValueError:
        return {}
