"""Workers of `convmixer launch` are reached by each other and by nothing else, or a warning says who reaches them."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from keras_convmixer.training.launch import Launch, loopback, workers
from keras_convmixer.training.launch.loopback import Loopback, NoNetwork
from keras_convmixer.training.launch.workers import needed_network

LISTEN = """
import json, os, pathlib, socket, sys, time
folder = pathlib.Path(sys.argv[1])
config = json.loads(os.environ["TF_CONFIG"])
mine, other = (int(config["cluster"]["worker"][i].rpartition(":")[2]) for i in (0, 1))
if config["task"]["index"]:
    mine, other = other, mine
with socket.create_server(("0.0.0.0", mine)):
    while True:
        try:
            socket.create_connection(("localhost", other)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    (folder / f"{mine}.port").touch()
    while not (folder / "done").exists():
        time.sleep(0.02)
"""


class Listening(Launch):
    """A launch whose workers listen as TensorFlow's do, and connect to each other."""

    def __init__(self, folder, **arguments):
        super().__init__(["train", "digits"], 2, **arguments)
        self._program = (sys.executable, "-c", LISTEN, str(folder))
        self._folder = folder
        self.reached = []

    def run(self):
        """Run, and count the workers that this process reaches meanwhile."""
        thread = threading.Thread(target=self._probe)
        thread.start()
        try:
            return super().run()
        finally:
            thread.join()

    def _probe(self):
        until = time.monotonic() + 30
        while len(ports := [int(path.stem) for path in self._folder.glob("*.port")]) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        for port in ports:
            with socket.socket() as probe:
                self.reached.append(probe.connect_ex(("127.0.0.1", port)) == 0)
        (self._folder / "done").touch()


@pytest.fixture
def network():
    try:
        with loopback.loopback() as made:
            yield made
    except NoNetwork as error:
        pytest.skip(str(error))


def test_a_network_has_loopback_alone_and_users_stay_who_they_are(network, tmp_path):
    (tmp_path / "mine").touch()
    code = "import os, socket, sys; print(os.geteuid(), os.stat(sys.argv[1]).st_uid, socket.if_nameindex())"
    command = [sys.executable, "-c", code, str(tmp_path / "mine")]
    inside = subprocess.run(**network.inside(command), capture_output=True, text=True, check=True).stdout
    assert inside == f"{os.geteuid()} {os.geteuid()} [(1, 'lo')]\n"
    open_files = len([*Path("/proc/self/fd").iterdir()])
    with loopback.loopback():
        pass
    assert len([*Path("/proc/self/fd").iterdir()]) == open_files


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="gives a right up, which needs root")
def test_without_the_right_to_make_networks_a_user_namespace_has_one(network):
    code = "import os, socket, subprocess, sys\nfrom keras_convmixer.training.launch.loopback import loopback\n"
    code += "with loopback() as network:\n"
    code += "    assert len(network.namespaces) == 2\n"
    code += "    subprocess.run(**network.inside(['cat', '/proc/self/uid_map']), check=True)\n"
    command = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True)
    if "NoNetwork" in process.stderr:
        pytest.skip(process.stderr.splitlines()[-1])
    first, same, _ = process.stdout.split()  # data that belongs to others is still theirs
    assert first == same == "0", process.stderr


def test_nothing_else_reaches_the_workers(network, tmp_path, capfd):
    launch = Listening(tmp_path)
    assert launch.run() == 0
    assert launch.reached == [False, False]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("why", ["no network", "asked for", "remote data"])
def test_where_others_reach_them_a_warning_names_the_ports(tmp_path, capfd, monkeypatch, why):
    launch = Listening(tmp_path, network=why == "asked for")
    if why == "no network":
        monkeypatch.setattr(loopback.sys, "platform", "darwin")
    elif why == "remote data":
        launch.arguments = ["train", "digits", "--data-dir", "gs://a/b"]
    assert launch.run() == 0
    assert launch.reached == [True, True]
    (warning,) = capfd.readouterr().err.splitlines()
    ports = sorted(path.stem for path in tmp_path.glob("*.port"))
    assert sorted(re.search(r"at ports (\d+), (\d+), as", warning).groups()) == ports
    reasons = {"no network": "only Linux", "asked for": "--network is given", "remote data": "gs://a/b is on another"}
    assert reasons[why] in warning
    assert "close these to them in the firewall" in warning


def test_one_worker_listens_nowhere(tmp_path, capfd):
    launch = Listening(tmp_path, network=True)
    launch.workers, launch._program = 1, (sys.executable, "-c", "")
    (tmp_path / "1.port").touch()
    (tmp_path / "2.port").touch()
    assert launch.run() == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("broken", ["_keep_ids", "enter", "maker"])
def test_what_a_system_forbids_is_said(monkeypatch, tmp_path, broken):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    if broken == "maker":
        (tmp_path / "maker.py").write_text("raise SystemExit")
        monkeypatch.setattr(loopback, "PYTHON", (sys.executable, str(tmp_path / "maker.py")))
    elif broken == "enter":
        monkeypatch.setattr(Loopback, "inside", lambda *_: {"args": ["false"]})
    else:
        text = "import socket, sys; s = socket.socket(fileno=int(sys.argv[2])); s.send(b'user'); s.recv(100)"
        (tmp_path / "maker.py").write_text(text)
        monkeypatch.setattr(loopback, "PYTHON", (sys.executable, str(tmp_path / "maker.py")))
        monkeypatch.setattr(loopback, "_keep_ids", refuse)
    with pytest.raises(NoNetwork, match="this system"), loopback.loopback():
        pass


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("digits", ""),
        ("digits --dataset /data/cats --runs runs", ""),
        ("cifar10 --data-dir s3://a", "s3://a is on another machine"),
        ("cifar10 --data-dir=gs://a", "gs://a is on another machine"),
        ("finetune --dataset cats", "published weights"),
        ("finetune --dataset cats --weights mine.keras", ""),
        ("finetune --dataset cats --weights=mine.keras", ""),
        ("digits --weights imagenet", "published weights"),
        ("digits --look-up-country", "asks where this machine is"),
        ("digits --weights", ""),
        ("--runs mine finetune --dataset cats", "published weights"),
        ("", ""),
    ],
)
def test_what_needs_the_network_is_known_from_the_arguments(words, needed, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    found = needed_network(["train", *words.split()])
    assert needed in found
    assert bool(needed) == bool(found)
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://b/c")
    assert needed_network(["train", *words.split()]) == (found if "://" in found else "gs://b/c is on another machine")


def test_the_command_takes_the_word(monkeypatch):
    from keras_convmixer.commands import training

    given = []
    monkeypatch.setattr(workers.Launch, "run", lambda launch: given.append(launch) or 0)
    for network in (False, True):
        with pytest.raises(SystemExit):
            training.launch("digits --epochs 3", network=network)
    assert [launch.network for launch in given] == [False, True]
    assert json.dumps(given[0].arguments) == '["train", "digits", "--epochs", "3"]'
