import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import run_forked

from keras_convmixer.export import read_manifest


def test_it_loads_where_this_package_never_was(toy, toy_bundle, tmp_path):
    np.save(tmp_path / "images.npy", toy.test_images)
    code = (
        "import sys, numpy, tensorflow as tf\n"
        "classify = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "images = tf.constant(numpy.load(sys.argv[2]))\n"
        "numpy.save(sys.argv[3], classify(images=images)['probabilities'].numpy())"
    )
    files = (toy_bundle / "saved_model/1", tmp_path / "images.npy", tmp_path / "probabilities.npy")
    process = run_forked(code, *files, blocked=("keras_convmixer", "keras"))
    assert process.returncode == 0, process.stderr
    expected = toy.model(toy.test_images.astype("float32"), training=False)
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), expected, atol=1e-5)


@pytest.mark.slow
def test_saved_model_cli_shows_names_and_shapes(toy_bundle):
    cli = Path(sys.executable).with_name("saved_model_cli")
    arguments = ["show", "--dir", toy_bundle / "saved_model/1", "--tag_set", "serve"]
    arguments += ["--signature_def", "serving_default"]
    shown = subprocess.run([cli, *arguments], capture_output=True, text=True, check=True).stdout
    for words in (
        "inputs['images'] tensor_info:\n      dtype: DT_UINT8\n      shape: (-1, -1, -1, 3)",
        "outputs['probabilities'] tensor_info:\n      dtype: DT_FLOAT\n      shape: (-1, 3)",
        "tensorflow/serving/predict",
    ):
        assert words in shown


def test_the_manifest_names_the_graphs_operators(toy_bundle):
    operators = read_manifest(toy_bundle)["artifacts"][0]["ops"]
    assert operators["DepthwiseConv2dNative"] == 2
    assert operators["Softmax"] == 1
