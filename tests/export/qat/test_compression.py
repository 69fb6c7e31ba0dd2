import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from processes import convmixer

from keras_convmixer.export import cluster, prune
from keras_convmixer.export.qat.compression import file_sizes, sparsity_of
from keras_convmixer.outputs.classifier import as_classifier, predict


def batches_of(images):
    """The toy's training images with their labels, in batches of 32, over and over."""
    labels = tf.one_hot(np.arange(len(images)) % 3, 3)
    for start in itertools.cycle(range(0, len(images) - 31, 32)):
        yield tf.cast(images[start : start + 32], tf.float32), labels[start : start + 32]


def kernels_of(model, kinds=("Conv2D", "Dense")):
    return {
        layer.name: keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers if type(layer).__name__ in kinds
    }


@pytest.fixture(scope="module")
def pruned(toy, once):
    def fill(folder):
        before = [weight.copy() for weight in toy.model.get_weights()]
        model = prune(toy.model, batches_of(toy.train_images), 30, 0.6, verbose=False)
        for now, then in zip(toy.model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, then)
        model.save(folder / "model.keras")

    return keras.saving.load_model(once("pruned", fill) / "model.keras")


@pytest.mark.slow
def test_pruning_leaves_the_zeros_that_were_asked_for_and_what_was_learned(toy, pruned):
    for name, kernel in kernels_of(pruned).items():
        assert np.mean(kernel == 0) == pytest.approx(0.6, abs=0.6 / kernel.size + 0.01), name
    assert sparsity_of(pruned) == pytest.approx(0.6, abs=0.02)
    assert all(np.all(kernel != 0) for kernel in kernels_of(pruned, ("DepthwiseConv2D",)).values())
    assert (predict(as_classifier(pruned), toy.test_images).argmax(-1) == toy.test_labels).all()


@pytest.mark.slow
def test_zeros_survive_into_the_files_and_gzip_finds_them(toy, pruned, tmp_path):
    names = ("float32", "dynamic", "int8")
    manifest = toy.export(tmp_path / "bundle", model=pruned, formats=names)
    assert manifest["rejected"] == []
    for name in names:
        interpreter = Interpreter(
            str(tmp_path / f"bundle/litert/{name}.tflite"), experimental_preserve_all_tensors=True
        )
        interpreter.allocate_tensors()
        operators = [op for op in interpreter._get_ops_details() if op["op_name"] in ("CONV_2D", "FULLY_CONNECTED")]
        assert len(operators) == len(kernels_of(pruned))
        for operator in operators:
            assert np.mean(interpreter.get_tensor(operator["inputs"][1]) == 0) > 0.55
    (size, zipped), (pruned_size, pruned_zipped) = file_sizes(toy.model), file_sizes(pruned)
    assert pruned_zipped < zipped < size
    assert pruned_zipped < pruned_size


@pytest.mark.slow
def test_clustered_layers_have_so_many_values(toy):
    model = cluster(toy.model, batches_of(toy.train_images), 20, 8, verbose=False)
    for name, kernel in kernels_of(model).items():
        assert 1 < len(np.unique(kernel)) <= 8, name
    assert (predict(as_classifier(model), toy.test_images).argmax(-1) == toy.test_labels).all()


@pytest.mark.parametrize(
    ("train", "number", "words"),
    [(prune, 1.0, "sparsity=1.0: give more than 0 and less than 1"), (cluster, 1, "clusters=1: give 2 or more")],
)
def test_numbers_out_of_range_are_named(toy, train, number, words):
    with pytest.raises(ValueError, match=words):
        train(toy.model, batches_of(toy.train_images), 1, number)
    with pytest.raises(ValueError, match="steps=0: give 1 or more"):
        train(toy.model, batches_of(toy.train_images), 0)


def cells(line):
    return [cell.strip() for cell in line.strip("│").split("│")] if "│" in line else []


@pytest.mark.slow
def test_the_command_leaves_a_run_that_export_takes(quickstart, tmp_path):
    out = tmp_path / "pruned"
    process = convmixer("compress", quickstart.run, "--out", out, "--steps", "60", "--sparsity", "0.5")
    assert process.returncode == 0, process.stderr
    rows = {row[0]: row[1:] for row in map(cells, process.stdout.splitlines()) if row}
    assert float(rows["after"][0].rstrip("%")) > 90
    assert rows["after"][1] == "50.0%"
    assert float(rows["after"][3]) < float(rows["before"][3])
    assert sorted(path.name for path in out.iterdir()) == ["labels.txt", "model.keras", "recipe.json"]
    process = convmixer("compress", quickstart.run, "--out", out)
    assert process.returncode == 2
    assert f"{out} is there: name a new folder with --out" in process.stderr
    process = convmixer("export", out, "--out", tmp_path / "bundle", "--formats", "weight_int8")
    assert process.returncode == 0, process.stderr
