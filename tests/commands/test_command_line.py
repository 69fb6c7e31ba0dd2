"""How words become a command: spelling, options, examples, and the sentence and exit code of an error."""

import functools
import re
import shutil
import signal
import subprocess

import pytest

from keras_convmixer.__main__ import COMMANDS
from keras_convmixer.commands import command_line
from keras_convmixer.commands.command_line import UsageError, in_options, option_names, read, run_app
from keras_convmixer.commands.training import train, with_recipe
from keras_convmixer.environment.install import install_command
from keras_convmixer.training.recipes import DESCRIPTIONS

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
        ("--epochs 3", "there is no command --epochs: there are quickstart, train"),
        ("train digitz --epochs 3", "there is no recipe digitz: did you mean digits?"),
        ("train --runs a digitz", "there is no recipe digitz: did you mean digits?"),
        ("export runs/x --ot b", "there is no option --ot: did you mean --out?"),
        ("export --ot b runs/x", "there is no option --ot: did you mean --out?"),
        ("train digits --image-siz=8", "there is no option --image-siz: did you mean --image-size?"),
        ("launch --worker 2 digits", "there is no option --worker: did you mean --workers?"),
        ("recipes --epochs 3", "there is no option --epochs: there are --help, --json"),
        ("train digits -e 3", "there is no option -e: convmixer train digits --help shows the options"),
        ("train --epochs 3 digits", "--epochs stands after the recipe's name, as in: convmixer train digits --epochs"),
        ("export x --out b --formats int9", "--formats 'int9' is not one of float32, float16, dynamic, int8,"),
        ("convert a b --activation geluu", "--activation 'geluu' is not one of gelu, relu: did you mean gelu?"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(words, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        read(with_recipe(words.split()), BY_NAME)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train digits --epochs many", "--epochs 'many' is not a whole number"),
        ("train digits --epochs 1.5", "--epochs '1.5' is not a whole number"),
        ("train digits --learning-rate fast", "--learning-rate 'fast' is not a number"),
        ("train digits --epochs 0", "--epochs 0: give more than 0"),
        ("train digits --epochs", "--epochs needs a value: --epochs INT"),
        ("train digits --flip=no", "--flip takes no value: leave =no out"),
        ("train digits 5", "'5' is one word too many: convmixer train digits --help shows the arguments"),
        ("export x --out b --crop-fraction half", "--crop-fraction 'half' is not a number"),
        ("benchmark b --threads 1 one", "--threads 'one' is not a whole number"),
        ("export x", "--out BUNDLE is missing, as in: convmixer export runs/digits --out digits_bundle"),
        ("convert", "IN and OUT are missing, as in: convmixer convert model.safetensors model.keras"),
        ("train", "RECIPE is missing: name one of digits, cifar10,"),
    ],
)
def test_a_wrong_value_is_answered_in_one_sentence(words, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        read(words.split(), BY_NAME)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("digits --epochs many", "--epochs 'many' is not a whole number"),
        ("digits --workers 2", "--workers stands before the recipe's name, as in: convmixer launch --workers 2 digits"),
    ],
)
def test_launch_refuses_a_wrong_option_of_train_before_a_process_starts(words, message, monkeypatch):
    monkeypatch.setattr("keras_convmixer.training.launch.Launch.run", lambda _: pytest.fail("it has started"))
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        read(with_recipe(["launch", *words.split()]), BY_NAME)()


def test_where_tyro_reports_something_unknown_its_own_box_is_shown(capsys, monkeypatch):
    """As the events are not public: another version may have other ones, or none."""
    monkeypatch.setattr(command_line, "TYPE_NAMES", {})
    monkeypatch.setattr(command_line, "_in_a_sentence", lambda event, *_: event.no_such_field)
    with pytest.raises(SystemExit) as ended:
        read(["train", "digits", "--epochs", "many"], BY_NAME)
    assert ended.value.code == 2
    assert "--epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["export x --out y", "train digits --image_size 8", "train cifar10 --no-flip", "launch --workers 2 digits"]
)
def test_options_that_exist_pass(words):
    assert callable(read(with_recipe(words.split()), BY_NAME))


