"""Workers that are killed, stopped, stalled or never there: `convmixer launch` ends with the same weights."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from keras_convmixer.training import load_run
from keras_convmixer.training.launch import Launch, workers
from keras_convmixer.training.launch.loopback import NoNetwork, loopback

# Minutes so few that the workers' own clocks would ask for checkpoints at different steps.
OPTIONS = (
    "digits",
    "--name",
    "short",
    "--image-size",
    "8",
    "--dim",
    "16",
    "--depth",
    "1",
    "--checkpoint-minutes",
    "0.002",
)
WORKER = """
import os, signal, sys, time
from pathlib import Path
beat, marks = Path(os.environ["CONVMIXER_HEARTBEAT"]), Path(sys.argv[1])
worker = beat.stem
def starts(worker):
    return len((marks / worker).read_text()) if (marks / worker).exists() else 0
first = not starts(worker)
(marks / worker).write_text("x" * (starts(worker) + 1))
while starts(str(1 - int(worker))) < starts(worker):  # else one may end before the other has begun
    time.sleep(0.01)
"""


class Scripted(Launch):
    """A launch whose workers run a script instead of training."""

    def __init__(self, script, folder, **arguments):
        super().__init__([], 2, **arguments)
        self._program = (sys.executable, "-c", WORKER + script, str(folder))


def starts(folder):
    return [len((folder / worker).read_text()) for worker in ("0", "1")]


@pytest.mark.parametrize(
    ("script", "limits", "message"),
    [
        (
            "beat.touch()\nif first and worker == '1': os.kill(os.getpid(), signal.SIGKILL)",
            {},
            "1 was killed by SIGKILL",
        ),
        ("beat.touch()\nif first and worker == '0': sys.exit(1)", {}, "worker 0 failed with exit code 1"),
        # Which of the two is noticed first, is left to chance.
        ("beat.touch()\nif first and worker == '1': time.sleep(60)", {"stall_seconds": 1.5}, " has done no step for"),
        ("if first and worker == '1': time.sleep(60)\nbeat.touch()", {"startup_seconds": 4}, "1 did not start within"),
    ],
)
def test_all_are_started_again(tmp_path, capfd, script, limits, message):
    # Worker 0 lives on, as if it waited for the other.
    launch = Scripted(script + "\nif first and worker == '0': time.sleep(60)", tmp_path, **limits)
    assert launch.run() == 0
    assert starts(tmp_path) == [2, 2]
    errors = capfd.readouterr().err
    assert message in errors
    assert re.search(r"worker \d .*; starting all again from the last checkpoint", errors)


def test_a_worker_that_refuses_to_start_ends_it(tmp_path):
    assert Scripted("sys.exit(2)", tmp_path).run() == 2
    assert starts(tmp_path) == [1, 1]


@pytest.mark.parametrize(("beats", "message"), [("", "worker 1 ended"), ("beat.touch()", "failed with exit code 3")])
def test_what_a_failed_worker_said_last_is_said(tmp_path, capfd, beats, message):
    script = (
        f"{beats}\nif worker == '1': print('convmixer train: no disk', file=sys.stderr); sys.exit(3)\ntime.sleep(0.5)"
    )
    assert Scripted(script, tmp_path).run() == 3
    errors = capfd.readouterr().err
    assert message in errors
    assert ": convmixer train: no disk" in errors


SAVES_AND_STOPS = """
def stop(number, frame):
    (marks / f"saved_{worker}").touch()
    sys.exit(130 if number == signal.SIGINT else 75)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
