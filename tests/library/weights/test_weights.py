"""Weights in and out, against timm and the reference in PyTorch; what needs neither is in `frozen`."""

import json
import logging

import frozen
import keras
import numpy as np
import peers
import pytest
from processes import run_python
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import keras_convmixer as kc

SMALL = {"dim": 8, "depth": 2, "kernel_size": 5, "patch_size": 2}
TOLERANCE = 1e-4  # of the largest logit


def model_like(sizes, shape=(None, None, 3), classes=1000, **arguments):
    return kc.ConvMixer(**sizes, input_shape=shape, classes=classes, **{"classifier_activation": None, **arguments})


def assert_close(ours, theirs):
    """Compare logits, which must depend on the images for that to mean anything."""
    assert np.ptp(theirs, axis=0).max() > 0.05 * np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


def tensors_of(case="odd_gelu"):
    return frozen.tensors(case)


@pytest.mark.parametrize("case", frozen.CASES)
def test_outputs_are_those_that_timm_once_computed(case, tmp_path):
    save_file(frozen.tensors(case), tmp_path / "model.safetensors")
    model = model_like(frozen.arguments(case), classes=frozen.CLASSES, weights=tmp_path / "model.safetensors")
    assert_close(model(frozen.images(case), training=False), np.load(frozen.FILE)[case])


OTHER_BACKEND = """
import json, sys, keras, numpy, keras_convmixer as kc
folder, cases = sys.argv[1], json.loads(sys.argv[2])
for case, arguments in cases.items():
    model = kc.ConvMixer(**arguments, input_shape=(None, None, 3), classifier_activation=None)
    kc.load_weights(model, f"{folder}/{case}.safetensors")
    kc.save_weights_torch(model, f"{folder}/{case}.back.safetensors")
    outputs = model(numpy.load(f"{folder}/{case}.npy"), training=False)
    numpy.save(f"{folder}/{case}.outputs.npy", keras.ops.convert_to_numpy(outputs))
    outputs = kc.deploy(model)(numpy.load(f"{folder}/{case}.npy"), training=False)
    numpy.save(f"{folder}/{case}.deployed.npy", keras.ops.convert_to_numpy(outputs))
print(keras.backend.backend())
"""


@pytest.mark.peer
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_compute_the_same(backend, tmp_path, monkeypatch):
    pytest.importorskip(backend, reason=f"{backend} is a peer: make test-peers")
    for name, value in {"KERAS_BACKEND": backend, **peers.JAX_COMPILES_QUICKLY}.items():
        monkeypatch.setenv(name, value)
    for case in frozen.CASES:
        save_file(frozen.tensors(case), tmp_path / f"{case}.safetensors")
        np.save(tmp_path / f"{case}.npy", frozen.images(case))
    cases = {case: {**frozen.arguments(case), "classes": frozen.CLASSES} for case in frozen.CASES}
    process = run_python(OTHER_BACKEND, tmp_path, json.dumps(cases))
    assert process.stdout.split()[-1] == backend
    for case in frozen.CASES:
        for outputs in ("outputs", "deployed"):
            assert_close(np.load(tmp_path / f"{case}.{outputs}.npy"), np.load(frozen.FILE)[case])
        back = load_file(tmp_path / f"{case}.back.safetensors")
        for name, tensor in frozen.tensors(case).items():
            np.testing.assert_array_equal(back[name], tensor)


def convert(folder, cases):
    """Load timm's files, compare the logits, and save the weights again."""
    for case, (activation, classes, sizes, image_sizes) in cases.items():
        weights = folder / f"{case}.safetensors"
        model = model_like(sizes, classes=classes, activation=activation, weights=weights)
        for height, width in image_sizes:
            logits = model(peers.images_of(height, width), training=False)
            assert_close(logits, np.load(folder / f"{case}.npz")[f"{height}x{width}"])
        kc.save_weights_torch(model, folder / f"{case}.ours.safetensors")


def compare_with_timm(folder, cases):
    """There and back: timm -> file -> Keras -> file -> timm, logits at each step."""
    peers.run_timm("write_weights_and_logits", folder=folder, cases=cases)
    convert(folder, cases)
    peers.run_timm("write_logits_of_ours", folder=folder, cases=cases)
    for case in cases:
        theirs, returned = np.load(folder / f"{case}.npz"), np.load(folder / f"{case}.ours.npz")
        assert len(theirs.files) == 2
        for size in theirs.files:
            assert_close(returned[size], theirs[size])


