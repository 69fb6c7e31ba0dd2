"""What the commands share: reading the command line, starting TensorFlow, and answering errors."""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, get_args

import tyro
from PIL import Image

from keras_convmixer import __version__
from keras_convmixer.environment.console import (
    escape_warnings,
    print_line,
    report,
    report_traceback,
    silence_native_logs,
    waiting,
)
from keras_convmixer.environment.install import missing
from keras_convmixer.training.recipe import TYPE_NAMES, flat_fields
from keras_convmixer.training.recipes import DESCRIPTIONS, RECIPES
from keras_convmixer.training.runs.model_file import model_file

try:
    # Not public: where a version of tyro has none, its own boxes show what is wrong with the arguments.
    from tyro._errors import on_parse_error
except ImportError:
    on_parse_error = contextlib.nullcontext

DESCRIPTION = "ConvMixer in Keras 3: train it, export it, classify images with it."
BEGIN = "Begin with `convmixer quickstart`; `convmixer COMMAND --help` says more."
MORE = """
convmixer --version prints the version. Tab completion in new shells:
  bash  convmixer --tyro-write-completion bash ~/.convmixer.bash
        and `source ~/.convmixer.bash` in ~/.bashrc
  zsh   convmixer --tyro-write-completion zsh FOLDER/_convmixer
        with a FOLDER of $fpath
  fish  convmixer --tyro-write-completion fish
        ~/.config/fish/completions/convmixer.fish"""

# What the package raises with a sentence for the user; anything else is a surprise and says where to look.
EXPLAINED = (
    *(ValueError, ImportError, RuntimeError, FloatingPointError),
    *(FileNotFoundError, FileExistsError, ConnectionError),
)
OPTION_OF = {"input_shape": "image_size"}
"""Options by the library's name for the argument, where it is another one."""


class UsageError(Exception):
    """Wrong arguments; exit code 2."""


@contextlib.contextmanager
def starting_tensorflow(verbose: bool, model: Path | None = None) -> Iterator[None]:
    """Show that TensorFlow is being imported in this context, and keep its log off the screen unless `verbose`.

    A `model` that is not there, or is something else, is answered at once, before the seconds that this takes.
    """
    if model and not model.exists():
        beside = map(str, model.parent.iterdir()) if model.parent.is_dir() else ()
        near = nearest(str(model), list(beside), listed=False)
        raise FileNotFoundError(f"{model}: there is no such run folder or .keras file{near}")
    if model:
        model_file(model)
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
    if words[:1] in ([], ["-h"], ["--help"]):
        for line in [*short_help(commands), *(MORE.splitlines() if words else [])]:
            (print_line if words else report)(line)
        sys.exit(0 if words else 2)
    # `read_image` has a limit of its own, and refuses in a sentence what is over it.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    escape_warnings()
    interrupted = _noting_interrupts()
    try:
        read(prepare(words), by_name)()
    except BrokenPipeError:  # whoever read the output wanted no more, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:
        _end(error, by_name.get(words[0]), "--verbose" in words, interrupted.is_set())


def _end(error: BaseException, command: Callable | None, verbose: bool, interrupted: bool) -> NoReturn:
    """Say what went wrong, and exit."""
    if verbose and not isinstance(error, UsageError):
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


def read(words: list[str], commands: dict[str, Callable]) -> Callable[[], None]:
    """Return the call that a command line means; show help, or raise UsageError for words that mean none."""
    if words[0] not in commands and not words[0].startswith("--tyro-"):
        raise UsageError(f"there is no command {words[0]}{nearest(words[0], commands)}")
    app, shown = tyro.extras.SubcommandApp(), io.StringIO()
    for command in commands.values():
        app.command(_postponed(command))
    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs)
    if words[0] not in commands:  # --tyro-write-completion
        return app.cli(args=words, prog="convmixer", config=markers)
    try:
        with on_parse_error(lambda event: _refuse(event, commands[words[0]], words)), contextlib.redirect_stdout(shown):
            return app.cli(args=words, prog="convmixer", config=markers)
    finally:
        for line in _folded(shown.getvalue(), words) if shown.getvalue() else ():
            print_line(line)


