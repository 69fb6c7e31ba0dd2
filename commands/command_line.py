"""What every command shares: arguments, TensorFlow's start, and how it ends where it fails."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import tyro
from PIL import Image

from keras_convmixer import __version__
from keras_convmixer.console import escape_warnings, print_line, report, report_traceback, silence_native_logs, waiting
from keras_convmixer.install import install_command

# What the package raises with a sentence for the user; anything else is a surprise and says where to look.
EXPLAINED = (
    *(ValueError, ImportError, RuntimeError, FloatingPointError),
    *(FileNotFoundError, FileExistsError, ConnectionError),
)


def argument(kind: type, metavar: str, default: str | None = None) -> type:
    """Return `kind` as a command's argument that help shows as `metavar`, with `default` in words."""
    hint = None if default is None else f"(default: {default})"
    return Annotated[kind, tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)]


class UsageError(Exception):
    """Arguments that tyro lets pass and that are wrong; exit code 2."""


@contextmanager
def starting_tensorflow(verbose: bool) -> Iterator[None]:
    """Show that TensorFlow is being imported in this context, and keep its log off the screen unless `verbose`."""
    os.environ["KERAS_BACKEND"] = "tensorflow"  # also where the user's other work runs on another one
    # TensorFlow itself uses oneDNN only on processors with AVX-512 VNNI or AMX. Measured on one with AVX2, a training
    # step of 128/8 on 512 CIFAR-10 images: 16 s without, 5.8 s with it. What is computed differs in rounding.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if not verbose:
        silence_native_logs()
    with waiting("starting TensorFlow"):
        yield


def run_app(commands: Sequence[Callable], prepare: Callable[[list[str]], list[str]]) -> None:
    """Run the command line of this process: exit code 0 done, 1 the job failed, 2 wrong arguments.

    `prepare` is given the words of the command line and returns those to read.
    """
    if sys.argv[1:] == ["--version"]:
        print_line(f"convmixer {__version__}")
        return
    verbose = "--verbose" in sys.argv
    # `read_image` has a limit of its own, and refuses in a sentence what is over it.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    escape_warnings()
    app = tyro.extras.SubcommandApp()
    for command in commands:
        app.command(command)
    try:
        app.cli(
            args=prepare(sys.argv[1:]),
            prog="convmixer",
            description="ConvMixer in Keras 3: train it, export it, classify pictures with it.",
            config=(
                tyro.conf.OmitArgPrefixes,
                tyro.conf.OmitSubcommandPrefixes,
                tyro.conf.CascadeSubcommandArgs,
                tyro.conf.FlagCreatePairsOff,
            ),
        )
    except BrokenPipeError:  # whoever read the output wanted no more, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if verbose:
            report_traceback()
        report(f"convmixer: {sentence(error)}")
        sys.exit(2 if isinstance(error, UsageError) else getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        report("convmixer: interrupted")
        sys.exit(130)


def sentence(error: Exception) -> str:
    """Return what a person is told of an error: one sentence."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: {install_command('train', 'export')}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    if type(error) in EXPLAINED or type(error).__module__.startswith("keras_convmixer"):
        return str(error)
    return f"{type(error).__name__}: {error} (--verbose shows where)"
