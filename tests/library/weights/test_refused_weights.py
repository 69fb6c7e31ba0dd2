"""Files of weights that must be refused: with one sentence, no code run, and the model as it was."""

import errno
import json
import os

import frozen
import keras
import numpy as np
import pytest
from refused import assert_refused
from safetensors.numpy import save_file

import keras_convmixer as kc


def test_every_misfit_is_listed(tmp_path, model):
    tensors = frozen.tensors("odd_gelu")
    tensors["head.weight"] = np.zeros((11, 17), "float32")
    tensors["extra.weight"] = np.zeros(3, "float32")
    del tensors["stem.2.running_mean"]
    for block in (0, 1):
        tensors[f"blocks.{block}.1.bias"] = np.zeros(5, "float32")
    del tensors["blocks.0.3.bias"], tensors["blocks.2.3.bias"]
    save_file(tensors, tmp_path / "misfit.safetensors")
    assert_refused(
        model,
        tmp_path / "misfit.safetensors",
        "missing: blocks.{0,2}.3.bias [16], stem.2.running_mean [16]",
        "extra: extra.weight [3]",
        "of another shape: blocks.{0-1}.1.bias [5], not [16], head.weight [11, 17], not [11, 16]",
    )


@pytest.mark.parametrize("change", [{"dim": 8}, {"depth": 5}, {"kernel_size": 7}, {"patch_size": 4}])
def test_another_architecture_is_named(change, file):
    model = frozen.model(**change)
    assert_refused(
        model,
        file,
        "The file holds a ConvMixer with dim=16, depth=3, kernel_size=9, patch_size=7, channels=3, classes=11",
    )


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"bias": (10,), "weight": (11, 16)}, "head.bias [10], not [11]"),
        ({"bias": (10,), "weight": (10, 17)}, "head.weight [10, 17], not [11, 16]"),
        ({"weight": (10, 16)}, "missing: head.bias [11]"),
        ({"bias": (10,)}, "missing: head.weight [11, 16]"),
    ],
)
def test_only_a_whole_head_of_this_width_is_left_out(tmp_path, model, head, words):
    tensors = {name: tensor for name, tensor in frozen.tensors("odd_gelu").items() if not name.startswith("head.")}
    tensors |= {f"head.{name}": np.zeros(shape, "float32") for name, shape in head.items()}
    save_file(tensors, tmp_path / "misfit.safetensors")
    assert_refused(model, tmp_path / "misfit.safetensors", words)


def test_a_numbered_file_with_something_else_in_it_is_refused(tmp_path, model):
    save_file({"0.weight": np.zeros(3, "float32"), "extra.weight": np.zeros(2, "float32")}, tmp_path / "a.safetensors")
    assert_refused(model, tmp_path / "a.safetensors", "stem.0.weight [3], not [16, 3, 7, 7]", "extra: extra.weight [2]")


def test_the_layer_of_activations_has_no_place(tmp_path, model):
    save_file({"0.weight": np.zeros(3, "float32"), "1.weight": np.zeros(2, "float32")}, tmp_path / "a.safetensors")
    assert_refused(model, tmp_path / "a.safetensors", "stem.0.weight [3], not [16, 3, 7, 7]", "head.weight [2], not")


def test_a_missing_block_is_no_shallower_model(tmp_path, model):
    gap = {name: tensor for name, tensor in frozen.tensors("odd_gelu").items() if not name.startswith("blocks.1.")}
    save_file(gap, tmp_path / "gap.safetensors")
    assert_refused(
        model, tmp_path / "gap.safetensors", "does not hold a whole ConvMixer", "missing: blocks.1.0.fn.0.bias [16]"
    )


@pytest.mark.parametrize("change", [{"depth": 2}, {"dim": 8}])
def test_a_keras_file_that_does_not_fit_changes_nothing(tmp_path, model, change):
    other = frozen.model(**change)
    other.save(tmp_path / "other.keras")
    assert_refused(model, tmp_path / "other.keras", "The file holds a ConvMixer with")


