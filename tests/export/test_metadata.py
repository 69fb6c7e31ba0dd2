import io
import json
import subprocess
import venv
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from PIL import Image

from keras_convmixer.export import Classifier
from keras_convmixer.export.metadata import add_metadata

FORMATS = ("float32", "float16", "dynamic", "int8")
MEDIAPIPE = "mediapipe == 1.2.3"
CLASSIFY = """
import json, sys
import mediapipe
from mediapipe.tasks.python import BaseOptions, vision

bundle, formats, *pictures = sys.argv[1:]
found = {}
for format in formats.split(","):
    base = BaseOptions(model_asset_path=f"{bundle}/litert/{format}.tflite")
    with vision.ImageClassifier.create_from_options(vision.ImageClassifierOptions(base_options=base)) as classifier:
        for picture in pictures:
            (head,) = classifier.classify(mediapipe.Image.create_from_file(picture)).classifications
            scores = {category.category_name: category.score for category in head.categories}
            found.setdefault(format, []).append(scores)
print(json.dumps(found))
"""


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


@pytest.fixture(scope="module")
def mediapipe(once):
    """A Python with MediaPipe: an environment of its own, as what trains for int8 asks for another absl-py."""

    def install(folder):
        venv.create(folder / "venv", with_pip=True)
        command = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet", MEDIAPIPE]
        installed = subprocess.run(command, capture_output=True, text=True)
        if installed.returncode:
            pytest.skip(f"MediaPipe cannot be installed here: {installed.stderr.strip().splitlines()[-1]}")

    return once("mediapipe", install) / "venv/bin/python"


@pytest.mark.slow
def test_mediapipe_gives_the_labels_and_scores_of_predict(toy, toy_bundle, mediapipe, tmp_path):
    pictures = []
    for number, image in enumerate(toy.test_images[:6]):
        pictures.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(pictures[-1])
    command = [mediapipe, "-c", CLASSIFY, toy_bundle, ",".join(FORMATS), *pictures]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    assert set(found) == set(FORMATS)
    for format, answers in found.items():
        classify = Classifier.load(toy_bundle, format)
        for picture, scores in zip(pictures, answers, strict=True):
            expected = {prediction.label: prediction.probability for prediction in classify(picture, top=3)}
            assert scores == pytest.approx(expected, abs=1e-2)


def test_the_same_twice(toy_bundle):
    content = (toy_bundle / "litert/int8.tflite").read_bytes()
    one, other = (add_metadata(content, "toy", "int8", ("a", "b", "c"), False, (8, 8, 3)) for _ in range(2))
    assert one == other
    with zipfile.ZipFile(io.BytesIO(one)) as archive:
        assert archive.infolist()[-1].date_time == (1980, 1, 1, 0, 0, 0)
