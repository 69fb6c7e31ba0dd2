"""The README's code runs as it stands there, with a small model in the place of the published one."""

import re
from pathlib import Path
from types import SimpleNamespace

import frozen
import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

import keras_convmixer as kc
from keras_convmixer.export.runtime.interpreter import LiteRTModel

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def section(title):
    return re.search(rf"\n##+ {title}\n(.*?)(?=\n##+ |\Z)", README, re.DOTALL)[1]


def code(title):
    return re.search(r"```python\n(.*?)```", section(title), re.DOTALL)[1]


def colours(count, seed):
    """Images whose class is their brightest of 5 colours; pixels 0..255."""
    random = np.random.RandomState(seed)
    labels = np.arange(count) % 5
    palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0], [0, 200, 200]])
    pixels = random.randint(0, 56, (count, 16, 16, 3)) + palette[labels][:, None, None]
    return tf.data.Dataset.from_tensor_slices((pixels.astype("uint8"), labels)).batch(8)


@pytest.mark.slow
def test_fine_tuning(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    save_file(frozen.tensors("odd_relu"), "published.safetensors")
    states = []

    def small(weights, **arguments):
        assert weights == "imagenet"
        keras.utils.set_random_seed(0)
        model = kc.ConvMixer(
            **frozen.arguments("odd_relu"), input_shape=(16, 16, 3), weights="published.safetensors", **arguments
        )
        states.append(model.get_weights())
        fit = model.fit

        def fit_and_keep(*args, **kwargs):
            history = fit(*args, **{**kwargs, "verbose": 0})
            states.append(model.get_weights())
            return history

        model.fit = fit_and_keep
        return model

    script = code("Fine-tuning").replace("import keras_convmixer as kc\n", "")
    names = {"kc": SimpleNamespace(ConvMixer768_32=small), "train": colours(700, 0), "validation": colours(50, 1)}
    exec(compile(script, "README.md", "exec"), names)

    assert "head.weight [11, 8] and head.bias [11] left out, as the model has 5 classes" in caplog.text
    start, head_trained, all_trained = states
    for before, after in zip(start[:-2], head_trained[:-2], strict=True):
        np.testing.assert_array_equal(before, after)  # the body was frozen, statistics too
    assert not np.array_equal(start[-2], head_trained[-2])
    assert not np.array_equal(head_trained[0], all_trained[0])
    model = keras.saving.load_model("mine.keras")
    statistics = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    np.testing.assert_array_equal(statistics.get_weights()[3], frozen.tensors("odd_relu")["stem.2.running_var"])
    assert model.evaluate(names["validation"], verbose=0)[1] > 0.6  # one in five is chance


def test_the_tweet_and_the_table_are_those_of_the_package():
    tweet = (Path(kc.__file__).parent / "tweet.py").read_text(encoding="utf-8")
    assert f"```\n{tweet}```" in section("In a tweet")
    assert f"{len(tweet)} characters" in section("In a tweet")
    for name, variant in kc.VARIANTS.items():
        (line,) = [line for line in README.splitlines() if f" {name} " in line and "│" in line]
        assert f" {variant.parameters / 1e6:.2f} " in line
        assert f" {variant.gmacs:.2f} " in line
        assert f" {variant.top1:.2f} " in line


def test_the_published_weights_example(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (300, 400, 3)).astype("uint8")).save("photo.jpg")

    def small(weights):
        assert weights == "imagenet"
        return kc.ConvMixer(**frozen.arguments("odd_relu"))

    library = {name: getattr(kc, name) for name in ("Preprocessing", "preprocess_input", "decode_predictions")}
    names = {"kc": SimpleNamespace(ConvMixer768_32=small, **library)}
    exec(compile(code("Published weights"), "README.md", "exec"), names)
    assert names["probabilities"].shape == (1, 1000)


def test_the_example_of_a_larger_batch(toy, toy_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").symlink_to(toy_bundle)
    (example,) = re.findall(r"```python\n(from ai_edge_litert.*?)```", section("Export"), re.DOTALL)
    *lines, answer = example.strip().split("\n")
    names = {"four_images": toy.test_images[:4].astype("float32")}
    exec(compile("\n".join(lines), "README.md", "exec"), names)
    together = eval(compile(answer, "README.md", "eval"), names)
    alone = LiteRTModel((toy_bundle / "litert/float32.tflite").read_bytes(), "float32")(toy.test_images[:4])
    assert np.ptp(alone, axis=0).max() > 0.1  # the images' answers differ
    np.testing.assert_allclose(together, alone, atol=1e-6)