def test_a_body_without_classifier_needs_a_model_without(tmp_path, model):
    tensors = {name: tensor for name, tensor in frozen.tensors("odd_gelu").items() if not name.startswith("head.")}
    save_file(tensors, tmp_path / "body.safetensors")
    assert_refused(model, tmp_path / "body.safetensors", "missing: head.bias [11], head.weight [11, 16]")
    body = kc.ConvMixer(**frozen.arguments("odd_gelu"), include_top=False)
    kc.load_weights(body, tmp_path / "body.safetensors")
    np.testing.assert_array_equal(body.get_layer("stem_conv").bias, tensors["stem.0.bias"])


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        pytest.param(lambda whole: b"", "empty", id="empty"),
        pytest.param(lambda whole: whole[:5], "damaged", id="a part of the header's size"),
        pytest.param(lambda whole: whole[:200], "damaged", id="a part of the header"),
        pytest.param(lambda whole: whole[:-1], "damaged", id="a byte short"),
        pytest.param(lambda whole: whole + b"\0", "damaged", id="a byte long"),
        pytest.param(lambda whole: whole[:20] + bytes([whole[20] ^ 255]) + whole[21:], "damaged", id="a byte flipped"),
    ],
)
def test_truncated_and_corrupted_files_are_refused(tmp_path, model, file, damage, word):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage(file.read_bytes()))
    assert_refused(model, path, str(path), word, "get it again")


@pytest.mark.parametrize(
    ("name", "value"), [("blocks.1.1.weight", np.nan), ("head.bias", np.inf), ("stem.2.running_var", -1)]
)
def test_numbers_that_no_training_leaves_are_refused(tmp_path, model, name, value):
    tensors = frozen.tensors("odd_gelu")
    tensors[name].flat[-1] = value
    save_file(tensors, tmp_path / "broken.safetensors")
    assert_refused(model, tmp_path / "broken.safetensors", name, "NaN, infinity", "use an earlier checkpoint")


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
def test_other_numbers_are_no_weights(tmp_path, model, dtype):
    tensors = {**frozen.tensors("odd_gelu"), "head.bias": np.zeros(11, dtype)}
    save_file(tensors, tmp_path / "other.safetensors")
    assert_refused(model, tmp_path / "other.safetensors", f"head.bias is {dtype}:")


def test_a_precision_that_numpy_does_not_know_is_named(tmp_path, model, file):
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    four_bits = {"dtype": "F4", "shape": [16], "data_offsets": header["stem.0.bias"]["data_offsets"]}
    data = bytearray(content[8 + size :])
    # 16 numbers of 4 bits are 8 bytes: the other tensors move up.
    start, end = four_bits["data_offsets"]
    del data[start + 8 : end]
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - start - 8) for offset in entry["data_offsets"]]
    header["stem.0.bias"] = {**four_bits, "data_offsets": [start, start + 8]}
    text = json.dumps(header).encode()
    (tmp_path / "f4.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    assert_refused(model, tmp_path / "f4.safetensors", "stem.0.bias cannot be read", "save it as float32")


def zeros(shapes):
    return {name: np.zeros(shape, "float32") for name, shape in shapes.items()}


STEM = {name: tensor for name, tensor in frozen.tensors("odd_gelu").items() if name.startswith("stem.")}
STRANGE_NAMES = {"blocks.0.{x}": (1,), "blocks.0.{": (2,), "a\nb": (3,), f"blocks.{'9' * 5000}.x": (4,)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            zeros({"layer1.0.conv1.weight": (4, 4)}),
            ("does not hold a whole ConvMixer", "extra: layer1.0.conv1.weight [4, 4]"),
        ),
        (zeros(STRANGE_NAMES), ("blocks.0.{x} [1]", "blocks.0.{ [2]", r"'a\nb' [3]")),
        (STEM, ("does not hold a whole ConvMixer", "missing: blocks.{0-2}.0.fn.0.bias [16]")),
    ],
    ids=["a ResNet's", "strange names", "a stem alone"],
)
def test_tensors_of_other_models_are_refused(tmp_path, model, tensors, words):
    save_file(tensors, tmp_path / "foreign.safetensors")
    assert_refused(model, tmp_path / "foreign.safetensors", *words)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("notes.txt", lambda path: path.write_text("notes"), ("notes.txt", ".safetensors", ".pth.tar", ".keras")),
        (
            "model.h5",
            lambda path: path.write_bytes(b"anything"),
            ("model.h5 does not have the name of a file of weights",),
        ),
        ("broken.keras", lambda path: path.write_bytes(b"PK\3\4 broken"), ("broken.keras is damaged",)),
        ("folder.safetensors", lambda path: path.mkdir(), ("is a folder",)),
        ("pipe.safetensors", os.mkfifo, ("is a pipe, not a file: name a file of weights",)),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path, model, name, make, words):
    make(tmp_path / name)
    assert_refused(model, tmp_path / name, *words)


