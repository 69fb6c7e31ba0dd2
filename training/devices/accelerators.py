"""GPUs and TPUs: whether TensorFlow has one, the fastest precision there, memory, and advice where one is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import tensorflow as tf

from keras_convmixer.environment.install import install_command
from keras_convmixer.environment.peak_memory import peak_memory

from .replicas import Replicas

DRIVER = Path("/proc/driver/nvidia/version")
"""File that Linux shows while NVIDIA's driver is loaded."""
INSTALL = install_command("train", "gpu")


def has_accelerator(replicas: Replicas) -> bool:
    """Tell whether GPUs or TPUs train."""
    return bool(tf.config.list_logical_devices("GPU")) or replicas.name == "tpu"


def fastest_precision() -> str:
    """Return mixed_bfloat16, or mixed_float16 on GPUs before Ampere, whose matrix units have no bfloat16."""
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    # Compute capability 8.0 is Ampere's.
    before_ampere = any(detail.get("compute_capability", (8, 0)) < (8, 0) for detail in details)
    return "mixed_float16" if before_ampere else "mixed_bfloat16"


def missing_gpu_advice() -> str:
    """Say why TensorFlow trains on the CPU, and what to install to train on a GPU; empty if there is nothing to say.

    There is nothing to say where a GPU or TPU is used, and where CUDA_VISIBLE_DEVICES hides the GPUs.
    """
    if tf.config.list_physical_devices("GPU") or os.environ.get("TPU_NAME"):
        return ""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ""
    has_driver = DRIVER.exists() or shutil.which("nvidia-smi") is not None
    is_cuda_build = tf.test.is_built_with_cuda()
    if has_driver and is_cuda_build:
        return (
            "training on the CPU: this machine has NVIDIA's driver, but TensorFlow finds no GPU, as its CUDA libraries "
            f"are missing or the driver is too old; to install the libraries: {INSTALL}"
        )
    if has_driver:
        return (
            "training on the CPU: this machine has NVIDIA's driver, but this TensorFlow is built without GPU support; "
            f"to replace it: pip uninstall tensorflow-cpu, then {INSTALL}"
        )
    if is_cuda_build:
        return f"training on the CPU: TensorFlow finds no GPU; if there is one, install NVIDIA's driver, then {INSTALL}"
    return ""


def peak_memory_by_device() -> dict[str, int]:
    """Return the largest number of bytes that this process has held: on the host, and on each GPU by its name."""
    gpus = [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices("GPU")]
    return {"host": peak_memory()} | {gpu: tf.config.experimental.get_memory_info(gpu)["peak"] for gpu in gpus}