@pytest.mark.peer
def test_small_models_equal_timms(tmp_path):
    """Odd and even kernels, both activations, a size that the patch divides and one that it does not."""
    cases = {}
    for activation in ("gelu", "relu"):
        for kernel_size, patch_size in ((9, 7), (7, 14), (8, 7), (4, 2)):
            sizes = {"dim": 16, "depth": 3, "kernel_size": kernel_size, "patch_size": patch_size}
            cases[f"{activation}_{kernel_size}_{patch_size}"] = (activation, 13, sizes, [(56, 56), (61, 47)])
    compare_with_timm(tmp_path, cases)


FULL = {
    "1536_20": ("gelu", 1000, {"dim": 1536, "depth": 20, "kernel_size": 9, "patch_size": 7}, [(224, 224), (201, 170)]),
    "768_32": ("relu", 1000, {"dim": 768, "depth": 32, "kernel_size": 7, "patch_size": 7}, [(224, 224), (201, 170)]),
    "1024_20": ("gelu", 1000, {"dim": 1024, "depth": 20, "kernel_size": 9, "patch_size": 14}, [(224, 224), (201, 170)]),
    "512_16": ("gelu", 1000, {"dim": 512, "depth": 16, "kernel_size": 8, "patch_size": 7}, [(224, 224), (201, 170)]),
}


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("variant", FULL)
def test_full_models_equal_timms(tmp_path, variant):
    compare_with_timm(tmp_path, {variant: FULL[variant]})


def compare_with_reference(path, sizes, size, wrap, classes):
    torch = peers.import_torch()
    peer = peers.reference_convmixer(**sizes, classes=classes)
    torch.save(wrap(peer), path)
    model = model_like(sizes, classes=classes, weights=path)
    assert_close(model(peers.images_of(*size), training=False), peers.logits_of(peer, peers.images_of(*size)))


WRAPPINGS = {
    "plain": lambda peer: peer.state_dict(),
    "parallel": lambda peer: {f"module.{name}": tensor for name, tensor in peer.state_dict().items()},
    "nested": lambda peer: {"epoch": 3, "arch": "convmixer", "state_dict": peer.state_dict()},
    "nested_parallel": lambda peer: {"state_dict": WRAPPINGS["parallel"](peer)},
}


@pytest.mark.peer
@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("suffix", [".pth.tar", ".pt"])
@pytest.mark.parametrize("kernel_size", [4, 7])
def test_small_models_equal_the_references(tmp_path, wrapping, suffix, kernel_size):
    sizes = {"dim": 8, "depth": 2, "kernel_size": kernel_size, "patch_size": 3}
    compare_with_reference(tmp_path / f"model{suffix}", sizes, (31, 24), WRAPPINGS[wrapping], classes=5)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["1536_20", "1024_20"])
def test_full_models_equal_the_references(tmp_path, variant):
    _, classes, sizes, _ = FULL[variant]
    compare_with_reference(tmp_path / "model.pth.tar", sizes, (224, 224), WRAPPINGS["plain"], classes)


@pytest.mark.peer
def test_a_half_precision_model_in_training_loads_from_its_state_dict(tmp_path, model):
    torch = peers.import_torch()
    tensors = {name: torch.nn.Parameter(torch.tensor(tensor).half()) for name, tensor in tensors_of().items()}
    torch.save(tensors, tmp_path / "half.pth")
    kc.load_weights(model, tmp_path / "half.pth")
    stem = tensors_of()["stem.0.weight"].astype("float16").astype("float32")
    np.testing.assert_array_equal(model.get_layer("stem_conv").kernel, stem.transpose(2, 3, 1, 0))


