"""Which form of a large depthwise convolution is fastest on a GPU, and how whole ConvMixers compare with timm's.

`python benchmarks/gpu.py`, on a machine with one GPU, JAX, PyTorch and timm, and Keras from `make gpu-wheels`; no
TensorFlow, no network. Measured in this order, in bfloat16: the card's matrix peak; one depthwise layer of each model
in each form, forward and with backward; whole models in form "keras" and the two best forms; timm's models in PyTorch.
Each result is written at once to OUT/gpu.json, with the table OUT/gpu.md. The same command continues a run that was cut
off; what fails or does not fit into the time is written with its reason. `--tiny` tries the same on a CPU in seconds.

Processes of their own on JAX and on PyTorch do the work, so that a crash or an endless compilation ends one task only.
Imports the standard library; the processes import keras, jax, numpy; torch, timm.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from on_gpu import report

HERE = Path(__file__).parent
FORMS = (
    *("keras", "banded 4", "banded 2", "banded 8", "banded 1", "transposed 4", "shifted", "pieces"),
    *("transposed 2", "transposed 8", "transposed 1"),
)
CASES = {  # of a depthwise layer and of a model on images of 224 pixels
    "ConvMixer-1536/20": {"dim": 1536, "depth": 20, "kernel_size": 9, "patch_size": 7, "activation": "gelu"},
    "ConvMixer-768/32": {"dim": 768, "depth": 32, "kernel_size": 7, "patch_size": 7, "activation": "relu"},
    "ConvMixer-1024/20": {"dim": 1024, "depth": 20, "kernel_size": 9, "patch_size": 14, "activation": "gelu"},
}
TINY_CASES = {
    "odd": {"dim": 6, "depth": 2, "kernel_size": 3, "patch_size": 2, "activation": "gelu"},
    "even": {"dim": 4, "depth": 2, "kernel_size": 4, "patch_size": 2, "activation": "relu"},
}
FULL = {"cases": CASES, "image": 224, "batches": (64, 256), "dtype": "bfloat16", "matrix": 8192, "classes": 1000}
FULL["modes"] = ("eager", "compiled")
TINY = {"cases": TINY_CASES, "image": 14, "batches": (2, 3), "dtype": "float32", "matrix": 64, "classes": 10}
TINY["modes"] = ("eager",)  # compilation on a CPU takes minutes
LAYERS_END, MODELS_END = 0.5, 0.72  # share of the time after which layers, then models on JAX, are put off
LIMITS = {
    "describe": 60,
    "peak": 60,
    "layer": 45,
    "model": 80,
}  # seconds that a task may take, its compilation included


class Worker:
    """A process that answers tasks; started when asked, and anew after a crash or a time-out."""

    def __init__(self, script: str, environment: dict):
        self.script, self.environment, self.process = script, environment, None

    def ask(self, task: dict, seconds: float, left: float) -> dict:
        """Return the answer, or `{"failed": why}` after a crash, or `seconds`, or the run's last seconds `left`."""
        if self.process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.environment["log"]}
            environment = {**os.environ, **self.environment["variables"]}
            command = [sys.executable, str(HERE / self.script)]
            self.process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
            seconds += 30  # for importing
        seconds = min(seconds, left)
        with contextlib.suppress(BrokenPipeError):
            sent = {key: value for key, value in task.items() if key != "name"}
            self.process.stdin.write(json.dumps(sent).encode() + b"\n")
            self.process.stdin.flush()
        line, ends = b"", time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, ends - time.monotonic())):
                    self.stop()
                    return {"failed": f"stopped after {seconds:.0f} seconds"}
                read = os.read(self.process.stdout.fileno(), 1 << 16)
                if not read:
                    code = self.process.wait()
                    self.stop()
                    return {"failed": f"the process ended with exit code {code}: see gpu.log"}
                line += read
        answer = json.loads(line)
        if "RESOURCE_EXHAUSTED" in answer.get("failed", "") or "OutOfMemory" in answer.get("failed", ""):
            self.stop()  # with all that it still holds
        return answer

    def stop(self) -> None:
        """End the process and what it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def layer_tasks(plan: dict) -> list[dict]:
    """Return the layers' tasks: each form at the smallest batch first."""
    return [
        {
            **{"kind": "layer", "name": name, "form": form, "direction": direction, "batch": batch},
            **{"side": plan["image"] // case["patch_size"], "dim": case["dim"], "kernel_size": case["kernel_size"]},
            "dtype": plan["dtype"],
        }
        for batch in plan["batches"]
        for name, case in plan["cases"].items()
        for direction in ("forward", "forward and backward")
        for form in FORMS
    ]


def model_tasks(plan: dict, forms: dict[str, list[str]]) -> list[dict]:
    """Return the whole models' tasks on JAX; `forms` are those of each model."""
    common = {"batch": plan["batches"][0], "image": plan["image"], "dtype": plan["dtype"], "classes": plan["classes"]}
    return [
        {"kind": "model", "name": name, "form": form, "direction": direction, **common, **case}
        for name, case in plan["cases"].items()
        for direction in ("inference", "training step")
        for form in forms[name]
    ]


def timm_tasks(plan: dict) -> list[dict]:
    """Return timm's tasks: every eager one first, as compilation takes most of the time."""
    common = {"batch": plan["batches"][0], "image": plan["image"], "dtype": plan["dtype"], "classes": plan["classes"]}
    return [
        {"kind": "model", "name": name, "mode": mode, "memory": memory, "direction": direction, **common, **case}
        for mode in plan["modes"]
        for name, case in plan["cases"].items()
        for direction in ("inference", "training step")
        for memory in ("nhwc", "nchw")
    ]


def best_forms(results: list[dict], name: str) -> list[str]:
    """Return form "keras" and the two fastest others for a layer of the smallest batch, forward with backward.

    Transposed forms are left out where their channel-major one was measured: a whole model transposes nothing.
    """
    layers = [r for r in results if r["kind"] == "layer"]
    smallest = min((r["batch"] for r in layers), default=None)
    times = {}
    for direction in ("forward", "forward and backward"):  # the second, where it was measured, counts
        for r in layers:
            same = (r["name"], r["direction"], r["batch"]) == (name, direction, smallest) and "milliseconds" in r
            if same and r["form"] != "keras" and not r["form"].startswith("transposed"):
                times[r["form"]] = (direction == "forward", r["milliseconds"])
    found = sorted(times, key=times.get)[:2]
    return ["keras", *(found or ["banded 4", "banded 2"])]


class Results:
    """What was measured, in OUT/gpu.json; an earlier run's results there are kept and not measured again."""

    def __init__(self, out: Path, plan: dict):
        self.path = out / "gpu.json"
        identity = {"cases": plan["cases"], "image": plan["image"], "dtype": plan["dtype"]}
        self.content = {"machine": {}, "plan": identity, "results": []}
        if self.path.exists():
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if stored["plan"] != identity:
                raise SystemExit(f"{self.path} is of another plan: give another folder by --out, or remove it")
            # What failed or was left out is tried again.
            stored["results"] = [r for r in stored["results"] if "failed" not in r and "left_out" not in r]
            self.content = stored

    def set_machine(self, described: dict) -> None:
        """Record the machine; results of another card are not continued."""
        before = self.content["machine"].get("device", described.get("device"))
        if before != described.get("device"):
            raise SystemExit(
                f"{self.path} is of {before}, this is {described.get('device')}: give another folder by --out"
            )
        self.content["machine"] = described
        self.write()

    def has(self, task: dict, measured: bool = False) -> bool:
        """Return whether a task's result is there, and is a measurement."""
        same = [r for r in self.content["results"] if all(r.get(key) == value for key, value in task.items())]
        return any("milliseconds" in r or not measured for r in same)

    def add(self, task: dict, answer: dict) -> None:
        """Record a task's result and write both files."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.content["results"].append({**task, **answer, "time": now})
        self.write()
        what = " ".join(
            str(task[key]) for key in ("kind", "name", "batch", "form", "mode", "memory", "direction") if key in task
        )
        print(f"{what}: {report.outcome(answer)}", flush=True)

    def write(self) -> None:
        """Write gpu.json and gpu.md, each as a whole or not at all."""
        replace(self.path, json.dumps(self.content, indent=1) + "\n")
        replace(self.path.with_suffix(".md"), report.markdown(self.content))


def replace(path: Path, text: str) -> None:
    """Write a file under another name, then rename it."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def describe_card() -> dict:
    """Return what nvidia-smi says of the card; {} without it."""
    if not shutil.which("nvidia-smi"):
        return {}
    fields = ("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.mem", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip().split(", ")
    return dict(zip(fields, found, strict=False))


def measure(out: Path, minutes: float, plan: dict) -> None:
    """Measure what fits into `minutes`; see the module."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    results = Results(out, plan)
    with (out / "gpu.log").open("ab") as log, tempfile.TemporaryDirectory() as cache:
        variables = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
        jax = Worker("on_gpu/jax_worker.py", {"log": log, "variables": variables})
        pytorch = Worker("on_gpu/pytorch_worker.py", {"log": log, "variables": {}})
        put_off, too_slow = [], set()

        def left():
            return minutes * 60 - (time.monotonic() - started)

        def run(worker, tasks, share):
            for task in tasks:
                kind_of_task = tuple(task.get(key) for key in ("kind", "form", "mode", "direction"))
                if results.has(task):
                    continue
                if left() < min(5, minutes * 6) or (1 - share) * minutes * 60 > left():
                    put_off.append((worker, task))
                    continue
                if kind_of_task in too_slow:  # one time-out is enough, as each costs a minute
                    results.add(task, {"left_out": "the same took too long for another model"})
                    continue
                extra = {}
                if task["kind"] == "layer":  # without the others' reference where that failed
                    extra["compare"] = task["form"] != "keras" and results.has({**task, "form": "keras"}, measured=True)
                whole = left() > LIMITS[task["kind"]]
                answer = worker.ask({**task, **extra}, LIMITS[task["kind"]], left())
                if whole and answer.get("failed", "").startswith("stopped"):
                    too_slow.add(kind_of_task)
                results.add(task, answer)

        def leave_out(tasks, why):
            for task in tasks:
                if not results.has(task):
                    results.add(task, {"left_out": why})

        try:
            described = jax.ask({"kind": "describe"}, LIMITS["describe"], left())
            if "failed" in described:
                raise SystemExit(f"JAX and Keras do not start here: {described['failed']} ({out / 'gpu.log'})")
            before = {k: v for k, v in results.content["machine"].items() if k == "pytorch"}
            results.set_machine({**before, **described, "python": platform.python_version(), "card": describe_card()})
            run(jax, [{"kind": "peak", "size": plan["matrix"], "dtype": plan["dtype"]}], 1)
            run(jax, layer_tasks(plan), LAYERS_END)
            forms = {name: best_forms(results.content["results"], name) for name in plan["cases"]}
            run(jax, model_tasks(plan, forms), MODELS_END)
            jax.stop()  # its memory is PyTorch's now
            remaining = [task for task in timm_tasks(plan) if not results.has(task)]
            timm = pytorch.ask({"kind": "describe"}, LIMITS["describe"], left()) if remaining and left() > 5 else {}
            if "failed" in timm:
                leave_out(remaining, f"PyTorch and timm do not start here: {timm['failed']}")
            else:
                if timm:
                    results.set_machine({**results.content["machine"], "pytorch": timm})
                run(pytorch, remaining, 1)
            pytorch.stop()
            late, put_off = put_off, []
            # What was put off, in the time that is left: the worker of one side at a time.
            for worker in (jax, pytorch):
                run(worker, [task for w, task in late if w is worker], 1)
                worker.stop()
            leave_out([task for _, task in put_off], f"did not fit into {minutes:g} minutes")
        finally:
            jax.stop()
            pytorch.stop()
    print(f"{results.path}, {results.path.with_suffix('.md')}: {time.monotonic() - started:.0f} seconds")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8, help="stop in this time (default 8)")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of gpu.json, gpu.md and gpu.log")
    parser.add_argument("--tiny", action="store_true", help="a dry run: tiny float32 sizes, on a CPU too")
    given = parser.parse_args(arguments)
    if not given.minutes > 0:
        parser.error(f"--minutes {given.minutes:g}: give a number above 0")
    measure(given.out, given.minutes, TINY if given.tiny else FULL)


if __name__ == "__main__":
    main()
