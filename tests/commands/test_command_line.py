"""How words become a command: spelling, options, examples, and the sentence and exit code of an error."""

import functools
import re
import shutil
import signal
import subprocess

import pytest

from keras_convmixer.__main__ import COMMANDS
from keras_convmixer.commands import command_line
from keras_convmixer.commands.command_line import UsageError, check_spelling, in_options, option_names, run_app
from keras_convmixer.commands.training import train, with_recipe

BY_NAME = {command.__name__: command for command in COMMANDS}


def parsed(command, monkeypatch):
    """Parse a command line; return the name of the command that would run."""
    called = []

    def stub(command):
        return functools.wraps(command)(lambda *arguments, **options: called.append(command.__name__))

    monkeypatch.setattr("sys.argv", command.split())
    run_app([stub(command) for command in COMMANDS], with_recipe)
    return called[0]


def examples():
    """Commands in the commands' docstrings."""
    for command in COMMANDS:
        yield from re.findall(r"For example: (convmixer .*)", command.__doc__)


@pytest.mark.parametrize("command", list(examples()))
def test_every_example_parses(command, monkeypatch):
    assert parsed(command, monkeypatch) == command.split()[1]


def test_every_command_has_an_example_of_itself():
    for command in COMMANDS:
        assert f"For example: convmixer {command.__name__}" in command.__doc__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("expor runs/x", "there is no command expor: did you mean export?"),
        ("qqq", "there is no command qqq: there are quickstart, train"),
        ("export runs/x --ot b", "there is no option --ot: did you mean --out?"),
        ("train digits --image-siz=8", "there is no option --image-siz: did you mean --image-size?"),
        ("launch digits --epoch 3", "there is no option --epoch: did you mean --epochs?"),
        ("recipes --epochs 3", "there is no option --epochs: there are --help, --json"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(words, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        check_spelling(words.split(), BY_NAME)


@pytest.mark.parametrize(
    "words", ["export x --out y", "train digits --image_size 8", "train cifar10 --no-flip", "launch --workers 2 digits"]
)
def test_options_that_exist_pass(words):
    check_spelling(words.split(), BY_NAME)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("epochs=0: give more than 0", "--epochs 0: give more than 0"),
        ("patch_size=17 is too large: a larger input_shape", "--patch-size 17 is too large: a larger --image-size"),
        ("epochs of the model, its weights and its depth", "epochs of the model, its weights and its depth"),
        ("runs/batch_size/x.png: 'batch_size' is not there", "runs/batch_size/x.png: 'batch_size' is not there"),
        ("threshold=2: give less", "threshold=2: give less"),  # not an option of train
        ("lower --learning-rate, x_batch_size", "lower --learning-rate, x_batch_size"),
        ("pass overwrite=True to begin again", "pass --overwrite to begin again"),
        ('strategy="auto" trains on this machine alone', '--strategy "auto" trains on this machine alone'),
        ("`python -c \"f(data_dir='x')\"`, or data_dir", "`python -c \"f(data_dir='x')\"`, or --data-dir"),
    ],
)
def test_an_error_names_the_option_that_was_typed(message, shown):
    assert in_options(message, option_names(train)) == shown


@pytest.mark.parametrize(
    ("error", "shown", "code"),
    [
        (ValueError("epochs=0: give more"), "convmixer train: --epochs 0: give more", 2),
        (ValueError("threshold=0: give more"), "convmixer train: threshold=0: give more", 1),
        (UsageError("name a picture"), "convmixer train: name a picture", 2),
        (FileNotFoundError("x is not there"), "convmixer train: x is not there", 1),
        (KeyError("x"), "convmixer train: KeyError: 'x' (--verbose shows where)", 1),
        (KeyboardInterrupt(), "convmixer train: interrupted", 130),
    ],
)
def test_an_error_is_a_sentence_after_the_commands_name(error, shown, code, monkeypatch, capsys):
    @functools.wraps(train)
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr("sys.argv", ["convmixer", "train", "digits"])
    with pytest.raises(SystemExit) as ended:
        run_app([failing, *COMMANDS[2:]], with_recipe)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{shown}\n"


def test_ctrl_c_is_one_even_where_a_library_made_another_error_of_it(monkeypatch, capsys):
    @functools.wraps(train)
    def failing(*arguments, **options):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise TypeError("Cannot find maximum value") from None  # as TensorFlow's DType.max does

    monkeypatch.setattr("sys.argv", ["convmixer", "train", "digits"])
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            run_app([failing, *COMMANDS[2:]], with_recipe)
    finally:
        signal.signal(signal.SIGINT, former)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "convmixer train: interrupted\n"


COMPLETE = """
source "$1"
complete_words() {
    COMP_WORDS=(convmixer "$@"); COMP_CWORD=$#; COMP_LINE="convmixer $*"; COMP_POINT=${#COMP_LINE}
    $(complete -p convmixer | sed 's/.*-F \\([^ ]*\\) .*/\\1/') convmixer "${!#}"; echo "${COMPREPLY[@]}"
}
complete_words exp
complete_words export --validation-im
complete_words train digits --image-s
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_commands_and_options(tmp_path, monkeypatch):
    """By the file that --help says how to make."""
    file = tmp_path / "convmixer.bash"
    assert "convmixer --tyro-write-completion bash" in command_line.LONG_DESCRIPTION
    monkeypatch.setattr("sys.argv", ["convmixer", "--tyro-write-completion", "bash", str(file)])
    with pytest.raises(SystemExit) as ended:
        run_app(COMMANDS, with_recipe)
    assert not ended.value.code
    shown = subprocess.run(["bash", "-c", COMPLETE, "-", file], capture_output=True, text=True, check=True).stdout
    assert shown.split("\n") == ["export", "--validation-images", "--image-size", ""]


def test_convmixer_alone_prints_a_line_for_each_command_that_fits_into_80_columns():
    lines = command_line.short_help(COMMANDS)
    assert max(map(len, lines)) <= 80
    for command in COMMANDS:
        assert any(line.startswith(f"  {command.__name__} ") for line in lines)