def help_of(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        read([*words.split(), "--help"], BY_NAME)
    assert not ended.value.code
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("words", [*BY_NAME, "train imagenet_1536_20", "plan digits"])
def test_help_fits_into_80_columns(words, capsys, monkeypatch):
    lines = help_of(words, capsys, monkeypatch)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: convmixer {words} ")
    assert lines[1] == ""  # the usage is one line, whatever there is to choose from


def test_help_of_train_has_one_line_for_each_recipe_and_that_of_a_recipe_all_of_its_docstring(capsys, monkeypatch):
    lines = help_of("train", capsys, monkeypatch)
    assert len(lines) <= 60
    for name, description in DESCRIPTIONS.items():
        (line,) = (line for line in lines if line.split()[:2] == ["•", name])
        assert line.endswith(f" {description.splitlines()[0]}")
    shown = " ".join(" ".join(help_of("train imagenet_1536_20", capsys, monkeypatch)).split())
    assert " ".join(DESCRIPTIONS["imagenet_1536_20"].split()) in shown
    for part in ("model options", "data options", "augmentation options", "optimization options"):
        assert part in shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("epochs=0: give more than 0", "--epochs 0: give more than 0"),
        ("patch_size=17 is too large: a larger input_shape", "--patch-size 17 is too large: a larger --image-size"),
        ("data=None: give a folder", "data=None: give a folder"),  # not an option of train
        ("weights=None: give a file", "--weights is missing: give a file"),
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
        (UsageError("name an image"), "convmixer train: name an image", 2),
        (FileNotFoundError("x is not there"), "convmixer train: x is not there", 1),
        (
            ModuleNotFoundError(name="tf_keras.layers"),
            f"convmixer train: tf_keras is not installed: {install_command('qat')}",
            1,
        ),
        (
            ModuleNotFoundError(name="sklearn"),
            f"convmixer train: sklearn is not installed: {install_command('train', 'export')}",
            1,
        ),
        (ModuleNotFoundError(name="yaml"), "convmixer train: yaml is not installed", 1),
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


@pytest.mark.parametrize("words", ["evaluate", "visualize", "export --out b", "qat", "compress --out b"])
def test_a_model_that_is_not_there_is_answered_before_tensorflow_starts(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    monkeypatch.setattr(command_line, "waiting", lambda _: pytest.fail("TensorFlow starts"))
    with pytest.raises(FileNotFoundError, match=r"^digitz: there is no such run folder .*: did you mean digits\?$"):
        read([*words.split(), "digitz"], BY_NAME)()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("evaluate bundle", ValueError, "bundle is a bundle, which holds no Keras model: name what it was exported"),
        ("export begun --out b", ValueError, "begun holds no model.keras yet: run `convmixer train` to its end"),
        ("export empty --out b", ValueError, "empty holds no model.keras: name a run folder"),
        ("export run --out run", FileExistsError, "run holds other things than a bundle (model.keras)"),
        ("visualize run/model.keras.txt", ValueError, "model.keras.txt is not a .keras file: name a run folder"),
        ("visualize run nothing.jpg", FileNotFoundError, "nothing.jpg"),
        ("visualize run text.txt", ValueError, "text.txt is not an image"),
        ("visualize run --out text.txt", FileExistsError, "text.txt is a file: name a folder"),
        ("evaluate run --out text.txt", FileExistsError, "text.txt is a file: name a folder"),
        ("convert nothing.safetensors a.keras", FileNotFoundError, "nothing.safetensors: there is no such file"),
        ("convert ConvMixer768 a.keras", ValueError, "ConvMixer768 is neither a file nor a variant with published"),
        ("convert run a.onnx", ValueError, "a.onnx must end in .keras"),
    ],
)
def test_what_is_something_else_is_answered_before_tensorflow_starts(words, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("bundle/manifest.json", "begun/checkpoints/a", "run/model.keras", "empty/a", "text.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "run" / "model.keras.txt").symlink_to(tmp_path / "text.txt")
    if "--out run" in words:
        (tmp_path / "run" / "model.keras.txt").unlink()
    monkeypatch.setattr(command_line, "waiting", lambda _: pytest.fail("TensorFlow starts"))
    with pytest.raises(error, match=f"^.*{re.escape(message)}"):
        read(words.split(), BY_NAME)()


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
    assert "convmixer --tyro-write-completion bash" in command_line.MORE
    monkeypatch.setattr("sys.argv", ["convmixer", "--tyro-write-completion", "bash", str(file)])
    with pytest.raises(SystemExit) as ended:
        run_app(COMMANDS, with_recipe)
    assert not ended.value.code
    shown = subprocess.run(["bash", "-c", COMPLETE, "-", file], capture_output=True, text=True, check=True).stdout
    assert shown.split("\n") == ["export", "--validation-images", "--image-size", ""]


def test_convmixer_alone_prints_a_line_for_each_command_that_fits_into_80_columns():
    lines = [*command_line.short_help(COMMANDS), *command_line.MORE.splitlines()]
    assert max(map(len, lines)) <= 80
    for command in COMMANDS:
        assert any(line.startswith(f"  {command.__name__} ") for line in lines)
