import ast
import inspect
import json
from pathlib import Path

import keras
import numpy as np
import peers
import pytest

import keras_convmixer as kc

# The project's notes on the paper: kernel, patch, activation, million parameters, GMACs (None: not noted), top-1.
NOTED = {
    (1536, 20, 9, 7): ("gelu", 51.63, 51.1, 81.37),
    (768, 32, 7, 7): ("relu", 21.11, 20.68, 80.16),
    (1024, 20, 9, 14): ("gelu", 24.38, 5.95, 76.94),
    (1536, 24, 9, 14): ("gelu", 62.28, None, 80.21),
    (1536, 20, 3, 7): ("gelu", 49.41, None, 81.60),
    (1536, 20, 9, 14): ("gelu", 52.30, None, 78.92),
    (1024, 16, 9, 7): ("gelu", 19.38, None, 79.45),
    (1024, 12, 8, 7): ("gelu", 14.62, None, 77.75),
    (512, 16, 8, 7): ("gelu", 5.36, None, 73.76),
    (512, 12, 8, 7): ("gelu", 4.17, None, 72.59),
    (768, 32, 3, 14): ("relu", 20.47, None, 74.93),
    (256, 8, 5, 2): ("gelu", 0.594, None, 92.60),
}


def sizes(variant):
    return (variant.dim, variant.depth, variant.kernel_size, variant.patch_size)


def test_the_table_has_every_row_of_the_paper():
    assert {sizes(variant) for variant in kc.VARIANTS.values()} == set(NOTED)
    for variant in kc.VARIANTS.values():
        activation, parameters, gmacs, top1 = NOTED[sizes(variant)]
        assert variant.activation == activation
        assert variant.parameters / 1e6 == pytest.approx(parameters, abs=0.0051 if parameters > 1 else 0.0005)
        assert gmacs is None or variant.gmacs == pytest.approx(gmacs, abs=0.051 if gmacs > 50 else 0.0051)
        assert variant.top1 == top1
        read = {(1536, 20, 9, 7), (768, 32, 7, 7), (1024, 20, 9, 14), (512, 16, 8, 7), (256, 8, 5, 2)}
        assert ("reference" in variant.source) == (sizes(variant) in read)
        assert ("as reported" in variant.source) == (sizes(variant) not in read)
        epochs = {(1536, 20, 9, 7): "150 epochs", (768, 32, 7, 7): "300 epochs", (256, 8, 5, 2): "25 epochs"}
        assert variant.source.partition(", ")[2] == epochs.get(
            sizes(variant), "as reported" if sizes(variant) not in read else ""
        )
        assert variant.dataset == ("CIFAR-10" if variant.classes == 10 else "ImageNet")


@pytest.mark.parametrize("name", kc.VARIANTS)
def test_each_row_is_a_function_that_builds_it(name):
    variant = kc.VARIANTS[name]
    build = getattr(kc, name)
    model = build()
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    stem = model.get_layer("stem_conv")
    assert (stem.filters, len(convolutions), convolutions[0].kernel_size[0], stem.strides[0]) == sizes(variant)
    assert stem.kernel_size == stem.strides
    assert model.get_layer("block_0_depthwise_activation").activation.__name__ == variant.activation
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == variant.parameters
    assert model.input_shape == (None, variant.image_size, variant.image_size, 3)
    assert model.output_shape == (None, variant.classes)
    assert model.name == name.replace("ConvMixer", "convmixer_")


@pytest.mark.parametrize("name", ["ConvMixer512_12", "ConvMixer256_8"])
def test_the_functions_take_the_arguments_of_keras_applications(name):
    build = getattr(kc, name)
    theirs = inspect.signature(keras.applications.ConvNeXtTiny).parameters
    assert list(inspect.signature(build).parameters) == list(theirs)
    assert build(include_top=False).output_shape == (None, None, None, kc.VARIANTS[name].dim)
    assert build(include_preprocessing=True).layers[1].name == "preprocessing"
    assert build(input_shape=(64, 48, 1), classes=5, name="mine").input_shape == (None, 64, 48, 1)
    inputs = keras.Input((70, 70, 3))
    assert build(input_tensor=inputs, classes=5).input is inputs
    with pytest.raises(ValueError, match="pooling='mean'"):
        build(include_top=False, pooling="mean")


@pytest.mark.parametrize("name", kc.VARIANTS)
def test_each_function_says_what_it_is(name):
    variant, build = kc.VARIANTS[name], getattr(kc, name)
    assert build.__name__ == build.__qualname__ == name
    assert build.__module__ == "keras_convmixer.model.variant_models"
    text = " ".join(inspect.getdoc(build).split())
    kernel, patch = variant.kernel_size, variant.patch_size
    activation = {"gelu": "GELU", "relu": "ReLU"}[variant.activation]
    assert f"Build ConvMixer-{variant.dim}/{variant.depth} with {kernel}x{kernel} kernels" in text
    assert f"kernels on {patch}x{patch} patches and {activation}." in text
    assert f"{variant.parameters / 1e6:.2f} million parameters, {variant.gmacs:.2f} GMACs" in text
    assert (
        f"at {variant.image_size} pixels; top-1 on {variant.dataset} {variant.top1:.2f} % ({variant.source})." in text
    )
    assert ('`weights="imagenet"` loads the published weights.' in text) == (variant.weights is not None)


def test_the_package_names_every_function():
    assert set(kc.VARIANTS) == {n for n in kc.__all__ if n.startswith("ConvMixer")} - {"ConvMixer"}


@pytest.mark.peer
def test_operations_are_those_that_pytorch_counts(tmp_path):
    cases = {
        name: (
            {"dim": v.dim, "depth": v.depth, "kernel_size": v.kernel_size, "patch_size": v.patch_size},
            v.classes,
            v.image_size,
        )
        for name, v in kc.VARIANTS.items()
    }
    peers.run_timm("write_operations", path=tmp_path / "found.json", cases=cases)
    found = json.loads((tmp_path / "found.json").read_text())
    for name, variant in kc.VARIANTS.items():
        assert variant.gmacs * 1e9 == pytest.approx(found[name], rel=1e-9)


def tweet():
    return Path(inspect.getfile(kc)).with_name("model") / "tweet.py"


def test_the_tweet_fits_into_a_tweet():
    text = tweet().read_text(encoding="utf-8")
    assert len(text) <= 280
    assert len(text.encode()) == len(text)
    ast.parse(text)


@pytest.mark.parametrize("kernel_size", [5, 8])
def test_the_tweet_is_the_model(kernel_size):
    from keras_convmixer.model.tweet import ConvMixer

    ours = kc.ConvMixer(16, 3, kernel_size, 4, input_shape=(37, 32, 3), classes=7)
    theirs = ConvMixer(keras.Input((37, 32, 3)), 16, 3, kernel_size, 4, 7)
    random = np.random.RandomState(0)
    weights = [random.uniform(0.1, 1, weight.shape) for weight in ours.get_weights()]
    assert [w.shape for w in theirs.get_weights()] == [w.shape for w in weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    images = random.normal(size=(4, 37, 32, 3)).astype("float32")
    assert np.ptp(ours(images)) > 0.01
    np.testing.assert_allclose(theirs(images), ours(images), rtol=0, atol=1e-5)
    constants = [
        [(n.epsilon, n.momentum) for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
        for model in (ours, theirs)
    ]
    assert constants[0] == constants[1]
    assert len(constants[0]) == 7
