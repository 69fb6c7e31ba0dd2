"""Which devices train: chosen by what is there, the same code for all."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import tensorflow as tf

from keras_convmixer.console import report

from .stop_signals import handling

StrategyName = Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]
SLURM = "SLURM_STEP_NUM_TASKS"
COLLECTIVE_TIMEOUT = 600
"""Seconds after which a worker gives up on another that is alive and does not answer; TensorFlow's default is never."""

LOST = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError
"""What TensorFlow raises where another worker is gone."""
HOSTS = 1021
"""Numbers by which hosts are told apart."""


@dataclass(frozen=True)
class Replicas:
    """A strategy with its place in the cluster."""

    strategy: tf.distribute.Strategy
    name: str
    worker: int = 0
    workers: int = 1

    @property
    def num_replicas(self) -> int:
        """Replicas of the whole cluster."""
        return self.strategy.num_replicas_in_sync

    @property
    def local_replicas(self) -> int:
        """Replicas of this worker."""
        return self.num_replicas // self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the run's files."""
        return self.worker == 0

    @cached_property
    def local_workers(self) -> int:
        """How many of the workers are on this host, as which share a counter of energy."""
        place = zlib.crc32(socket.gethostname().encode()) % HOSTS
        hosts = [0.0] * HOSTS
        hosts[place] = 1.0
        return round(self.all_reduce_sum(hosts)[place])

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        """Return the sums of numbers of every worker, who all call this; float64."""
        if self.workers == 1:
            return values
        return [float(value) for value in self._summed(tf.constant(values, tf.float64) / self.local_replicas)]

    def require_same(self, value: object, message: str) -> None:
        """Raise ValueError on every worker where a value's repr() is not the same on all; all call this, and wait."""
        number = zlib.crc32(repr(value).encode())
        chiefs = self.all_reduce_sum([float(number) * self.is_chief])[0]
        if self.all_reduce_sum([abs(number - chiefs)])[0] > 0.5:
            raise ValueError(message)

    def broadcast_from_chief(self, values: np.ndarray) -> np.ndarray:
        """Return the chief's numbers, float32 of any shape, on every worker; all call this with equal shapes."""
        if self.workers == 1:
            return values
        numbers = tf.constant(values.ravel() * np.float32(self.is_chief), tf.float64)
        return self._summed(numbers / self.local_replicas).numpy().astype(values.dtype).reshape(values.shape)

    @contextlib.contextmanager
    def explaining_lost_workers(self):
        """Say in a sentence what TensorFlow says in pages: that another worker is gone."""
        try:
            yield
        except LOST as error:
            if self.workers == 1:
                raise
            raise RuntimeError(
                "another worker ended or does not answer: see what it says; the same command on all goes on from the "
                "last checkpoint"
            ) from error

    @cached_property
    def _summed(self):
        @tf.function(reduce_retracing=True)
        def summed(numbers):
            def of_replica():
                here = tf.identity(numbers)  # on the replica's device, without which they cannot be summed
                return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

            return self.strategy.experimental_local_results(self.strategy.run(of_replica))[0]

        return summed

    def described(self, batch_size: int) -> str:
        """Say in a line what trains, and on how many images each."""
        devices = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = "TPU core" if self.name == "tpu" else devices
        places = f"{self.workers} workers, " if self.workers > 1 else ""
        plural = "s" * (self.num_replicas > 1)
        share = batch_size // self.num_replicas
        return f"{self.name}: {places}{self.num_replicas} {devices}{plural}, {share} of {batch_size} images each a step"


def choose_strategy(name: StrategyName = "auto") -> Replicas:
    """Make the strategy of this process; to be called before anything else of TensorFlow runs.

    "auto": multi_worker where TF_CONFIG names workers or Slurm runs several tasks, tpu where TPU_NAME is set, mirrored
    where there are several GPUs, else one_device.

    Raises ValueError: TF_CONFIG cannot be read, names no such worker, or is missing for multi_worker.
    """
    cluster = _cluster()
    if name == "auto":
        if cluster:
            name = "multi_worker"
        elif os.environ.get("TPU_NAME"):
            name = "tpu"
        else:
            name = "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "one_device"
    if name == "multi_worker":
        if cluster is None:
            raise ValueError(
                "--strategy multi_worker: set TF_CONFIG, or start with `convmixer launch`, srun or a JobSet; "
                "--strategy auto trains on this machine alone"
            )
        resolver, workers, worker = cluster
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=COLLECTIVE_TIMEOUT)
        with _interruptible():
            report(f"multi_worker: worker {worker} waits for all {workers} to start")
            strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
        return Replicas(strategy, name, worker, workers)
    if name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        return Replicas(tf.distribute.TPUStrategy(resolver), name)
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        # Without GPUs, as in tests, NCCL is not there, the default is a single process's ring, and
        # HierarchicalCopyAllReduce leaves out the last of an odd number of replicas.
        reduction = None if devices[0].device_type == "GPU" else tf.distribute.ReductionToOneDevice()
        names = [device.name for device in devices]
        return Replicas(tf.distribute.MirroredStrategy(names, cross_device_ops=reduction), name)
    return Replicas(tf.distribute.get_strategy(), name)


@contextlib.contextmanager
def _interruptible():
    """Let Ctrl-C end the process while TensorFlow forms a cluster, and SIGTERM after it.

    TensorFlow holds Python's lock all that time, and takes SIGTERM for itself for good.
    """
    try:
        with handling(signal.SIGINT, signal.SIG_DFL):
            yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


def _cluster():
    """Return resolver, number of workers and this one's; None where TF_CONFIG and Slurm name no cluster."""
    if os.environ.get("TF_CONFIG", "").strip():
        return _from_tf_config(os.environ["TF_CONFIG"])
    if int(os.environ.get(SLURM, "1")) > 1:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(jobs={"worker": int(os.environ[SLURM])})
        return resolver, int(os.environ[SLURM]), int(os.environ["SLURM_PROCID"])
    return None


def _from_tf_config(text):
    remedy = 'give {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}, or unset it'
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
        index, kind = int(task.get("index", 0)), task.get("type", "worker")
        for addresses in (chiefs, workers):
            if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
                raise TypeError(f"{json.dumps(addresses)} is no list of addresses")
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"TF_CONFIG cannot be read ({error}): {remedy}") from None
    if not chiefs and len(workers) < 2:
        return None
    addresses = [*chiefs, *workers]
    place = index + (len(chiefs) if kind == "worker" else 0)
    if kind not in ("chief", "worker") or not 0 <= place < len(addresses):
        raise ValueError(f"TF_CONFIG names {kind} {index} among {', '.join(addresses)}, which there is not: {remedy}")
    return tf.distribute.cluster_resolver.TFConfigClusterResolver(), len(addresses), place
