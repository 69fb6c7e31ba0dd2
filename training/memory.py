"""How much memory a process took at most."""

import resource
import sys

import tensorflow as tf


def peak_memory() -> dict[str, int]:
    """Return the most bytes that this process had at once: of the host, and of each GPU by its name."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    gpus = [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices("GPU")]
    return {"host": host} | {gpu: tf.config.experimental.get_memory_info(gpu)["peak"] for gpu in gpus}
