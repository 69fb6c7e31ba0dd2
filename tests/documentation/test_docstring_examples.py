"""Every public function, class and method is documented with an example that runs, and so do other examples.

An example is a block in a docstring, fenced as Python. conftest.py says which names and files it finds.
"""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("keras_convmixer", "keras_convmixer.training", "keras_convmixer.export")
TO_WRITE = set()
"""Public names that have no example yet."""


def public_objects():
    """Return the public functions and classes by their names, and those of the classes' methods."""
    found = {}
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isfunction(value):
                found[name] = value
            elif inspect.isclass(value):
                found[name] = value
                found.update({f"{name}.{method}": member for method, member in methods(value)})
    return found


def methods(of_class):
    for name, member in vars(of_class).items():
        member = getattr(member, "__func__", getattr(member, "fget", member))  # of a classmethod, or of a property
        if inspect.isfunction(member) and (not name.startswith("_") or name == "__call__"):
            yield name, member


def examples(docstring):
    """Return the code of each example in a docstring."""
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", docstring or "", re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


def other_examples():
    """Return the examples of the library's functions and classes that it does not export, by module and name."""
    public = {inspect.getdoc(value) for value in OBJECTS.values()}
    found, folder = {}, ROOT / "keras_convmixer"
    for path in sorted(folder.rglob("*.py")):  # not through the links to training/, export/ and commands/
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                docstring = ast.get_docstring(node)
                if docstring not in public and examples(docstring):
                    found[f"{path.relative_to(folder)}: {node.name}"] = examples(docstring)
    return found


OBJECTS = public_objects()


def needs_example(name):
    """Whether a name must have an example: errors are raised, not called, and a class may show its methods itself."""
    is_error = inspect.isclass(OBJECTS[name]) and issubclass(OBJECTS[name], BaseException)
    return not is_error and "." not in name


def test_every_public_name_has_an_example():
    without = {name for name in OBJECTS if needs_example(name) and not examples(OBJECTS[name].__doc__)}
    assert without - TO_WRITE == set(), "write an example into these docstrings, fenced as ```python"
    assert TO_WRITE - without == set(), "these have an example now: take them off TO_WRITE"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OBJECTS if examples(OBJECTS[name].__doc__)])
def test_the_example_runs(name, run_example):
    names = None
    for code in examples(OBJECTS[name].__doc__):
        names = run_example(code, f"the example of {name}", names)


OTHERS = other_examples()


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_an_example_for_developers_runs(name, run_example):
    names = None
    for code in OTHERS[name]:
        names = run_example(code, f"the example of {name}", names)