def _postponed(command: Callable) -> Callable:
    """Return a function with the arguments and help of a command that returns the call instead of making it."""

    @functools.wraps(command)
    def postponed(*arguments, **options):
        return functools.partial(command, *arguments, **options)

    postponed.__signature__ = inspect.signature(command)  # pyright: ignore[reportAttributeAccessIssue]
    del postponed.__wrapped__  # else tyro reads the docstring there
    # With each argument's text in one line, as tyro keeps line ends there, and before a word in `quotes`.
    postponed.__doc__ = re.sub(r"\n {8,}|(?<!\n)\n(?=`)", " ", inspect.cleandoc(command.__doc__ or ""))
    return postponed


def _folded(text: str, words: list[str]) -> Iterator[str]:
    """Yield the lines of tyro's help, which folds only its boxes, with the description of the recipe in `words`."""
    for recipe in RECIPES.keys() & words[1:2]:
        text = text.replace(first_line(DESCRIPTIONS[recipe]), re.sub(r"\n {2,}", " ", DESCRIPTIONS[recipe].strip()), 1)
    text = re.sub(r"\{digits,[^}]*\}", "RECIPE", re.sub(r"\n{3,}", "\n\n", text))
    text = text.replace("\n positional arguments", "\n arguments").replace("\n subcommands", "\n recipes")
    width = shutil.get_terminal_size().columns
    usage, *lines = text.splitlines()
    yield usage if len(usage) <= width else re.sub(r" \[--.*", " [OPTIONS]", usage)
    for line in lines:
        paragraph = line[:1].isalpha() or line.startswith(("-", "`"))
        indent = "  " if line.startswith("- ") else ""
        yield from textwrap.wrap(line, width, subsequent_indent=indent) if paragraph else [line.rstrip()]


def short_help(commands: Sequence[Callable]) -> list[str]:
    """Return the lines that `convmixer` alone shows: what there is, and where to begin."""
    lines = [f"  {command.__name__:<12}{first_line(command.__doc__)}" for command in commands]
    return [DESCRIPTION, "", *lines, "", BEGIN]


def first_line(docstring: str | None) -> str:
    """Return the first line of a docstring."""
    return (docstring or "").partition("\n")[0]


def _refuse(event, command: Callable, words: list[str]) -> None:
    """Raise UsageError with what tyro found wrong with a command's arguments.

    Where an event is not what it is in tyro 1.0.14 to 1.0.17, return: tyro then shows a box of its own.
    """
    with contextlib.suppress(AttributeError, StopIteration):
        if message := _in_a_sentence(event, command, words):
            raise UsageError(in_options(message, option_names(command)))


def _in_a_sentence(event, command: Callable, words: list[str]) -> str | None:
    """Return what tyro found wrong, by the kind of its event."""
    kind = type(event).__name__
    example = "as in: " + "".join(re.findall(r"For example: (.*)", command.__doc__ or "")[:1])
    unknown = getattr(event, "tokens", None) or getattr(event, "unrecognized_tokens", None)
    if unknown:
        return _unknown_word(unknown[0], command, words)
    if kind == "MissingArgs":
        missing = [_spelled(each.arg, each.arg.lowered.metavar) for each in event.missing_arguments]
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, {example}"
    if kind == "MissingSubcommand":
        return f"RECIPE is missing: name one of {', '.join(RECIPES)}, {example}"
    argument = getattr(event, "argument", None)
    if kind == "InstantiationFailure" and argument is None:  # a recipe's own check
        return event.message
    if kind == "BadValue" and argument.is_positional():  # an unknown option stands in its place
        return _unknown_word(next(word for word in words if word.startswith("-")), command, words)
    if kind == "BadValue":
        return f"{_spelled(argument)} needs a value: {_spelled(argument, argument.lowered.metavar)}"
    if kind == "InvalidChoice":
        choices = [choice for choice in event.choices if choice != "None"]
        if len(choices) < len(event.choices):
            choices.sort()  # tyro gives those of an optional argument in any order
        near = nearest(event.value, choices, listed=False)
        return f"{_spelled(argument, repr(event.value))} is not one of {', '.join(choices)}{near}"
    if kind == "InstantiationFailure":
        kinds = (argument.field.type_stripped, *get_args(argument.field.type_stripped))
        number = next(kind for kind in kinds if kind in TYPE_NAMES)
        for _, value in re.findall(r"(['\"])(.*?)\1", event.message):
            try:
                number(value)
            except ValueError:
                return f"{_spelled(argument, repr(value))} is not {TYPE_NAMES[number]}"
    return None


