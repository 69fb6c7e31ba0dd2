"""What the commands share: starting them, starting TensorFlow, and answering errors."""

import dataclasses
import difflib
import inspect
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import tyro
from PIL import Image

from keras_convmixer import __version__
from keras_convmixer.console import escape_warnings, print_line, report, report_traceback, silence_native_logs, waiting
from keras_convmixer.install import install_command
from keras_convmixer.training.recipe import Recipe

DESCRIPTION = "ConvMixer in Keras 3: train it, export it, classify pictures with it."
LONG_DESCRIPTION = f"""{DESCRIPTION}

convmixer COMMAND --help shows a command's options; convmixer --version prints the version.

Tab completion in new shells:
bash  convmixer --tyro-write-completion bash ~/.convmixer.bash, then add `source ~/.convmixer.bash` to ~/.bashrc
zsh   convmixer --tyro-write-completion zsh FOLDER/_convmixer, with a FOLDER of $fpath
fish  convmixer --tyro-write-completion fish ~/.config/fish/completions/convmixer.fish"""

# What the package raises with a sentence for the user; anything else is a surprise and says where to look.
EXPLAINED = (
    *(ValueError, ImportError, RuntimeError, FloatingPointError),
    *(FileNotFoundError, FileExistsError, ConnectionError),
)
OPTION_OF = {"input_shape": "image_size"}
"""Options by the library's name for the argument, where it is another one."""


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
    """Run the command line of this process: exit code 0 done, 1 the job failed, 2 wrong arguments, 130 Ctrl-C.

    `prepare` is given the words of the command line and returns those to read.
    """
    words, by_name = sys.argv[1:], {command.__name__: command for command in commands}
    if words == ["--version"]:
        print_line(f"convmixer {__version__}")
        return
    if not words:
        for line in short_help(commands):
            report(line)
        sys.exit(2)
    # `read_image` has a limit of its own, and refuses in a sentence what is over it.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    escape_warnings()
    interrupted = _noting_interrupts()
    app = tyro.extras.SubcommandApp()
    for command in commands:
        command.__doc__ = _unfolded(command.__doc__)
        app.command(command)
    try:
        check_spelling(words, by_name)
        app.cli(
            args=prepare(words),
            prog="convmixer",
            description=LONG_DESCRIPTION,
            config=(
                tyro.conf.OmitArgPrefixes,
                tyro.conf.OmitSubcommandPrefixes,
                tyro.conf.CascadeSubcommandArgs,
            ),
        )
    except BrokenPipeError:  # whoever read the output wanted no more, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:
        _end(error, by_name.get(words[0]), "--verbose" in words, interrupted.is_set())


def _end(error: BaseException, command: Callable | None, verbose: bool, interrupted: bool) -> NoReturn:
    """Say what went wrong, and exit."""
    if verbose:
        report_traceback()
    name, options = (command.__name__, option_names(command)) if command else ("", set())
    if interrupted or isinstance(error, KeyboardInterrupt):
        report_failure(name, "interrupted")
        sys.exit(130)
    report_failure(name, in_options(sentence(error), options))
    wrong_argument = isinstance(error, UsageError) or (type(error) is ValueError and is_about_option(error, options))
    sys.exit(2 if wrong_argument else getattr(error, "exit_code", 1))


def _noting_interrupts() -> threading.Event:
    """Return an event that Ctrl-C sets, beside raising KeyboardInterrupt.

    A library may turn KeyboardInterrupt into an error of its own: TensorFlow's DType.max, with which Keras loads a
    model, has an `except:` that raises TypeError, and the command then ended with exit code 1.
    """
    event = threading.Event()

    def interrupt(number, frame):
        event.set()
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup
        signal.signal(signal.SIGINT, interrupt)
    return event


