"""MediaPipe in an environment of its own."""

import pytest
from environments import create_environment

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


@pytest.fixture(scope="module")
def mediapipe(once):
    """A Python with MediaPipe: an environment of its own, as what trains for int8 asks for another absl-py."""

    def install(folder):
        installed = create_environment(folder / "venv", MEDIAPIPE)
        if installed.returncode:
            pytest.skip(f"MediaPipe cannot be installed here: {installed.stderr.strip().splitlines()[-1]}")

    return once("mediapipe", install) / "venv/bin/python"
