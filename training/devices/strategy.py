"""The strategy of this process: one CPU or GPU, the GPUs of a machine, several machines, or a TPU."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import Literal

import tensorflow as tf

from keras_convmixer.environment.console import report

from ..stopping import handling
from .replicas import Replicas

StrategyName = Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]
SLURM = "SLURM_STEP_NUM_TASKS"
"""Environment variable with the number of tasks that srun started together."""
COLLECTIVE_TIMEOUT = 600
"""Seconds after which a worker gives up on another one that does not answer; by default TensorFlow waits forever."""


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
                "multi_worker finds no other workers: set TF_CONFIG, or start with `convmixer launch`, srun or a "
                'JobSet; strategy="auto" trains on this machine alone'
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
    addresses = [*chiefs, *workers]  # TensorFlow numbers the chief before the workers
    place = index + (len(chiefs) if kind == "worker" else 0)
    if kind not in ("chief", "worker") or not 0 <= place < len(addresses):
        raise ValueError(f"TF_CONFIG has no {kind} {index} among {', '.join(addresses)}: {remedy}")
    return tf.distribute.cluster_resolver.TFConfigClusterResolver(), len(addresses), place
