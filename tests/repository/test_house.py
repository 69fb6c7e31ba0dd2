"""The tree's own rules: what an import costs, what may print, what the wheel owns."""

import ast
import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from processes import run_python
from type_checker import reported

ROOT = Path(__file__).parents[2]
LIBRARY, TRAINING, EXPORT = "keras_convmixer", "keras_convmixer.training", "keras_convmixer.export"
COMMANDS = "keras_convmixer.commands"
FLOORS = {LIBRARY: ROOT / "keras_convmixer", TRAINING: ROOT / "training", EXPORT: ROOT / "export"}
ALL = {**FLOORS, COMMANDS: ROOT / "commands"}


def places_that_print(folder):
    """Files and lines that write to the terminal themselves: print(), rich's Console, sys.stdout and sys.stderr."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "Console", "sys.stdout.write", "sys.stderr.write"):
                yield path.name, ast.unparse(node)


def test_text_reaches_the_terminal_through_console_alone(tmp_path):
    """Where it is made printable; a child's answer to its parent is none of a terminal's."""
    found = {place for folder in ALL.values() for place in places_that_print(folder) if place[0] != "console.py"}
    answers = "print(json.dumps(_run(", "print(json.dumps(_is_wholly_accelerated("
    assert {(name, line) for name, line in found if not line.startswith(answers)} == set()
    (tmp_path / "broken.py").write_text("def f(label):\n    print(label)\n")
    assert list(places_that_print(tmp_path)) == [("broken.py", "print(label)")]


def modules_after(statement):
    process = run_python(f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))")
    return {name.split(".")[0] for name in json.loads(process.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "statement",
    ["import keras_convmixer", "import keras_convmixer.training, keras_convmixer.export"],
)
def test_importing_imports_no_framework(statement):
    heavy = {"tensorflow", "keras", "sklearn", "matplotlib", "tensorflow_datasets", "ai_edge_litert"}
    assert modules_after(statement) & heavy == set()


@pytest.mark.slow
def test_the_model_imports_nothing_of_the_other_floors():
    heavy = {"sklearn", "matplotlib", "tensorflow_datasets", "tensorflow_model_optimization", "ai_edge_litert"}
    of_keras = modules_after("import keras")  # takes some of these along where they are installed
    modules = modules_after("import keras_convmixer; keras_convmixer.ConvMixer")
    assert "keras" in modules
    assert modules & heavy <= of_keras


@pytest.mark.slow
def test_public_names_exist():
    run_python(
        "import keras_convmixer, keras_convmixer.training, keras_convmixer.export\n"
        "for package in (keras_convmixer, keras_convmixer.training, keras_convmixer.export):\n"
        "    assert len(package.__all__) > 1\n"
        "    for name in package.__all__:\n"
        "        assert isinstance(getattr(package, name), type(package)) == (name in ('training', 'export')), name\n"
        "        assert name in dir(package), name\n"
    )


def test_without_a_backend_the_sentence_says_what_to_install():
    code = "import sys; sys.modules['tensorflow'] = None\nimport keras_convmixer\nkeras_convmixer.ConvMixer"
    process = run_python(code, check=False)
    assert "ImportError: Keras needs a backend" in process.stderr
    assert "pip install '.[train]'" in process.stderr


def test_one_file_says_how_the_package_is_installed():
    """`pip install keras-convmixer` is said only where it is true: install.py's PUBLISHED."""
    files = [path for folder in ALL.values() for path in folder.rglob("*") if path.suffix in (".py", ".yaml", ".jinja")]
    assert {path.name for path in files if "keras-convmixer[" in path.read_text()} == {"install.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT], check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_owns_one_import_name_and_holds_every_module(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"keras_convmixer"}
    expected = {
        "/".join([*floor.split("."), path.relative_to(folder).as_posix()])
        for floor, folder in ALL.items()
        for path in folder.rglob("*")
        if path.suffix in (".py", ".pyi", ".typed", ".txt", ".sh", ".yaml", ".json", ".jinja")
    }
    assert set(names) == expected


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(wheel, toy_bundle, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    bin = tmp_path / "venv" / "bin"
    subprocess.run([bin / "python", "-m", "pip", "install", "--quiet", wheel], check=True, cwd=tmp_path)

    def run(*command):
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    code = "import keras_convmixer as k, keras_convmixer.training.recipes; print(k.__file__)"
    assert str(tmp_path) in run(bin / "python", "-c", code)
    assert "quickstart" in run(bin / "convmixer", "--help")
    assert "name=" in run(bin / "python", "-c", "from keras_convmixer.training import RECIPES; print(RECIPES)")
    assert "ConvMixer1536_20" in run(bin / "convmixer", "variants")
    calls = shutil.copy(Path(__file__).with_name("public_calls.py"), tmp_path)
    assert reported(calls, folder=tmp_path, python=bin / "python") == []
    subprocess.run([bin / "python", "-m", "pip", "install", "--quiet", f"{wheel}[predict]"], check=True, cwd=tmp_path)
    Image.new("RGB", (20, 30), (60, 200, 60)).save(tmp_path / "photo.png")
    answer = json.loads(run(bin / "convmixer", "predict", toy_bundle, "photo.png", "--json"))
    assert answer["predictions"][0]["label"] == "green"
    assert "tensorflow" not in run(bin / "python", "-m", "pip", "list")
