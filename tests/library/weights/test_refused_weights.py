"""Files of weights that must be refused: with one sentence, no code run, and the model as it was."""

import errno
import json
import os
import pickle

import frozen
import keras
import numpy as np
import peers
import pytest
from safetensors.numpy import save_file

import keras_convmixer as kc


def assert_refused(model, path, *words, error=ValueError):
    """Loading fails with one sentence that has these words, and the model is as it was."""
    before = model.get_weights()
    with pytest.raises(error) as caught:
        kc.load_weights(model, path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


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
    assert_refused(model, tmp_path / "gap.safetensors", "no whole ConvMixer", "missing: blocks.1.0.fn.0.bias [16]")


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


def test_truncated_and_corrupted_files_are_refused(tmp_path, model, file):
    whole = file.read_bytes()
    for name, content in {
        "empty": b"",
        "short": whole[:5],
        "header": whole[:200],
        "truncated": whole[:-1],
        "longer": whole + b"\0",
        "flipped": whole[:20] + bytes([whole[20] ^ 255]) + whole[21:],
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        assert_refused(model, path, str(path), "empty" if name == "empty" else "damaged", "get it again")


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
    assert_refused(model, tmp_path / "other.safetensors", f"head.bias is of {dtype}")


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


def test_foreign_files_are_refused(tmp_path, model):
    save_file({"layer1.0.conv1.weight": np.zeros((4, 4), "float32")}, tmp_path / "resnet.safetensors")
    assert_refused(model, tmp_path / "resnet.safetensors", "no whole ConvMixer", "extra: layer1.0.conv1.weight [4, 4]")
    (tmp_path / "notes.txt").write_text("notes")
    assert_refused(model, tmp_path / "notes.txt", "notes.txt", ".safetensors", ".pth.tar", ".keras")
    (tmp_path / "folder.safetensors").mkdir()
    assert_refused(model, tmp_path / "folder.safetensors", "is a folder")
    assert_refused(model, tmp_path / "nothing.safetensors", "there is no such file", error=FileNotFoundError)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    assert_refused(model, tmp_path / "other.keras", "other.keras", "holds no ConvMixer")
    (tmp_path / "broken.keras").write_bytes(b"PK\3\4 broken")
    assert_refused(model, tmp_path / "broken.keras", "broken.keras is damaged")
    (tmp_path / "model.h5").write_bytes(b"anything")
    assert_refused(model, tmp_path / "model.h5", "model.h5 is no file of weights by its name")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert_refused(model, tmp_path / "pipe.safetensors", "is no ordinary file")
    strange = {"blocks.0.{x}": (1,), "blocks.0.{": (2,), "a\nb": (3,), f"blocks.{'9' * 5000}.x": (4,)}
    save_file({name: np.zeros(shape, "float32") for name, shape in strange.items()}, tmp_path / "strange.safetensors")
    assert_refused(model, tmp_path / "strange.safetensors", "blocks.0.{x} [1]", "blocks.0.{ [2]", r"'a\nb' [3]")
    stem = {name: tensor for name, tensor in frozen.tensors("odd_gelu").items() if name.startswith("stem.")}
    save_file(stem, tmp_path / "stem.safetensors")
    assert_refused(model, tmp_path / "stem.safetensors", "no whole ConvMixer", "missing: blocks.{0-2}.0.fn.0.bias [16]")


def test_names_of_the_same_place_are_refused(tmp_path, model):
    save_file({"3.1.bias": np.zeros(1), "03.1.bias": np.ones(1)}, tmp_path / "twice.safetensors")
    assert_refused(model, tmp_path / "twice.safetensors", "names tensors of the same place twice")


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
    assert_refused(model, file, "'head_dense' holds", "take LoRA or quantization out")


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


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@pytest.mark.peer
@pytest.mark.parametrize("suffix", [".pth.tar", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("way", ["torch", "legacy", "pickle", "modern_pickle"])
def test_code_in_a_file_is_not_run(tmp_path, model, suffix, way):
    torch = peers.import_torch()
    path, trace = tmp_path / f"malicious{suffix}", tmp_path / "code_ran"
    content = {"state_dict": Malicious(f"touch {trace}")}
    if "pickle" in way:
        path.write_bytes(pickle.dumps(content, protocol=2 if way == "pickle" else 4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "torch")
    assert_refused(model, path, str(path), "could run code")
    assert not trace.exists()
    pickle.loads(path.read_bytes()) if "pickle" in way else torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run


@pytest.mark.peer
def test_objects_beside_the_tensors_are_refused_with_the_remedy(tmp_path, model):
    torch = peers.import_torch()
    import decimal

    torch.save({"state_dict": {}, "loss": decimal.Decimal(1)}, tmp_path / "run.pth.tar")
    assert_refused(model, tmp_path / "run.pth.tar", "decimal.Decimal", "save the checkpoint's state_dict alone")


@pytest.mark.peer
def test_an_intact_file_of_another_protocol_is_not_called_damaged(tmp_path, model):
    torch = peers.import_torch()
    torch.save(
        {name: torch.tensor(t) for name, t in frozen.tensors("odd_gelu").items()}, tmp_path / "a.pth", pickle_protocol=4
    )
    assert_refused(
        model, tmp_path / "a.pth", "not written with torch.save's default protocol: save the model's state_dict()"
    )


@pytest.mark.peer
def test_what_timms_training_leaves_loads(tmp_path, model):
    torch = peers.import_torch()
    import argparse

    state = {name: torch.tensor(tensor) for name, tensor in frozen.tensors("odd_gelu").items()}
    content = {"epoch": 3, "arch": "convmixer", "state_dict": state, "args": argparse.Namespace(lr=0.01, mean=[0.5])}
    torch.save({**content, "metric": 71.2, "optimizer": {"state": {}}}, tmp_path / "checkpoint.pth.tar")
    kc.load_weights(model, tmp_path / "checkpoint.pth.tar")
    np.testing.assert_array_equal(model.get_layer("head_dense").bias, frozen.tensors("odd_gelu")["head.bias"])


@pytest.mark.peer
def test_tensors_without_numbers_of_their_own_are_refused(tmp_path, model):
    torch = peers.import_torch()
    whole = {name: torch.tensor(tensor) for name, tensor in frozen.tensors("odd_gelu").items()}
    for kind, tensor in {
        "sparse": torch.zeros(11).to_sparse(),
        "meta": torch.zeros(11, device="meta"),
        "quantized": torch.quantize_per_tensor(torch.zeros(11), 0.1, 0, torch.qint8),
    }.items():
        torch.save({**whole, "head.bias": tensor}, tmp_path / f"{kind}.pth")
        assert_refused(model, tmp_path / f"{kind}.pth", "dense tensors")


@pytest.mark.peer
def test_damaged_and_foreign_pytorch_files_are_refused(tmp_path, model):
    torch = peers.import_torch()
    torch.save(
        {name: torch.tensor(tensor) for name, tensor in frozen.tensors("odd_gelu").items()}, tmp_path / "whole.pth"
    )
    whole = (tmp_path / "whole.pth").read_bytes()
    for name, content in {
        "empty": b"",
        "truncated": whole[:-100],
        "half": whole[: len(whole) // 2],
        "flipped": whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:],
        "text": b"text",
    }.items():
        (tmp_path / f"{name}.pth").write_bytes(content)
        words = {"empty": "is empty", "text": "is a text file"}.get(name, "damaged")
        assert_refused(model, tmp_path / f"{name}.pth", f"{name}.pth", words)
    for name, content in {"list": [1, 2], "numbers": {"state_dict": {"a": 1}}, "none": {}}.items():
        torch.save(content, tmp_path / f"{name}.pth")
        assert_refused(model, tmp_path / f"{name}.pth", "holds no state_dict of dense tensors")


def test_without_pytorch_its_files_are_refused_with_the_remedy(tmp_path, model, monkeypatch):
    (tmp_path / "model.pth.tar").write_bytes(b"PK\3\4 anything")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert_refused(
        model, tmp_path / "model.pth.tar", "pip install torch, or use a .safetensors file", error=ImportError
    )


@pytest.mark.peer
def test_an_old_pytorch_is_refused(tmp_path, model, monkeypatch):
    torch = peers.import_torch()
    (tmp_path / "model.pth.tar").write_bytes(b"PK\3\4 anything")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    assert_refused(model, tmp_path / "model.pth.tar", "2.9.1", "CVE-2026-24747", error=ImportError)


def test_another_activation_is_refused_where_the_file_names_it(tmp_path, model):
    kc.save_weights_torch(model, tmp_path / "model.safetensors")
    other = frozen.model(activation="relu")
    assert_refused(other, tmp_path / "model.safetensors", "activation='gelu'", "'relu'")


@pytest.mark.parametrize("layer", ["stem_bn", "block_0_pointwise_bn"])
def test_a_model_that_cuts_a_convmixer_is_refused(model, file, layer):
    cut = keras.Model(model.get_layer(layer).output, model.output, name="cut")
    assert_refused(cut, file, "'cut' holds no ConvMixer")
