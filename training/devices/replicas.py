"""Replicas that train together, and what their workers exchange: sums, the chief's values, agreement."""

from __future__ import annotations

import contextlib
import socket
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensorflow as tf

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
        # Each worker adds 1 to its host's bucket: the sums count the workers of each host.
        place = zlib.crc32(socket.gethostname().encode()) % HOSTS
        hosts = [0.0] * HOSTS
        hosts[place] = 1.0
        return round(self.all_reduce_sum(hosts)[place])

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        """Return the sums over all workers, element by element, in float64. All workers call this."""
        if self.workers == 1:
            return values
        # Every local replica adds the same values, hence the division.
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
        """Function that sums a float64 tensor over all replicas; compiled once, used for all sums."""

        @tf.function(reduce_retracing=True, autograph=False)
        def all_reduce(numbers):
            def of_replica():
                local = tf.identity(numbers)  # a copy on the replica's device, which the sum needs
                return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, local)

            return self.strategy.experimental_local_results(self.strategy.run(of_replica))[0]

        return all_reduce

    def describe(self, batch_size: int) -> str:
        """Return a line about the devices, such as "mirrored: 8 GPUs, batches of 640 images, 80 on each"."""
        devices = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = "TPU core" if self.name == "tpu" else devices
        places = f"{self.workers} workers, " if self.workers > 1 else ""
        plural = "s" * (self.num_replicas > 1)
        share = f", {batch_size // self.num_replicas} on each" if self.num_replicas > 1 else ""
        return f"{self.name}: {places}{self.num_replicas} {devices}{plural}, batches of {batch_size} images{share}"
