"""A private network for the workers on this machine, which no other process or machine can reach.

TensorFlow's workers listen on every address of a machine and obey anyone who connects, without a password. Linux can
give processes a network namespace in which only the loopback device exists. Users other than root can create one within
a user namespace, unless the system's administrator has forbidden that.

Run as a program, this file either makes such a network and passes it to the process that started it, or enters one and
becomes another program. It imports nothing of the package, so that it takes 20 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
"""CLONE_NEWUSER and CLONE_NEWNET of linux/sched.h."""
SET_FLAGS, UP = 0x8914, 0x1
"""SIOCSIFFLAGS of linux/sockios.h, IFF_UP of linux/if.h."""

PYTHON = (sys.executable, "-I", "-S", __file__)
"""The command that runs this file, without the user's settings."""
# A server and a client in the network, run as a program that exits with 0 if it has the expected user.
TRIAL = """
import os, socket, sys
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
    sys.exit(os.geteuid() != int(sys.argv[1]))
"""


class NoNetwork(RuntimeError):
    """This system does not let the workers have a private network; the message is the reason, as part of a sentence."""


@dataclass(frozen=True)
class Loopback:
    """Network with the loopback device alone; it exists while these file descriptors of its namespaces are open."""

    namespaces: tuple[int, ...]

    def inside(self, command: Sequence[str]) -> dict:
        """Return the arguments for subprocess's functions to run a command in the network.

        `preexec_fn` is not used: it makes them fork, which takes long in a large process and may hang in one with
        threads.
        """
        entering = [*PYTHON, "enter", ",".join(map(str, self.namespaces)), *command]
        return {"args": entering, "pass_fds": self.namespaces}


@contextlib.contextmanager
def loopback() -> Iterator[Loopback]:
    """Create a network that exists as long as the context, or a process in it.

    Example:
        ```python
        with loopback() as network:
            subprocess.run(**network.inside(["ip", "address"]))  # 127.0.0.1 and ::1
        ```

    Raises:
        NoNetwork: this system does not allow it.
    """
    if sys.platform != "linux":
        raise NoNetwork("only Linux can give them a network of their own")
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [*PYTHON, "make", str(there.fileno())]
    with subprocess.Popen(command, pass_fds=[there.fileno()], stderr=subprocess.DEVNULL) as maker, here:
        there.close()
        said, namespaces, *_ = socket.recv_fds(here, 100, 2)
        if said == b"user":
            try:
                _keep_ids(maker.pid)
            except OSError as error:
                raise NoNetwork(f"this system lets no user keep its number in one of their own ({error})") from None
            here.send(b"go")
            said, namespaces, *_ = socket.recv_fds(here, 100, 2)
    if not namespaces:
        raise NoNetwork(f"this system gives them no network of their own ({said.decode() or 'no answer'})")
    try:
        network = Loopback(tuple(namespaces))
        _try_out(network)
        yield network
    finally:
        for namespace in namespaces:
            os.close(namespace)


def _try_out(network):
    """Raise NoNetwork if a process in the network cannot connect to itself, or runs as another user."""
    command = [sys.executable, "-I", "-S", "-c", TRIAL, str(os.geteuid())]
    try:
        subprocess.run(**network.inside(command), check=True, stderr=subprocess.DEVNULL)
    except subprocess.SubprocessError:
        raise NoNetwork("this system lets no process use a network of their own") from None


def _keep_ids(process):
    """Map users and groups to themselves in the namespace: all of them if this user may do so, else the user's own.

    A process keeps its groups. Of users other than root, Linux demands that groups can never be changed again
    (setgroups: deny).
    """
    folder = Path("/proc") / str(process)
    for name, own in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
        known = [line.split() for line in Path("/proc/self", name).read_text().splitlines()]
        everyone = "".join(f"{first} {first} {count}\n" for first, _, count in known)
        try:
            (folder / name).write_text(everyone)
        except OSError:
            if name == "gid_map":
                (folder / "setgroups").write_text("deny")
            (folder / name).write_text(f"{own} {own} 1\n")


def _call(name, *numbers):
    """Call a function of the C library; raise OSError if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*numbers):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _make(parent):
    """Move this process into a new network, and send the file descriptors of its namespaces to the parent."""
    kinds = ["net"]
    try:
        _call("unshare", NEW_NETWORK)
    except PermissionError:
        _call("unshare", NEW_NETWORK | NEW_USER)
        kinds = ["user", "net"]  # the order in which they are entered
        parent.send(b"user")
        parent.recv(100)
    with socket.socket() as any_socket:
        # A new network's loopback device is down. The argument is a struct ifreq: 16 bytes of name, then the flags.
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))
    namespaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in kinds]
    socket.send_fds(parent, [b"made"], namespaces)


def _enter(namespaces, command):
    """Move this process, which has a single thread, into the network and become another program."""
    for namespace in namespaces:
        _call("setns", namespace, 0)
        os.close(namespace)
    os.execvp(command[0], command)


if __name__ == "__main__":
    what, numbers, *words = sys.argv[1:]
    if what == "enter":
        _enter(map(int, numbers.split(",")), words)
    with socket.socket(fileno=int(numbers)) as parent:
        try:
            _make(parent)
        except OSError as error:
            parent.send(f"{errno.errorcode.get(error.errno, '')} {error.strerror}".strip().encode())