beat.touch()
(marks / f"ready_{worker}").touch()
time.sleep(60)
"""


def send(number, folder, seconds=0.0):
    """Send this process a signal once both workers are ready, and some seconds later."""

    def wait():
        while len(list(folder.glob("ready_*"))) < 2:
            time.sleep(0.02)
        time.sleep(seconds)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_sigterm_and_ctrl_c_let_all_workers_save(tmp_path, number, code):
    launch = Scripted(SAVES_AND_STOPS, tmp_path)
    send(number, tmp_path)
    assert launch.run() == code
    assert {f"saved_{worker}" for worker in "01"} <= {path.name for path in tmp_path.iterdir()}
    assert starts(tmp_path) == [1, 1]


def test_a_second_ctrl_c_ends_all_at_once(tmp_path):
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nbeat.touch()\n(marks / f'ready_{worker}').touch()\n"
    launch = Scripted(f"{script}time.sleep(60)", tmp_path)
    for seconds in (0, 1):
        send(signal.SIGINT, tmp_path, seconds)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch.run()
    assert time.monotonic() - started < 20


def test_a_failure_after_each_start_ends_it(tmp_path):
    script = "beat.touch()\nif worker == '1': sys.exit(3)\ntime.sleep(60)"
    assert Scripted(script, tmp_path).run() == 3
    assert starts(tmp_path) == [2, 2]


def test_restarts_end(tmp_path, capfd):
    script = "beat.touch()\nif worker == '1': os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)"
    assert Scripted(script, tmp_path, restarts=1).run() == 1
    assert "no restarts are left" in capfd.readouterr().err


def test_restarts_are_forgiven_after_long_work(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "FORGIVEN", 0)
    script = "beat.touch()\nif len((marks / worker).read_text()) < 4: os.kill(os.getpid(), signal.SIGKILL)"
    assert Scripted(script, tmp_path, restarts=1).run() == 0
    assert starts(tmp_path)[0] >= 4


def launched(folder, *options):
    command = [sys.executable, "-m", "keras_convmixer", "launch", "--workers", "2", *OPTIONS, *options]
    return subprocess.Popen([*command, "--runs", str(folder)], stderr=subprocess.PIPE, text=True)


def workers_of(process):
    """Return the workers' process ids, in the order they were started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def assert_only_workers_reach_each_other(process):
    """TensorFlow listens on all addresses of the workers' network, and this process's network has no such port."""
    try:
        with loopback():
            pass
    except NoNetwork:
        return
    worker = Path(f"/proc/{workers_of(process)[0]}")
    (config,) = (line for line in (worker / "environ").read_text().split("\0") if line.startswith("TF_CONFIG="))
    listening = (worker / "net/tcp").read_text() + (worker / "net/tcp6").read_text()
    for address in json.loads(config.partition("=")[2])["cluster"]["worker"]:
        port = int(address.rpartition(":")[2])
        assert f":{port:04X} " in listening
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
def test_two_workers_of_which_one_is_killed_end_with_the_weights_of_two_that_live(tmp_path):
    quiet = launched(tmp_path / "quiet", "--epochs", "2")
    _, errors = quiet.communicate(timeout=300)
    assert quiet.returncode == 0, errors
    assert "multi_worker: 2 workers, 2 CPUs, batches of 64 images, 32 on each" in errors

    process = launched(tmp_path / "killed", "--epochs", "2")
    until = time.monotonic() + 120
    while not any((tmp_path / "killed/short/checkpoints").glob("*.index")):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert_only_workers_reach_each_other(process)
    os.kill(workers_of(process)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "worker 1 was killed by SIGKILL; starting all again from the last checkpoint" in errors
    assert "resuming at step" in errors
    one, other = (load_run(tmp_path / name / "short").model.get_weights() for name in ("quiet", "killed"))
    for before, after in zip(one, other, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_workers_with_different_recipes_all_say_so(tmp_path):
    addresses = [f"localhost:{port}" for port in workers._free_ports(2)]
    processes = []
    for worker, epochs in enumerate(("2", "3")):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
        command = [sys.executable, "-m", "keras_convmixer", "train", *OPTIONS, "--epochs", epochs, "--runs", tmp_path]
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    different = "convmixer train: the workers were started with different recipes: give all the same options"
    assert different in errors[1]
    assert different in errors[0] or "another worker ended" in errors[0]  # a worker may end before 0 has its answer
    assert not (tmp_path / "short").exists()


def test_the_files_for_clusters_close_the_workers_ports():
    import inspect

    import tensorflow as tf
    import yaml

    from keras_convmixer.training import launch

    folder = Path(launch.__file__).parent
    job, policy = yaml.safe_load_all((folder / "jobset.yaml").read_text())
    pods = {"podSelector": {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": job["metadata"]["name"]}}}
    assert policy["spec"] == {**pods, "policyTypes": ["Ingress"], "ingress": [{"from": [pods]}]}
    port = (
        inspect.signature(tf.distribute.cluster_resolver.SlurmClusterResolver.__init__).parameters["port_base"].default
    )
    assert f"at port {port}," in (folder / "slurm.sh").read_text()


def test_the_scripts_for_clusters_are_well_formed(tmp_path):
    from keras_convmixer.training import launch

    folder = Path(launch.__file__).parent
    subprocess.run(["bash", "-n", folder / "slurm.sh"], check=True)
    # What the JobSet runs sets a TF_CONFIG that training reads.
    lines = (
        (folder / "jobset.yaml").read_text().split("args:\n")[1].split("                  ports:")[0].splitlines()[1:]
    )
    script = "\n".join(line.strip() for line in lines).replace("exec convmixer", 'printf %s "$TF_CONFIG"; true')
    environment = {**os.environ, "WORKERS": "3", "JOBSET": "job", "JOB_COMPLETION_INDEX": "2"}
    config = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    from keras_convmixer.training.devices.strategy import _from_tf_config

    resolver, workers, worker = _from_tf_config(config)
    assert (workers, worker) == (3, 2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TF_CONFIG", config)
        assert resolver.cluster_spec().as_dict()["worker"][1] == "job-worker-0-1.job:2222"
