"""What `train` says where TensorFlow has no GPU."""

import pytest
import tensorflow as tf

from keras_convmixer.environment.install import install_command
from keras_convmixer.training.devices import accelerators

INSTALL = install_command("train", "gpu")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that sets whether this machine has NVIDIA's driver, GPUs for TensorFlow, and a build for GPUs."""

    def set_up(driver, cuda_build, gpus=()):
        for name in ("CUDA_VISIBLE_DEVICES", "TPU_NAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(accelerators, "DRIVER", tmp_path if driver else tmp_path / "missing")
        monkeypatch.setattr(accelerators.shutil, "which", lambda name: None)
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(gpus))
        monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: cuda_build)

    return set_up


@pytest.mark.parametrize(
    ("driver", "cuda_build", "words"),
    [
        (True, True, f"its CUDA libraries are missing or the driver is too old; to install the libraries: {INSTALL}"),
        (True, False, f"this TensorFlow is built without GPU support; to replace it: .*{INSTALL}"),
        (False, True, f"if there is one, install NVIDIA's driver, then {INSTALL}"),
    ],
)
def test_a_missing_gpu_is_explained_with_what_to_install(machine, driver, cuda_build, words):
    machine(driver, cuda_build)
    advice = accelerators.missing_gpu_advice()
    assert advice.startswith("training on the CPU: ")
    before, _, after = words.partition(".*")
    assert before in advice
    assert after in advice


def test_nothing_is_said_where_the_cpu_is_meant_or_a_gpu_trains(machine, monkeypatch):
    machine(driver=False, cuda_build=False)
    assert accelerators.missing_gpu_advice() == ""
    machine(driver=True, cuda_build=True, gpus=["GPU:0"])
    assert accelerators.missing_gpu_advice() == ""
    machine(driver=True, cuda_build=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert accelerators.missing_gpu_advice() == ""
