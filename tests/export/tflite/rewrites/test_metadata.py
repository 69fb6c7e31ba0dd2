import io
import json
import subprocess
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from mediapipe_peer import CLASSIFY
from PIL import Image

from keras_convmixer.export import Classifier
from keras_convmixer.export.tflite.rewrites.metadata import add_metadata

FORMATS = ("float32", "float16", "dynamic", "int8")


def test_labels_are_an_associated_file(toy_bundle):
    for format in FORMATS:
        with zipfile.ZipFile(toy_bundle / f"litert/{format}.tflite") as archive:
            assert archive.read("labels.txt") == b"red\ngreen\nblue\n"


def test_the_model_is_left_as_it_is(toy_bundle):
    content = (toy_bundle / "litert/float32.tflite").read_bytes()
    again = add_metadata(content, "toy", "", ("a", "b", "c"), True, (8, 8, 3))
    former, latter = (schema.ModelT.InitFromPackedBuf(file, 0) for file in (content, again))
    assert len(latter.buffers) == len(former.buffers) + 1
    for one, other in zip(former.buffers, latter.buffers, strict=False):
        np.testing.assert_array_equal(one.data, other.data)
    assert [o.opcodeIndex for o in former.subgraphs[0].operators] == [
        o.opcodeIndex for o in latter.subgraphs[0].operators
    ]


@pytest.mark.slow
def test_mediapipe_gives_the_labels_and_scores_of_predict(toy, toy_bundle, mediapipe, tmp_path):
    paths = []
    for number, image in enumerate(toy.test_images[:6]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    command = [mediapipe, "-c", CLASSIFY, toy_bundle, ",".join(FORMATS), *paths]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    assert set(found) == set(FORMATS)
    for format, answers in found.items():
        classify = Classifier.load(toy_bundle, format)
        for path, scores in zip(paths, answers, strict=True):
            expected = {prediction.label: prediction.probability for prediction in classify(path, top=3)}
            assert scores == pytest.approx(expected, abs=1e-2)


def test_the_same_twice(toy_bundle):
    content = (toy_bundle / "litert/int8.tflite").read_bytes()
    one, other = (add_metadata(content, "toy", "int8", ("a", "b", "c"), False, (8, 8, 3)) for _ in range(2))
    assert one == other
    with zipfile.ZipFile(io.BytesIO(one)) as archive:
        assert archive.infolist()[-1].date_time == (1980, 1, 1, 0, 0, 0)
