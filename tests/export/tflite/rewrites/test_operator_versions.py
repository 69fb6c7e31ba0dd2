import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_convmixer.export.tflite.flatbuffer import read_model, write_model
from keras_convmixer.export.tflite.operators import code_name, operator_name
from keras_convmixer.export.tflite.rewrites.operator_versions import min_runtime_version, oldest_runtime, set_versions


@pytest.fixture
def dynamic(toy_bundle):
    return read_model((toy_bundle / "litert/dynamic.tflite").read_bytes())


def versions(content):
    return {code_name(code): code.version for code in read_model(content).operatorCodes}


def dense(model):
    (graph,) = model.subgraphs
    for operator in graph.operators:
        if operator_name(model, operator) == "FULLY_CONNECTED":
            return model.operatorCodes[operator.opcodeIndex], graph.tensors[operator.inputs[1]]
    raise AssertionError("no dense layer")


@pytest.mark.parametrize("format", ["float32", "float16", "dynamic", "int8"])
def test_they_are_those_that_tensorflow_writes_for_the_same_operators(toy_bundle, format):
    """TensorFlow's exporter derives the versions anew when it writes a file that it has read."""
    from tensorflow.lite.python.convert import mlir_sparsify

    content = (toy_bundle / f"litert/{format}.tflite").read_bytes()
    again = mlir_sparsify(write_model(read_model(content)))
    ours, theirs = versions(content), versions(again)
    assert {name: ours[name] for name in theirs} == theirs
    assert min_runtime_version(read_model(content)) == min_runtime_version(read_model(again))


def test_a_dense_layer_with_a_scale_for_each_channel_needs_version_12(dynamic):
    code, weights = dense(dynamic)
    assert code.version == 3
    weights.quantization.scale = np.ones(weights.shape[0], np.float32)
    set_versions(dynamic)
    assert code.version == 12
    assert min_runtime_version(dynamic) == "2.17.0"
    assert oldest_runtime(write_model(dynamic)) == "ai-edge-litert 1.0.1"


def test_an_operator_on_integers_whose_version_is_not_known(dynamic):
    code, _ = dense(dynamic)
    code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.CUMSUM, 127
    with pytest.raises(ValueError, match=r"^CUMSUM of FLOAT32, INT8, FLOAT32 to FLOAT32 is a quantized operator whose"):
        set_versions(dynamic)
    code.version = 2
    set_versions(dynamic, as_converted=True)
    assert code.version == 2


def test_a_file_that_needs_more_than_the_known_runtimes(dynamic):
    (entry,) = (entry for entry in dynamic.metadata if entry.name == b"min_runtime_version")
    dynamic.buffers[entry.buffer].data = np.frombuffer(b"2.99.0".ljust(16, b"\0"), np.uint8)
    assert oldest_runtime(write_model(dynamic)).startswith("ai-edge-litert 2.")
