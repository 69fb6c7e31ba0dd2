"""Damaged .tflite files: `Classifier` and `inspect` answer, or refuse in a sentence, and live."""

import json

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator
from PIL import Image
from processes import run_python

from keras_convmixer.export import Classifier, inspect
from keras_convmixer.export.tflite.flatbuffer import read_model, write_model
from keras_convmixer.export.tflite.rewrites.metadata import LABELS

FUZZ = """
import json, random, sys, time
from pathlib import Path
from keras_convmixer.environment.console import silence_native_logs
silence_native_logs()
from keras_convmixer.export import Classifier, inspect
from keras_convmixer.environment.peak_memory import peak_memory

image, path, count, *sources = sys.argv[1:]
found = {"answered": 0, "refused": 0, "slowest": 0.0, "sentences": []}
for seed in range(int(count)):
    chance = random.Random(seed)
    content = bytearray(Path(sources[seed % len(sources)]).read_bytes())
    how = seed // len(sources) % 4
    if how == 0:
        for _ in range(chance.choice((1, 4, 32))):
            content[chance.randrange(len(content))] = chance.randrange(256)
    elif how == 1:
        del content[chance.randrange(len(content)):]
    elif how == 2:  # the tables of a flatbuffer lie behind its constants
        for _ in range(chance.choice((1, 4, 16))):
            content[chance.randrange(len(content) * 3 // 4, len(content))] = chance.randrange(256)
    else:
        place, size = chance.randrange(len(content)), chance.choice((4, 64, 1024))
        content[place : place + size] = chance.randbytes(chance.choice((4, 64, 1024)))
    Path(path).write_bytes(content)
    for read in (lambda: Classifier.load(path)(image), lambda: inspect(path)):
        started = time.process_time()
        try:
            read()
            found["answered"] += 1
        except ValueError as error:
            found["refused"] += 1
            found["sentences"].append(str(error))
        found["slowest"] = max(found["slowest"], time.process_time() - started)
found["megabytes"] = peak_memory() / 2**20
print(json.dumps(found))
"""


@pytest.mark.slow
def test_500_fuzzed_files_are_answered_or_refused_in_a_sentence(toy_bundle, tmp_path):
    Image.new("RGB", (20, 20), "green").save(tmp_path / "green.png")
    sources = [toy_bundle / f"litert/{name}.tflite" for name in ("float32", "int8", "dynamic")]
    path = tmp_path / "fuzzed.tflite"
    found = json.loads(run_python(FUZZ, tmp_path / "green.png", path, 500, *sources).stdout.splitlines()[-1])
    assert found["answered"] > 50
    assert found["refused"] > 200
    assert found["slowest"] < 5
    assert found["megabytes"] < 1000
    for sentence in found["sentences"]:
        assert "\n" not in sentence
        assert "fuzzed.tflite" in sentence or "green.png" in sentence


@pytest.mark.parametrize(
    ("field", "value"),
    [("zeroPoint", 249 << 24), ("zeroPoint", -129), ("scale", 0.0), ("scale", np.nan), ("scale", 1e38)],
)
def test_quantized_numbers_at_which_litert_crashes_are_refused(toy_bundle, tmp_path, field, value):
    model = read_model((toy_bundle / "litert/int8.tflite").read_bytes())
    graph = model.subgraphs[0]
    # XNNPACK crashes on the image's, LiteRT's ADD on a huge scale of what it adds.
    number = graph.inputs[0]
    if value == 1e38:
        codes = [code.builtinCode for code in model.operatorCodes]
        number = next(one for one in graph.operators if codes[one.opcodeIndex] == BuiltinOperator.ADD).inputs[0]
    setattr(graph.tensors[number].quantization, field, [value])
    path = tmp_path / "damaged.tflite"
    path.write_bytes(write_model(model))
    with pytest.raises(ValueError, match=r"damaged.tflite is damaged: LiteRT crashes"):
        Classifier.load(path)
    with pytest.raises(ValueError, match=r"damaged.tflite is damaged: LiteRT crashes"):
        inspect(path)


def test_labels_that_would_fill_the_memory_are_not_read_whole(toy_bundle, tmp_path):
    import zipfile

    path = tmp_path / "bomb.tflite"
    path.write_bytes((toy_bundle / "litert/float16.tflite").read_bytes())
    with zipfile.ZipFile(path) as archive:
        (flatbuffer,) = [path.read_bytes()[: archive.start_dir]]
    path.write_bytes(flatbuffer)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(LABELS, b"x" * 2**27)
    assert sum(map(len, inspect(path).labels)) == 2**22
