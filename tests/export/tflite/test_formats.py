import keras
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_convmixer.export import formats, read_manifest
from keras_convmixer.export.tflite import conversion as litert
from keras_convmixer.export.tflite.flatbuffer import read_model
from keras_convmixer.export.tflite.operators import DTYPES, operator_name


def dtypes_of(path):
    """Dtypes of the weights and of the inputs of each kind of operator, as the file's own schema names them."""
    names = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    operators = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs

    def kind(operator):
        code = model.operatorCodes[operator.opcodeIndex]
        return operators[max(code.builtinCode, code.deprecatedBuiltinCode)]

    makers = {output: operator for operator in graph.operators for output in operator.outputs}
    found = {}
    for operator in graph.operators:
        if kind(operator) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            weight = operator.inputs[1]
            while weight in makers and kind(makers[weight]) in ("RESHAPE", "DEQUANTIZE"):
                weight = makers[weight].inputs[0]
            dtypes = names[graph.tensors[weight].type], names[graph.tensors[operator.inputs[0]].type]
            found.setdefault(kind(operator), set()).add(dtypes)
    return found


@pytest.mark.parametrize(
    ("name", "dense", "depthwise"),
    [
        ("float32", ("FLOAT32", "FLOAT32"), ("FLOAT32", "FLOAT32")),
        ("float16", ("FLOAT16", "FLOAT32"), ("FLOAT16", "FLOAT32")),
        ("dynamic", ("INT8", "FLOAT32"), ("FLOAT32", "FLOAT32")),
        ("int8", ("INT8", "INT8"), ("INT8", "INT8")),
        ("int16x8", ("INT8", "INT16"), ("INT8", "INT16")),
        ("weight_int8", ("INT8", "FLOAT32"), ("INT8", "FLOAT32")),
        ("weight_int4", ("INT4", "FLOAT32"), ("INT8", "FLOAT32")),
    ],
)
def test_what_a_formats_weights_and_activations_are(all_formats, name, dense, depthwise):
    found = dtypes_of(all_formats / f"litert/{name}.tflite")
    assert found == {"CONV_2D": {dense}, "FULLY_CONNECTED": {dense}, "DEPTHWISE_CONV_2D": {depthwise}}


def test_every_format_is_right_and_smaller_ones_are_smaller(all_formats):
    manifest = read_manifest(all_formats)
    assert manifest["rejected"] == []
    artifacts = {artifact["name"]: artifact for artifact in manifest["artifacts"]}
    assert set(artifacts) == {"saved_model", *formats.FORMATS} - {"qat_int8"}
    assert all(artifact["validation"]["accuracy"] == 1.0 for artifact in artifacts.values())


def test_formats_share_the_saved_model_and_the_float32_file(toy, monkeypatch):
    written, converted = [], []
    write, convert = litert.write_saved_model, litert._run_converter

    def write_once(model, path, **arguments):
        written.append(path)
        if len(written) == 1:
            path.joinpath("half").touch()
            raise OSError("a disk that failed once")
        write(model, path, **arguments)

    monkeypatch.setattr(litert, "write_saved_model", write_once)
    monkeypatch.setattr(litert, "_run_converter", lambda *a: converted.append(a) or convert(*a))
    with litert.Conversion(toy.model) as conversion:
        with pytest.raises(OSError, match="a disk that failed once"):
            formats.FORMATS["float32"].convert(conversion, toy.train_images)
        for name in ("float32", "float16", "dynamic", "int8", "int16x8", "weight_int8", "weight_int4"):
            formats.FORMATS[name].convert(conversion, toy.train_images)
    assert len(written) == 2  # the one that failed, and the one that every format starts from
    assert len(converted) == 2  # float32 and float16; litert-quantizer starts from float32
    assert not any(path.exists() for path in written)


@pytest.mark.slow
def test_operators_that_litert_quantizer_does_not_know(toy):
    """int8 takes TensorFlow's quantizer, as it has no float operators; int16x8 leaves them in float."""
    pixels = keras.Input((8, 8, 3))
    values = keras.layers.LeakyReLU(name="leaky")(keras.layers.Conv2D(8, 2)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling2D()(values)))
    with litert.Conversion(model) as conversion:
        for name, dtype in (("int8", "INT8"), ("int16x8", "FLOAT32")):
            content = formats.FORMATS[name].convert(conversion, toy.train_images[:, :8, :8])
            file = read_model(content)
            (graph,) = file.subgraphs
            (leaky,) = (each for each in graph.operators if operator_name(file, each) == "LEAKY_RELU")
            assert DTYPES[graph.tensors[leaky.inputs[0]].type] == dtype
