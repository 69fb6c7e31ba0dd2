import numpy as np
import pytest
from litert_answers import raw_answers

from keras_convmixer.export.formats import FORMATS
from keras_convmixer.export.tflite import quantize
from keras_convmixer.export.tflite.conversion import Conversion
from keras_convmixer.export.tflite.flatbuffer import read_model
from keras_convmixer.export.tflite.operators import DTYPES

CONVERTED = [name for name, format in FORMATS.items() if format.convert]
TOLERANCE = {"dynamic": 0.02, "int16x8": 0.005, "weight_int8": 0.005, "weight_int4": 0.005}
"""Largest difference of a probability, else 1e-5. OpenVINO computes layers of integer weights in other integers or
floats than LiteRT."""


@pytest.mark.parametrize("format", CONVERTED)
def test_operator_codes_are_in_both_fields(all_formats, format):
    for code in read_model((all_formats / f"litert/{format}.tflite").read_bytes()).operatorCodes:
        assert code.deprecatedBuiltinCode == min(code.builtinCode, 127)


def test_int4_weights_have_three_dimensions_at_most_and_give_the_same_answers(all_formats, toy, monkeypatch):
    content = (all_formats / "litert/weight_int4.tflite").read_bytes()
    (graph,) = read_model(content).subgraphs
    ranks = [len(tensor.shape) for tensor in graph.tensors if DTYPES[tensor.type] == "INT4"]
    assert max(ranks) == 3
    monkeypatch.setattr(quantize, "let_openvino_read", lambda model: None)
    with Conversion(toy.model) as conversion:
        before = quantize.convert_weight_int4(conversion, toy.train_images)
        monkeypatch.undo()
        after = quantize.convert_weight_int4(conversion, toy.train_images)
    np.testing.assert_array_equal(raw_answers(before, toy.test_images)[0], raw_answers(after, toy.test_images)[0])


@pytest.mark.peer
@pytest.mark.parametrize("format", CONVERTED)
def test_openvino_answers_as_litert(all_formats, toy, format):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is a peer: make test-peers")
    path = all_formats / f"litert/{format}.tflite"
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = toy.test_images
    source = model.input(0).get_element_type().to_dtype()
    answers = np.stack([model([image[None].astype(source)])[model.output(0)][0] for image in images])
    expected, _ = raw_answers(path.read_bytes(), images)
    step = 1 if expected.dtype == np.uint8 else TOLERANCE.get(format, 1e-5)
    np.testing.assert_allclose(answers.astype(np.float32), expected.astype(np.float32), rtol=0, atol=step)