def test_a_file_that_is_not_there_is_said_not_to_be(tmp_path, model):
    assert_refused(model, tmp_path / "nothing.safetensors", "there is no such file", error=FileNotFoundError)


def test_a_keras_file_of_another_model_is_refused(tmp_path, model):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    assert_refused(model, tmp_path / "other.keras", "other.keras", "does not hold a ConvMixer")


def test_names_of_the_same_place_are_refused(tmp_path, model):
    save_file({"3.1.bias": np.zeros(1), "03.1.bias": np.ones(1)}, tmp_path / "twice.safetensors")
    assert_refused(model, tmp_path / "twice.safetensors", "has two tensors for")


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, model, monkeypatch):
    for name in ("a.safetensors", "a.keras", "a.pth"):
        (tmp_path / name).write_bytes(b"anything")

    def refuse(path, *arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)  # as root may read everything
    for name in ("a.safetensors", "a.keras", "a.pth"):
        assert_refused(model, tmp_path / name, "Permission denied", error=PermissionError)


def test_an_incomplete_file_of_this_architecture_is_said_to_be_one(tmp_path, model):
    tensors = frozen.tensors("odd_gelu")
    del tensors["blocks.1.1.bias"]
    save_file(tensors, tmp_path / "part.safetensors")
    assert_refused(model, tmp_path / "part.safetensors", "The file is incomplete", "missing: blocks.1.1.bias [16]")


def test_an_adapted_layer_is_refused(model, file):
    model.get_layer("head_dense").enable_lora(2)
    assert_refused(model, file, "'head_dense' has", "remove LoRA or quantization")


def test_code_in_a_keras_file_is_not_run(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = keras.layers.Lambda(lambda x: (__import__("pathlib").Path("code_ran").touch(), x)[1], output_shape=(4,))
    keras.Sequential([keras.Input((4,)), code]).save("malicious.keras")
    trace = tmp_path / "code_ran"
    trace.unlink(missing_ok=True)
    assert_refused(model, tmp_path / "malicious.keras", "malicious.keras", "holds code, which is not run")
    assert not trace.exists()
    keras.saving.load_model("malicious.keras", safe_mode=False)(np.zeros((1, 4)))
    assert trace.exists()  # it would have run


class Strange(keras.layers.Layer):
    """A layer that another process does not know."""

    def call(self, inputs):
        return inputs


def strange(inputs):
    return inputs


@pytest.mark.parametrize(
    ("layer", "name"), [(Strange, "Strange"), (lambda: keras.layers.Activation(strange), "strange")]
)
def test_a_class_or_function_of_ones_own_is_named(tmp_path, model, layer, name):
    keras.Sequential([keras.Input((4,)), layer()]).save(tmp_path / "own.keras")
    words = f"it holds {name}, which Keras does not have; build the model of Keras's own layers"
    assert_refused(model, tmp_path / "own.keras", "own.keras", words)


def test_another_activation_is_refused_where_the_file_names_it(tmp_path, model):
    kc.save_weights_torch(model, tmp_path / "model.safetensors")
    other = frozen.model(activation="relu")
    assert_refused(other, tmp_path / "model.safetensors", "activation='gelu'", "'relu'")


@pytest.mark.parametrize("layer", ["stem_bn", "block_0_pointwise_bn"])
def test_a_model_that_cuts_a_convmixer_is_refused(model, file, layer):
    cut = keras.Model(model.get_layer(layer).output, model.output, name="cut")
    assert_refused(cut, file, "'cut' does not hold a ConvMixer")