def short_help(commands: Sequence[Callable]) -> list[str]:
    """Return the lines that `convmixer` alone shows: what there is, and where to begin."""
    lines = [f"  {command.__name__:<12}{command.__doc__.splitlines()[0]}" for command in commands]
    first = "Begin with `convmixer quickstart`; `convmixer COMMAND --help` says more."
    return [DESCRIPTION, "", *lines, "", first]


def _unfolded(docstring: str) -> str:
    """Return a docstring with each argument's text in one line, as tyro keeps line ends."""
    return re.sub(r"\n {8,}", " ", inspect.cleandoc(docstring))


def report_failure(command: str, text: str) -> None:
    """Print an error on stderr, after the name of the command."""
    report(f"{f'convmixer {command}'.strip()}: {text}")


def option_names(command: Callable) -> set[str]:
    """Return the names of a command's options as Python spells them; a recipe's fields are among them."""
    names = {"help", "h"}
    for name, parameter in inspect.signature(command).parameters.items():
        if name == "recipe":
            names |= set(_field_names(Recipe))
        elif parameter.kind is parameter.KEYWORD_ONLY:
            names.add(name)
    return names


def _field_names(kind: type) -> Iterator[str]:
    """Yield the names of a dataclass's fields, and of those of its parts in place of the part."""
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from _field_names(field.type)
        else:
            yield field.name


def check_spelling(words: list[str], commands: dict[str, Callable]) -> None:
    """Raise UsageError with the nearest one where a command or an option does not exist."""
    if words[0].startswith("-"):
        return
    if words[0] not in commands:
        raise UsageError(f"there is no command {words[0]}{nearest(words[0], commands)}")
    options = option_names(commands[words[0]])
    if words[0] == "launch":
        options |= option_names(commands["train"])
    for word in words[1:]:
        if not word.startswith("--"):
            continue
        option = word.partition("=")[0]
        name = option[2:].replace("-", "_")
        if name not in options and name.removeprefix("no_") not in options:
            spelled = [f"--{each.replace('_', '-')}" for each in sorted(options) if len(each) > 1]
            raise UsageError(f"there is no option {option}{nearest(option, spelled)}")


def nearest(word: str, words: Iterable[str]) -> str:
    """Return ": did you mean x?", with all there is where nothing is near."""
    near = difflib.get_close_matches(word, words, 1)
    return f": did you mean {near[0]}?" if near else f": there are {', '.join(words)}"


def in_options(message: str, options: set[str]) -> str:
    """Return an error's message with the library's arguments as the options that a person typed.

    Text in double quotes, such as a line of Python to run, stays as it is.

    Example:
        in_options("patch_size=17 is larger than the image", {"patch_size"})  # "--patch-size 17 is larger than …"
        in_options("pass overwrite=True to begin again", {"overwrite"})  # "pass --overwrite to begin again"
    """

    def spelled(found):
        name = OPTION_OF.get(found["name"], found["name"])
        # A name without underscore is a word of English too, unless a value follows.
        if name not in options or not (found["is"] or "_" in found["name"]):
            return found[0]
        return f"--{name.replace('_', '-')}" + (" " if found["is"] == "=" else "")

    argument = r"(?<![\w/.'=-])(?P<name>[a-z]\w*)((?P<is>=(True\b)?)|(?![\w/'=-]|\.\w))"
    return re.sub(rf'"[^"]*"|{argument}', lambda found: spelled(found) if found["name"] else found[0], message)


def is_about_option(error: ValueError, options: set[str]) -> bool:
    """Tell whether a message begins with an argument and its value, as "epochs=0", that is an option here."""
    begins = re.match(r"(\w+)=", str(error))
    return begins is not None and OPTION_OF.get(begins[1], begins[1]) in options


def sentence(error: Exception) -> str:
    """Return what a person is told of an error: one sentence."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: {install_command('train', 'export')}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    if type(error) in EXPLAINED or type(error).__module__.startswith("keras_convmixer"):
        return str(error)
    return f"{type(error).__name__}: {error} (--verbose shows where)"
