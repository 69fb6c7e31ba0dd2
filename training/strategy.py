"""The devices that train: one CPU or GPU, the GPUs of a machine, several machines, or a TPU."""

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

from keras_convmixer.environment.console import report

from .stop_signals import handling

StrategyName = Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]
SLURM = "SLURM_STEP_NUM_TASKS"
COLLECTIVE_TIMEOUT = 600
"""Seconds after which a worker gives up on another one that does not answer; by default TensorFlow waits forever."""

LOST = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError
"""Errors that TensorFlow raises when another worker is gone."""
HOSTS = 1021
"""Buckets that host names are hashed into; two hosts in one bucket would only share their energy wrongly."""


@dataclass(frozen=True)
class Replicas:
    """A TensorFlow strategy, and this process's place among the workers."""

    strategy: tf.distribute.Strategy
    name: str
    worker: int = 0
    workers: int = 1

    @property
    def num_replicas(self) -> int:
        """Number of replicas, over all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def local_replicas(self) -> int:
        """Number of this worker's replicas."""
        return self.num_replicas // self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the run's files."""
        return self.worker == 0

    @cached_property
    def local_workers(self) -> int:
        """Number of workers on this host; they share one energy counter. All workers call this."""
        place = zlib.crc32(socket.gethostname().encode()) % HOSTS
        hosts = [0.0] * HOSTS
        hosts[place] = 1.0
        return round(self.all_reduce_sum(hosts)[place])

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        """Return the sums over all workers, element by element, in float64. All workers call this."""
        if self.workers == 1:
            return values
        return [float(value) for value in self._all_reduce(tf.constant(values, tf.float64) / self.local_replicas)]

    def require_same(self, value: object, message: str) -> None:
        """Raise ValueError on every worker if repr(value) differs on any. All workers call this, and wait for all."""
        checksum = zlib.crc32(repr(value).encode())  # below 2**32: exact in float64
        of_chief = self.all_reduce_sum([float(checksum) * self.is_chief])[0]
        if self.all_reduce_sum([abs(checksum - of_chief)])[0] > 0.5:
            raise ValueError(message)

    def broadcast_from_chief(self, values: np.ndarray) -> np.ndarray:
        """Return the chief's array, of float32 values, on every worker. All workers call this, with equal shapes."""
        if self.workers == 1:
            return values
        # The sum of the chief's values and of the others' zeros; float64 has room for every float32.
        numbers = tf.constant(values.ravel() * np.float32(self.is_chief), tf.float64)
        return self._all_reduce(numbers / self.local_replicas).numpy().astype(values.dtype).reshape(values.shape)

    @contextlib.contextmanager
    def explaining_lost_workers(self):
        """Turn TensorFlow's long error about a lost worker into one sentence."""
        try:
            yield
        except LOST as error:
            if self.workers == 1:
                raise
            raise RuntimeError(
                "another worker ended or does not answer: read its messages; the same command on all workers "
                "resumes from the last checkpoint"
            ) from error

    @cached_property
    def _all_reduce(self):
        """A function that sums a float64 tensor over all replicas."""

        @tf.function(reduce_retracing=True)
        def all_reduce(numbers):
            def of_replica():
                local = tf.identity(numbers)  # a copy on the replica's device, which the sum needs
                return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, local)

            return self.strategy.experimental_local_results(self.strategy.run(of_replica))[0]

        return all_reduce

    def describe(self, batch_size: int) -> str:
        """Return a line about the devices: "mirrored: 8 GPUs, batches of 640 images, 80 on each"."""
        devices = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = "TPU core" if self.name == "tpu" else devices
        places = f"{self.workers} workers, " if self.workers > 1 else ""
        plural = "s" * (self.num_replicas > 1)
        share = f", {batch_size // self.num_replicas} on each" if self.num_replicas > 1 else ""
        return f"{self.name}: {places}{self.num_replicas} {devices}{plural}, batches of {batch_size} images{share}"


def choose_strategy(name: StrategyName = "auto") -> Replicas:
    """Create the strategy of this process; call it before any other TensorFlow function.

    "auto" is multi_worker if TF_CONFIG names workers or Slurm runs several tasks, tpu if TPU_NAME is set, mirrored if
    there are several GPUs, else one_device.

    Raises:
        ValueError: TF_CONFIG cannot be read, does not name this worker, or is missing for multi_worker.
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
            report(f"multi_worker: worker {worker} waits until all {workers} have started")
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
    """Make Ctrl-C end the process while TensorFlow forms a cluster, and give SIGTERM back to Python afterwards.

    Meanwhile TensorFlow holds Python's global lock, so that no Python handler runs; and it replaces SIGTERM's handler.
    """
    try:
        with handling(signal.SIGINT, signal.SIG_DFL):
            yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


def _cluster():
    """Return the resolver, the number of workers and this worker's number; None if there is no cluster."""
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
                raise TypeError(f"{json.dumps(addresses)} is not a list of addresses")
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"TF_CONFIG cannot be read ({error}): {remedy}") from None
    if not chiefs and len(workers) < 2:
        return None
    addresses = [*chiefs, *workers]
    place = index + (len(chiefs) if kind == "worker" else 0)
    if kind not in ("chief", "worker") or not 0 <= place < len(addresses):
        raise ValueError(f"TF_CONFIG has no {kind} {index} among {', '.join(addresses)}: {remedy}")
    return tf.distribute.cluster_resolver.TFConfigClusterResolver(), len(addresses), place