def _spelled(argument, value: str = "") -> str:
    """Return an argument as a person types it: an option and its value, or the value alone."""
    name = "" if argument.is_positional() else argument.lowered.name_or_flags[-1]
    return f"{name} {value}".strip()


def _unknown_word(word: str, command: Callable, words: list[str]) -> str:
    """Return what to say of a word that is neither an option nor an argument of a command."""
    typed = " ".join(["convmixer", *words[: 2 if RECIPES.keys() & words[1:2] else 1]])
    if not word.startswith("-"):
        if "recipe" in inspect.signature(command).parameters and not RECIPES.keys() & words:
            return f"there is no recipe {word}{nearest(word, RECIPES)}"
        for option, equals, value in (each.partition("=") for each in words):
            if equals and value == word:
                return f"{option} takes no value: leave ={word} out"
        return f"{word!r} is one word too many: {typed} --help shows the arguments"
    option = word.partition("=")[0]
    options = {f"--{each.replace('_', '-')}" for each in option_names(command) if len(each) > 1}
    if option.replace("_", "-") in options:
        return f"{option} stands after the recipe's name, as in: {typed} digits {option} ..."
    near = nearest(option, sorted(options), listed=len(options) < 10)
    return f"there is no option {option}{near or f': {typed} --help shows the options'}"


def report_failure(command: str, text: str) -> None:
    """Print an error on stderr, after the name of the command."""
    report(f"{f'convmixer {command}'.strip()}: {text}")


def option_names(command: Callable) -> set[str]:
    """Return the names of a command's options as Python spells them; a recipe's fields are among them."""
    parameters = inspect.signature(command).parameters
    fields = flat_fields(dataclasses.asdict(RECIPES["digits"])) if "recipe" in parameters else {}
    own = {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    return {"help", "h", *own, *fields}


def nearest(word: str, words: Iterable[str], listed: bool = True) -> str:
    """Return ": did you mean x?"; where nothing is near, all there is if `listed`, else nothing."""
    near = difflib.get_close_matches(word, words, 1)
    if near:
        return f": did you mean {near[0]}?"
    return f": there are {', '.join(words)}" if listed else ""


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
        return f"--{name.replace('_', '-')}" + {"=None": " is missing", "=": " ", "=True": "", None: ""}[found["is"]]

    argument = r"(?<![\w/.'=-])(?P<name>[a-z]\w*)((?P<is>=None\b|=True\b|=)|(?![\w/'=-]|\.\w))"
    return re.sub(rf'"[^"]*"|{argument}', lambda found: spelled(found) if found["name"] else found[0], message)


def is_about_option(error: ValueError, options: set[str]) -> bool:
    """Tell whether a message begins with an argument and its value, as "epochs=0", that is an option here."""
    begins = re.match(r"(\w+)=", str(error))
    return begins is not None and OPTION_OF.get(begins[1], begins[1]) in options


def sentence(error: Exception) -> str:
    """Return what a person is told of an error: one sentence."""
    if isinstance(error, ModuleNotFoundError):
        return missing(error.name or str(error))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    if type(error) in EXPLAINED or type(error).__module__.startswith("keras_convmixer"):
        return str(error)
    return f"{type(error).__name__}: {error} (--verbose shows where)"
