"""Which devices train: chosen by what is there, the same code for all."""

from __future__ import annotations

import json
import os
import socket
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import tensorflow as tf

from .recipe import Recipe

Name = Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]
SLURM = "SLURM_STEP_NUM_TASKS"
COLLECTIVE_TIMEOUT = 600
"""Seconds after which a worker gives up on another that is alive and does not answer; TensorFlow's default is never."""

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
    def count(self) -> int:
        """Replicas of the whole cluster."""
        return self.strategy.num_replicas_in_sync

    @property
    def here(self) -> int:
        """Replicas of this worker."""
        return self.count // self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the run's files."""
        return self.worker == 0

    @cached_property
    def workers_here(self) -> int:
        """How many of the workers are on this host, as which share a counter of energy."""
        place = zlib.crc32(socket.gethostname().encode()) % HOSTS
        hosts = [0.0] * HOSTS
        hosts[place] = 1.0
        return round(self.total(hosts)[place])

    def total(self, values: list[float]) -> list[float]:
        """Return the sums of numbers of every worker, who all call this; float64."""
        if self.workers == 1:
            return values
        return [float(value) for value in self._summed(tf.constant(values, tf.float64) / self.here)]

    def differs(self, number: int) -> bool:
        """Tell whether a whole number of under 2**32 is not the same on every worker."""
        return abs(self.total([float(number)])[0] - number * self.workers) > 0.5

    @cached_property
    def _summed(self):
        @tf.function(reduce_retracing=True)
        def summed(numbers):
            def of_replica():
                here = tf.identity(numbers)  # on the replica's device, without which they cannot be summed
                return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

            return self.strategy.experimental_local_results(self.strategy.run(of_replica))[0]

        return summed

    def require_divisible(self, recipe: Recipe) -> None:
        """Raise ValueError where a batch cannot be divided among the replicas, or not so that it can be mixed."""
        parts = self.count * recipe.accumulation
        if recipe.batch_size % parts:
            of_each = f" in {recipe.accumulation} parts" if recipe.accumulation > 1 else ""
            raise ValueError(
                f"batch_size={recipe.batch_size} cannot be divided among {self.count} replicas{of_each}: give a "
                f"multiple of {parts}, as {max(1, round(recipe.batch_size / parts)) * parts}"
            )
        if (recipe.mixup or recipe.cutmix) and recipe.batch_size // parts % 2:
            raise ValueError(
                f"batch_size={recipe.batch_size} is {recipe.batch_size // parts} images at once on each of "
                f"{self.count} replicas, and mixup and cutmix need pairs: give a multiple of {2 * parts}"
            )

    def described(self, batch_size: int) -> str:
        """Say in a line what trains, and on how many images each."""
        devices = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = "TPU core" if self.name == "tpu" else devices
        places = f"{self.workers} workers, " if self.workers > 1 else ""
        plural = "s" * (self.count > 1)
        share = batch_size // self.count
        return f"{self.name}: {places}{self.count} {devices}{plural}, {share} of {batch_size} images each a step"


def choose(name: Name = "auto") -> Replicas:
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
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
        return Replicas(strategy, name, worker, workers)
    if name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        return Replicas(tf.distribute.TPUStrategy(resolver), name)
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        # Without GPUs, as in tests, NCCL is not there, and the default is a single process's ring.
        reduction = None if devices[0].device_type == "GPU" else tf.distribute.HierarchicalCopyAllReduce()
        names = [device.name for device in devices]
        return Replicas(tf.distribute.MirroredStrategy(names, cross_device_ops=reduction), name)
    return Replicas(tf.distribute.get_strategy(), name)


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
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"TF_CONFIG cannot be read ({error}): {remedy}") from None
    if not chiefs and len(workers) < 2:
        return None
    addresses = [*chiefs, *workers]
    place = index + (len(chiefs) if kind == "worker" else 0)
    if kind not in ("chief", "worker") or not 0 <= place < len(addresses):
        raise ValueError(f"TF_CONFIG names {kind} {index} among {', '.join(addresses)}, which there is not: {remedy}")
    return tf.distribute.cluster_resolver.TFConfigClusterResolver(), len(addresses), place
