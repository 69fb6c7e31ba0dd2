"""Run .tflite and .onnx files on emulated arm64 processors, and count the instructions of an inference.

`make arm` sets up what this needs.
"""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
FOLDER = CHECKOUT / "build/arm"
SET_UP = "arm64 programs cannot run here: set it up by `make arm` (Debian on x86-64)"


@dataclass(frozen=True)
class Processor:
    """An emulated processor."""

    qemu: str
    """QEMU's name of it."""
    features: str
    """The features in Linux's /proc/cpuinfo. Libraries choose their kernels by them."""
    part: str
    """Arm's number of the design, "CPU part" in /proc/cpuinfo."""


_ARMV8_2 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
PROCESSORS = {
    # Phones' large core of 2018, the first one with dot products of 8-bit integers.
    "Cortex-A76": Processor("cortex-a76", f"{_ARMV8_2} ssbs", "0xd0b"),
    # 8-bit matrix products too, as in phones since 2021. QEMU 7.2 has no model of such a phone's core: this is the one
    # with everything, without SME, whose 8-bit products it computes wrongly, and without SVE, which Android does not
    # offer on most phones.
    "with i8mm": Processor("max,sme=off,sve=off", f"{_ARMV8_2} i8mm bf16", "0xd49"),
}


def can_run() -> bool:
    """Tell whether arm64 programs can run here."""
    return FOLDER.exists()


def qemu_version(folder: Path = FOLDER) -> str:
    """Return the version of the unpacked QEMU, such as "7.2.18"."""
    command = [folder / "host/usr/bin/qemu-aarch64", "--version"]
    printed = subprocess.run(command, env=_environment(folder), check=True, capture_output=True, text=True).stdout
    return re.search(r"version (\S+)", printed)[1]


def count_instructions(processor: str, engine: str, path: Path, images: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the instructions of one inference on one thread, and the file's logits of each image.

    Args:
        processor: a name in PROCESSORS.
        engine: "litert" or "onnxruntime".
        path: the file.
        images: uint8 `[count, height, width, channels]`, at least 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "images.npy"), Path(folder, "logits.npy")
        np.save(given, images)
        errors = run_python(processor, HERE / "guest.py", engine, path, given, found)
        (instructions,) = _marked(errors)
        return instructions, np.load(found)


def count_alone(processor: str, files: list[bytes]) -> list[int]:
    """Return the instructions of one inference of each .tflite file, on inputs of noise, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.tflite") for number in range(len(files))]
        for path, content in zip(paths, files, strict=True):
            path.write_bytes(content)
        counts = _marked(run_python(processor, HERE / "guest_alone.py", *paths))
    assert len(counts) == len(files)
    return counts


def _marked(errors):
    """Return the instructions between each two marks."""
    counts = list(map(int, re.findall(r"^instructions: (\d+)$", errors, re.MULTILINE)))
    return [after - before for before, after in zip(counts[::2], counts[1::2], strict=True)]


def run_python(processor: str, *arguments) -> str:
    """Run the emulated processor's Python with arguments; return what it and the plugin wrote to stderr.

    Raises:
        RuntimeError: arm64 programs cannot run here, or this one failed.
    """
    if not can_run():
        raise RuntimeError(SET_UP)
    root = _root(processor)
    python = max((root / "usr/bin").glob("python3.*[0-9]"))
    packages = os.pathsep.join(map(str, (FOLDER / "wheels", CHECKOUT, HERE.parent / "engines")))
    variables = {
        **_environment(FOLDER),
        "QEMU_CPU": PROCESSORS[processor].qemu,
        "PYTHONHOME": "/usr",
        "PYTHONPATH": packages,
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    qemu = [FOLDER / "host/usr/bin/qemu-aarch64", "-L", root, "-plugin", FOLDER / "count_instructions.so"]
    process = subprocess.run(
        [*qemu, python, *arguments], env=variables, check=False, capture_output=True, text=True, errors="replace"
    )
    if process.returncode:
        raise RuntimeError(f"failed on the emulated {processor}: {process.stderr.strip()[-2000:]}")
    return process.stderr


def _environment(folder):
    # Libraries that QEMU loads and this system lacks.
    return {**os.environ, "LD_LIBRARY_PATH": str(folder / "host/usr/lib/x86_64-linux-gnu")}


def _root(processor):
    """Return a folder that programs see as /: the shared one, with this processor's /proc/cpuinfo.

    QEMU 7.2 shows the guest this machine's, at which LiteRT crashes.
    """
    root = FOLDER / "roots" / PROCESSORS[processor].qemu
    information = root / "proc/cpuinfo"
    information.parent.mkdir(parents=True, exist_ok=True)
    for entry in (FOLDER / "guest").iterdir():
        if not (root / entry.name).exists():
            (root / entry.name).symlink_to(entry)
    information.write_text(
        f"processor\t: 0\nFeatures\t: {PROCESSORS[processor].features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {PROCESSORS[processor].part}\nCPU revision\t: 0\n\n"
    )
    return root
