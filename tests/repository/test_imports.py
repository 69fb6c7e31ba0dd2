"""Imports between our own files: data flows one way, none goes in a circle, and every imported name exists."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY, TRAINING, EXPORT = "keras_convmixer", "keras_convmixer.training", "keras_convmixer.export"
COMMANDS = "keras_convmixer.commands"
FLOORS = {LIBRARY: ROOT / "keras_convmixer", TRAINING: ROOT / "training", EXPORT: ROOT / "export"}
PACKAGES = {**FLOORS, COMMANDS: ROOT / "commands"}


def files_by_module(package, folder):
    """Return every file of a package by the module's full name; links lead out of the package."""
    files = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        files[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return files


def imports_at_the_top(tree):
    """Yield import statements that run when a module is imported: not those in functions, or for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.If, ast.Try, ast.With)) and "TYPE_CHECKING" not in ast.unparse(node):
            yield from imports_at_the_top(node)


def absolute(node, module, path):
    """Return the full name of the module that a `from ... import` in a file names."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def floor_of(module):
    return next(
        (floor for floor in (COMMANDS, TRAINING, EXPORT, LIBRARY) if (module + ".").startswith(floor + ".")), None
    )


def imported_modules(module, path):
    """Yield the full names of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module, path)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_between_floors(tree):
    for floor, folder in tree.items():
        for module, path in sorted(files_by_module(floor, folder).items()):
            if floor == LIBRARY and path.name == "__main__.py":
                continue
            for imported in imported_modules(module, path):
                if floor_of(imported) not in (None, floor, LIBRARY):
                    yield path.name, imported


def test_data_flows_one_way():
    assert list(imports_between_floors(FLOORS)) == []


@pytest.mark.parametrize(
    "line",
    [
        *(
            "from keras_convmixer.export import export_bundle",
            "import keras_convmixer.export",
            "from ..export import x",
        ),
        "from keras_convmixer.commands import tables",
    ],
)
def test_the_rule_sees_a_breach(tmp_path, line):
    (tmp_path / "broken.py").write_text(f"def f():\n    {line}\n")
    assert list(imports_between_floors({TRAINING: tmp_path}))


def imported_files(module, path, files):
    """Return the modules among `files` that a file imports."""
    found = set()
    for node in imports_at_the_top(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = absolute(node, module, path)
            names = [name if (name := f"{base}.{alias.name}") in files else base for alias in node.names]
        found.update(name for name in names if name in files)
    return found - {module}


def circle(package, folder):
    files = files_by_module(package, folder)
    graph = {module: imported_files(module, path, files) for module, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return None


@pytest.mark.parametrize("package", PACKAGES)
def test_no_files_import_each_other(package):
    assert circle(package, PACKAGES[package]) is None


def test_the_rule_sees_a_circle(tmp_path):
    (tmp_path / "a.py").write_text("from .b import y\n")
    (tmp_path / "b.py").write_text("try:\n    from . import c\nexcept ImportError:\n    pass\n")
    (tmp_path / "c.py").write_text("import keras_convmixer.a\n")
    circular = "keras_convmixer.a -> keras_convmixer.b -> keras_convmixer.c -> keras_convmixer.a"
    assert sorted(circle("keras_convmixer", tmp_path).split(" -> ")[1:]) == sorted(circular.split(" -> ")[1:])
    (tmp_path / "c.py").write_text("def f():\n    import keras_convmixer.a\n")
    assert circle("keras_convmixer", tmp_path) is None


def defined_names(path):
    """Return the names that a file's top level defines or imports; None of a package, whose names load on use."""
    if path.name == "__init__.py":
        return None
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
    return names


def missing_imports(files, importing):
    """Yield each name that one of the files `importing` imports from one of `files`, which does not have it."""
    names = {module: defined_names(path) for module, path in files.items()}
    for module, path in importing.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                base = absolute(node, module, path)
                for alias in node.names:
                    if (
                        base in names
                        and f"{base}.{alias.name}" not in files
                        and alias.name not in (names[base] or {alias.name})
                    ):
                        yield f"{path.name}: {alias.name} of {base}"


def test_every_imported_name_exists(tmp_path):
    """Inside functions too, where a missing one shows only when the function runs."""
    files = {}
    for package, folder in PACKAGES.items():
        files |= files_by_module(package, folder)
    folders = (ROOT / name for name in ("tests", "benchmarks", "examples", "docs"))
    others = {path.as_posix(): path for folder in folders for path in folder.rglob("*.py")}
    assert list(missing_imports(files, files | others)) == []
    (tmp_path / "broken.py").write_text("def f():\n    from keras_convmixer.training.data.dataset import nothing\n")
    broken = {"keras_convmixer.broken": tmp_path / "broken.py"}
    assert list(missing_imports(files, broken)) == ["broken.py: nothing of keras_convmixer.training.data.dataset"]