@pytest.mark.parametrize("after_the_blocks", [0, 1, 2])
def test_the_references_numbers_need_no_pytorch(tmp_path, after_the_blocks):
    """The numbering of the reference's nn.Sequential, by hand: 0, 2, 3 and on, pooling and flattening, linear."""
    depth = frozen.CASES["odd_gelu"]["depth"]

    def number(name):
        if name.startswith("stem."):
            return name.removeprefix("stem.")
        if name.startswith("head."):
            return f"{3 + depth + after_the_blocks}.{name.removeprefix('head.')}"
        _, block, rest = name.split(".", 2)
        return f"{3 + int(block)}.{rest}"

    save_file({number(name): tensor for name, tensor in tensors_of().items()}, tmp_path / "numbered.safetensors")
    model = model_like(frozen.arguments("odd_gelu"), classes=frozen.CLASSES, weights=tmp_path / "numbered.safetensors")
    assert_close(model(frozen.images("odd_gelu"), training=False), np.load(frozen.FILE)["odd_gelu"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_converted(tmp_path, model, dtype):
    keras.config.floatx()  # Keras brings ml_dtypes, which knows bfloat16
    narrow = {name: tensor.astype(dtype) for name, tensor in tensors_of().items()}
    save_file(narrow, tmp_path / "model.safetensors")
    kc.load_weights(model, tmp_path / "model.safetensors")
    stem = model.get_layer("stem_conv").get_weights()[0]
    assert stem.dtype == "float32"
    np.testing.assert_array_equal(stem, narrow["stem.0.weight"].astype("float32").transpose(2, 3, 1, 0))


def test_saving_and_loading_keeps_every_bit(tmp_path, model, file):
    kc.load_weights(model, file)
    kc.save_weights_torch(model, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    for name, tensor in tensors_of().items():
        np.testing.assert_array_equal(back.pop(name), tensor)
    assert {(name.rsplit(".", 1)[1], str(counter.dtype)) for name, counter in back.items()} == {
        ("num_batches_tracked", "int64")
    }
    with safe_open(tmp_path / "back.safetensors", framework="numpy") as opened:
        assert opened.metadata() == {"format": "pt", "activation": "gelu"}  # transformers asks for the format
    assert len(back) == 1 + 2 * frozen.CASES["odd_gelu"]["depth"]


def test_keras_files_load_likewise(tmp_path, model, file):
    kc.load_weights(model, file)
    path = tmp_path / "model.keras"
    model.save(path)
    other = model_like(frozen.arguments("odd_gelu"), classes=frozen.CLASSES, weights=path)
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("suffix", [".safetensors", ".keras"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": 5}, "the model has 5 classes"),
        ({"include_top": False}, "the model has no classifier"),
        ({"include_top": False, "pooling": "avg"}, "the model has no classifier"),
    ],
)
def test_another_class_count_keeps_the_body_and_says_so(tmp_path, model, file, caplog, suffix, changes, said):
    kc.load_weights(model, file)
    path = tmp_path / f"model{suffix}"
    model.save(path) if suffix == ".keras" else kc.save_weights_torch(model, path)
    arguments = {**frozen.arguments("odd_gelu"), "input_shape": (56, 56, 3), "classes": frozen.CLASSES, **changes}
    keras.utils.set_random_seed(3)
    fresh = kc.ConvMixer(**arguments)
    keras.utils.set_random_seed(3)
    with caplog.at_level(logging.WARNING):
        loaded = kc.ConvMixer(**arguments, weights=path)
    (line,) = caplog.messages
    assert said in line
    assert "head.weight [11, 16] and head.bias [11] left out" in line
    for ours, theirs, start in zip(loaded.layers, model.layers, fresh.layers, strict=False):
        expected = start if ours.name == "head_dense" else theirs
        for a, b in zip(ours.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert loaded.layers[-1].name == fresh.layers[-1].name


def test_fitting_weights_are_loaded_without_a_word(model, file, caplog):
    kc.load_weights(model, file)
    assert caplog.messages == []


def test_a_channel_that_never_varied_is_no_damage(tmp_path, model):
    tensors = tensors_of()
    tensors["stem.2.running_var"][3] = 0
    save_file(tensors, tmp_path / "dead.safetensors")
    kc.load_weights(model, tmp_path / "dead.safetensors")
    assert model.get_layer("stem_bn").moving_variance[3] == 0


def test_a_model_that_was_compiled_with_a_loss_of_its_own_loads(tmp_path, model, file):
    kc.load_weights(model, file)
    model.compile("sgd", loss=lambda labels, outputs: keras.ops.mean(outputs))
    model.save(tmp_path / "model.keras")
    other = model_like(frozen.arguments("odd_gelu"), classes=frozen.CLASSES, weights=tmp_path / "model.keras")
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])


def test_what_timm_has_no_place_for_is_not_lost_silently(tmp_path, model):
    own = keras.layers.Dense(4, name="mine")(model.get_layer("block_2_pointwise_bn").output)
    inputs = keras.Input((56, 56, 3))
    before = keras.layers.Conv2D(3, 1, name="first")(inputs)
    for other, name in (
        (keras.Model(model.input, own), "mine"),
        (kc.ConvMixer(**SMALL, input_tensor=before, classes=3), "first"),
    ):
        with pytest.raises(ValueError, match=f"no place for: {name};"):
            kc.save_weights_torch(other, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_saving_needs_a_name_that_pytorch_users_can_read(tmp_path, model):
    (tmp_path / "model.pth").write_text("before")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        kc.save_weights_torch(model, tmp_path / "model.pth")
    assert (tmp_path / "model.pth").read_text() == "before"


def test_a_full_disk_leaves_what_was_there(small_disk, model):
    folder = small_disk("8k")
    (folder / "model.safetensors").write_text("before")
    with pytest.raises(OSError, match="no space is left"):
        kc.save_weights_torch(model, folder / "model.safetensors")
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    assert (folder / "model.safetensors").read_text() == "before"
