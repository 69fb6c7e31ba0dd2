"""Set up what runs arm64 programs here: `make arm`, into build/arm, 350 MB.

QEMU's user mode, a plugin that counts instructions, and for the emulated processor Python with the wheels of LiteRT and
ONNX Runtime, at this environment's versions. It takes Debian on x86-64 with gcc, but no root rights: packages come from
the mirrors of the system's apt, wheels from the index of its pip, and all of it is unpacked and nothing installed.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
FOLDER = BUILD / "arm"
LOADED_BY_LITERT = ("numpy", "ml_dtypes", "flatbuffers", "protobuf", "typing_extensions", "packaging")
WHEELS = ("ai-edge-litert", "onnxruntime", *LOADED_BY_LITERT, "lazy_loader")
TOOLS = ("apt-get", "dpkg", "gcc")
GLIBC = (36, 28, 27, 26, 17)
"""Minor versions of glibc that wheels are built for, at most that of Debian 12."""


def main() -> None:
    """Set everything up anew."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing or sys.platform != "linux" or os.uname().machine != "x86_64":
        sys.exit(
            f"this takes Debian on x86-64 with {', '.join(TOOLS)}; missing: {', '.join(missing) or 'none of these'}"
        )
    unfinished = BUILD / "arm.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    for folder in ("apt/lists/partial", "host", "guest"):
        (unfinished / folder).mkdir(parents=True)
    apt(unfinished, "update")
    # The emulator's other libraries are those of this system; the guest has nothing yet.
    unpack(unfinished, "host", "/var/lib/dpkg/status", "--reinstall", "qemu-user:amd64")
    unpack(unfinished, "guest", "/dev/null", "python3:arm64", "libstdc++6:arm64")
    python = max((unfinished / "guest/usr/bin").glob("python3.*[0-9]")).name
    unpack_wheels(unfinished, python.removeprefix("python"))
    compile_plugin(unfinished)
    shutil.rmtree(unfinished / "apt")
    shutil.rmtree(FOLDER, ignore_errors=True)
    unfinished.rename(FOLDER)
    print(f"arm64 programs can run now: {FOLDER}")


def apt(folder: Path, *arguments: str, status: str = "/dev/null") -> None:
    """Run apt-get with lists and archives of its own, for both architectures; `status` lists what is installed."""
    options = {
        "Dir::State::Lists": folder / "apt/lists",
        "Dir::Cache": folder / "apt",
        "Dir::State::status": status,
        "APT::Architectures": "amd64,arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",  # the user _apt may not write here
        "Debug::NoLocking": "true",  # only root may lock
    }
    command = ["apt-get", "-qq", "--yes", *(f"-o{name}={value}" for name, value in options.items()), *arguments]
    run(*command)


def unpack(folder: Path, into: str, status: str, *packages: str) -> None:
    """Unpack packages, and those that they depend on and that `status` lacks, into a folder."""
    archives = folder / "apt/archives"
    shutil.rmtree(archives, ignore_errors=True)
    (archives / "partial").mkdir(parents=True)
    apt(folder, "install", "--download-only", *packages, status=status)
    for archive in archives.glob("*.deb"):
        run("dpkg", "-x", archive, folder / into)


def unpack_wheels(folder: Path, python: str) -> None:
    """Unpack arm64 wheels of WHEELS into `folder`/wheels, for a version of Python, at the versions installed here."""
    requirements = [f"{name}=={importlib.metadata.version(name)}" for name in WHEELS]
    platforms = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in GLIBC]
    options = ("--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={python}", f"--dest={folder / 'apt'}")
    run(sys.executable, "-m", "pip", "download", *options, *platforms, *requirements)
    for wheel in (folder / "apt").glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder / "wheels")


def compile_plugin(folder: Path) -> None:
    """Compile count_instructions.c for the version of QEMU's interface that the unpacked QEMU takes."""
    from emulator import qemu_version

    version = 1 if int(qemu_version(folder).split(".")[0]) < 9 else 2
    options = ("-O2", "-shared", "-fPIC", f"-DAPI_VERSION={version}")
    run("gcc", *options, "-o", folder / "count_instructions.so", HERE / "count_instructions.c")


def run(*command) -> None:
    """Run a command; exit with its own message if it fails."""
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}")


if __name__ == "__main__":
    main()
