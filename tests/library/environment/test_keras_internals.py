"""One file holds Keras's private names, and each of them is what the installed version of Keras has."""

import ast
import contextlib
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_convmixer.environment import keras_internals as internals

ROOT = Path(__file__).parents[3]
INTERNALS = ROOT / "keras_convmixer" / "environment" / "keras_internals.py"
OTHERS_NAMES = {
    *("_get_ops_details", "_get_tensor_details"),  # ai-edge-litert's interpreter
    *("_geo", "_hardware"),  # codecarbon's tracker
    *("_make", "_replace", "_asdict", "_fields"),  # of named tuples, documented
}


def private(name):
    return name.startswith("_") and not name.startswith("__")


def private_names_of_keras(path):
    """Lines and names of a file: imports of keras.src, and private attributes of others that it does not define."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    stored = [node for node in nodes if isinstance(getattr(node, "ctx", None), ast.Store)]
    own |= {getattr(node, "attr", getattr(node, "id", None)) for node in stored}  # self._name = ..., _name: int = ...
    for node in nodes:
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own | OTHERS_NAMES:
            yield node.lineno, node.attr
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from ((node.lineno, name) for name in modules if name.startswith("keras.src"))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("keras.src"):
            yield node.lineno, node.value


def test_no_other_file_uses_a_private_name_of_keras(tmp_path):
    folders = [ROOT / name for name in ("keras_convmixer", "training", "export", "commands")]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py")) if file != INTERNALS]
    found = [(file.relative_to(ROOT), *place) for file in files for place in private_names_of_keras(file)]
    places = "".join(f"\n{file}:{line}: {name}" for file, line, name in found)
    assert not found, f"move Keras's private names into keras_internals.py, list other libraries' above:{places}"
    broken = tmp_path / "broken.py"
    broken.write_text("import keras.src.ops\n_mine = 'keras.src.x'\n\ndef f(tensor):\n    tensor._history\n")
    assert [name for _, name in sorted(private_names_of_keras(broken))] == ["keras.src.ops", "keras.src.x", "_history"]


@contextlib.contextmanager
def needs(*names):
    """Say which private names of Keras are not what they were, where the code inside fails."""
    try:
        yield
    except Exception as error:
        pytest.fail(f"Keras {keras.__version__} has changed {' or '.join(names)} ({type(error).__name__}: {error})")


def small_model():
    """Two inputs in a dict, a layer that is called twice, an operation with two outputs; also returns its parts."""
    one, two = keras.Input((4,), name="one"), keras.Input((4,), name="two")
    dense = keras.layers.Dense(4, name="dense")
    first, second = keras.ops.split(dense(dense(one)), 2, axis=-1)
    total = keras.layers.Concatenate(name="join")([second, first]) + two
    return keras.Model({"one": one, "two": two}, {"total": total}), one, dense, second, total


def test_a_tensor_knows_the_call_that_returned_it():
    _, one, dense, second, total = small_model()
    with needs("KerasTensor._keras_history.operation"):
        assert internals.producer(one).name == "one"
    with needs("KerasTensor._keras_history.tensor_index"):
        assert internals.output_index(second) == 1
    with needs("KerasTensor._keras_history", "Operation._inbound_nodes", "Node.operation, .input_tensors, .outputs"):
        call = internals.call_of(total)
        assert call.operation is internals.producer(total)
        assert call.outputs[0] is total
        assert internals.call_of(second).outputs[1] is second
        assert [internals.producer(tensor).name for tensor in call.inputs] == ["join", "two"]
    with needs("Operation._inbound_nodes"):
        assert internals.times_called(dense) == 2


def test_a_calls_arguments_can_be_exchanged():
    x = keras.Input((4,))
    call = internals.call_of(keras.layers.BatchNormalization()(x, training=True))
    with needs("Node.arguments.args, .kwargs"):
        assert call.args[0] is x
        assert call.kwargs["training"] is True
    with needs("Node.arguments.fill_in"):
        args, kwargs = call.arguments_with({id(x): "another"})
        assert args == ("another",)
        assert kwargs["training"] is True


def test_a_graph_is_a_model_without_code_of_its_own():
    class Own(keras.Model):
        def call(self, x):
            return super().call(x)

    class Inherited(keras.Sequential):
        pass

    x = keras.Input((4,))
    with needs("keras.src.models.functional.Functional"):
        assert internals.graph_of(model := keras.Model(x, 2 * x)) is model
        assert internals.graph_of(Own(x, 2 * x)) is None
        assert internals.graph_of(keras.layers.Dense(4)) is None
    with needs("Sequential._functional"):
        assert internals.graph_of(keras.Sequential([keras.layers.Dense(4)])) is None
        for kind in (keras.Sequential, Inherited):
            assert len(internals.graph_of(kind([x, keras.layers.Dense(4)])).inputs) == 1


def test_a_graphs_calls_come_in_the_order_in_which_keras_runs_them():
    model, one, _, _, _ = small_model()
    with needs("Functional._nodes_by_depth", "Node.is_input"):
        calls = internals.calls(model)
        assert [call.operation.name for call in calls[:2]] == ["dense", "dense"]
        assert calls[0].inputs[0] is one
        assert [type(call.operation).__name__ for call in calls[2:]] == ["Split", "Concatenate", "Add"]


def test_inputs_and_outputs_have_the_structure_that_they_were_given_with():
    model, *_ = small_model()
    with needs("Functional._inputs_struct"):
        assert set(internals.input_structure(model)) == {"one", "two"}
        assert isinstance(internals.input_structure(keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])), list)
    with needs("Functional._outputs_struct"):
        assert set(internals.output_structure(model)) == {"total"}


def test_layers_at_any_depth_are_found():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="inside")], name="inner")
    with needs("Layer._flatten_layers"):
        names = [layer.name for layer in internals.all_layers(keras.Sequential([inner], name="outer"))]
        assert names[:2] == ["outer", "inner"]
        assert "inside" in names


def test_a_graph_runs_by_ones_own_calls():
    model, *_ = small_model()
    seen, arrays = [], [np.ones((1, 4), "float32")] * 2

    def call(operation, *args, **kwargs):
        seen.append(type(operation).__name__)
        return operation(*args, **kwargs)

    with needs("Function._run_through_graph"):
        result = internals.run_graph(model, arrays, call)
        np.testing.assert_array_equal(result["total"], model(dict(zip(("one", "two"), arrays, strict=True)))["total"])
        assert seen == ["Dense", "Dense", "Split", "Concatenate", "Add"]


def test_an_operation_is_known_by_its_module_and_class():
    x = keras.Input((4,))
    for result, module, name in ((keras.ops.relu(x), "nn", "Relu"), (x + x, "numpy", "Add")):
        with needs(f"keras.src.ops.{module}.{name}"):
            assert internals.is_operation(internals.producer(result), module, {name})
            assert not internals.is_operation(internals.producer(result), module, {"Other"})


def test_the_layers_of_convnext_are_the_ones_its_models_are_made_of():
    with needs("keras.src.applications.convnext.LayerScale, .StochasticDepth"):
        model = keras.applications.ConvNeXtTiny(weights=None, input_shape=(32, 32, 3), include_top=False)
        found = {type(layer) for layer in internals.all_layers(model)}
        assert internals.LayerScale in found
        assert internals.LayerScale(1e-6, 4).init_values == 1e-6
        assert internals.StochasticDepth(0.5).drop_path_rate == 0.5
