import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_convmixer import ConvMixer
from keras_convmixer.export.formats import FORMATS
from keras_convmixer.export.tflite import flatbuffer, quantize
from keras_convmixer.export.tflite.conversion import Conversion
from keras_convmixer.export.tflite.flatbuffer import read_model, write_model
from keras_convmixer.export.tflite.operators import read_operators
from keras_convmixer.export.tflite.rewrites.metadata import add_metadata


@pytest.fixture(scope="module")
def float32(toy_bundle):
    return (toy_bundle / "litert/float32.tflite").read_bytes()


@pytest.fixture(scope="module")
def with_buffers_outside(float32):
    """The toy's float32 file with each constant behind the flatbuffer, as converters write large files."""
    model = schema.ModelT.InitFromPackedBuf(float32, 0)
    held = {number: buffer.data for number, buffer in enumerate(model.buffers) if buffer.data is not None}
    for number in held:
        model.buffers[number].data, model.buffers[number].offset, model.buffers[number].size = None, 1, 1

    def packed():
        builder = flatbuffer.flatbuffers.Builder()
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    content = bytearray(packed())  # as long as the last one: each offset takes 8 bytes, whatever it is
    for number, data in held.items():
        content += bytes(-len(content) % 16)
        model.buffers[number].offset, model.buffers[number].size = len(content), len(data)
        content += data.tobytes()
    first = packed()
    return first + bytes(content[len(first) :])


def answer(content, image):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_buffers_outside_of_the_flatbuffer_are_read_and_written_inside(toy, float32, with_buffers_outside):
    held = [buffer.data for buffer in read_model(with_buffers_outside).buffers]
    for one, other in zip(read_model(float32).buffers, held, strict=True):
        np.testing.assert_array_equal(one.data, other)
    again = write_model(read_model(with_buffers_outside))
    assert all(not buffer.offset and not buffer.size for buffer in schema.ModelT.InitFromPackedBuf(again, 0).buffers)
    image = toy.test_images[:1].astype(np.float32)
    np.testing.assert_array_equal(answer(again, image), answer(float32, image))


def test_large_custom_options_are_read_and_written_inside(float32):
    options = np.arange(200, dtype=np.uint8)
    model = read_model(float32)
    operator = model.subgraphs[0].operators[0]
    operator.largeCustomOptionsOffset, operator.largeCustomOptionsSize = 10**6, len(options)
    content = write_model(model).ljust(10**6) + options.tobytes()
    again = read_model(write_model(read_model(content))).subgraphs[0].operators[0]
    np.testing.assert_array_equal(again.customOptions, options)
    assert again.largeCustomOptionsOffset == again.largeCustomOptionsSize == 0


@pytest.mark.parametrize("format", ["float32", "float16", "dynamic", "int8"])
def test_constants_are_aligned_as_the_schema_demands(toy_bundle, format):
    content = (toy_bundle / f"litert/{format}.tflite").read_bytes()  # after all rewrites
    start = np.frombuffer(content, np.uint8).ctypes.data
    held = [buffer.data for buffer in read_model(content).buffers if buffer.data is not None]
    assert len(held) > 10
    assert {(data.ctypes.data - start) % 16 for data in held} == {0}


def test_a_file_that_was_cut_short(with_buffers_outside, float32):
    with pytest.raises(ValueError, match=r"cut short: constant \d+ ends at byte [\d,]+ of [\d,]+; convert or copy"):
        read_model(with_buffers_outside[:-4])
    with pytest.raises(ValueError, match=r"not a \.tflite file"):
        read_model(b"\x89PNG" + float32[4:8][::-1])


def test_a_file_over_2_gigabytes_is_refused_in_a_sentence(float32, monkeypatch):
    # The constants alone; with the rest of the flatbuffer; with the labels.
    constants = sum(len(buffer.data) for buffer in read_model(float32).buffers if buffer.data is not None)
    packed = len(write_model(read_model(float32)))
    labelled = len(add_metadata(float32, "toy", "", ("a", "b", "c"), True, (8, 8, 3)))
    for limit in (constants - 1, constants, packed - 1):
        monkeypatch.setattr(flatbuffer, "LARGEST", limit)
        with pytest.raises(ValueError, match=r"holds at most .+ MB, and this one would need .+: take a format with"):
            write_model(read_model(float32))
    monkeypatch.setattr(flatbuffer, "LARGEST", labelled - 1)
    with pytest.raises(ValueError, match="holds at most"):
        add_metadata(float32, "toy", "", ("a", "b", "c"), True, (8, 8, 3))
    monkeypatch.setattr(flatbuffer, "LARGEST", labelled)
    add_metadata(float32, "toy", "", ("a", "b", "c"), True, (8, 8, 3))


@pytest.mark.parametrize("name", ["dynamic", "int16x8", "weight_int8", "weight_int4"])
def test_metadata_of_quantized_files_of_real_width(name, monkeypatch):
    """litert-quantizer writes weights behind the flatbuffer, once there are 256 KiB of them."""
    model = ConvMixer(
        768, 1, kernel_size=7, patch_size=8, input_shape=(32, 32, 3), include_preprocessing=True, classes=9
    )
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    quantized = []

    def read(content):
        quantized.append(content)
        return read_model(content)

    monkeypatch.setattr(quantize, "read_model", read)
    with Conversion(model) as conversion:
        FORMATS[name].convert(conversion, images)
    (content,) = quantized  # as litert-quantizer returns it
    assert any(buffer.offset > 1 for buffer in schema.ModelT.InitFromPackedBuf(content, 0).buffers)
    again = add_metadata(content, "wide", "", tuple("abcdefghi"), True, (32, 32, 3))
    np.testing.assert_array_equal(answer(again, images), answer(content, images))
    assert read_operators(again) == read_operators(content)
    assert len(again) < len(content) + 20_000
