"""PyTorch files that must be refused, beside one that must not: no code in them is run."""

import argparse
import decimal
import os
import pickle
import sys

import frozen
import numpy as np
import peers
import pytest
from refused import assert_refused

import keras_convmixer as kc


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
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

    torch.save({"state_dict": {}, "loss": decimal.Decimal(1)}, tmp_path / "run.pth.tar")
    assert_refused(model, tmp_path / "run.pth.tar", "decimal.Decimal", "save the checkpoint's state_dict alone")


@pytest.mark.peer
def test_an_intact_file_of_another_protocol_is_not_called_damaged(tmp_path, model):
    torch = peers.import_torch()
    torch.save(
        {name: torch.tensor(t) for name, t in frozen.tensors("odd_gelu").items()}, tmp_path / "a.pth", pickle_protocol=4
    )
    assert_refused(model, tmp_path / "a.pth", "another pickle protocol than torch.save's default: save the model's")


@pytest.mark.peer
def test_what_timms_training_leaves_loads(tmp_path, model):
    torch = peers.import_torch()

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
        assert_refused(model, tmp_path / f"{name}.pth", "does not hold a state_dict of dense tensors")


def test_without_pytorch_its_files_are_refused_with_the_remedy(tmp_path, model, monkeypatch):
    (tmp_path / "model.pth.tar").write_bytes(b"PK\3\4 anything")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_refused(
        model, tmp_path / "model.pth.tar", "pip install torch, or use a .safetensors file", error=ImportError
    )


@pytest.mark.peer
def test_an_old_pytorch_is_refused(tmp_path, model, monkeypatch):
    torch = peers.import_torch()
    (tmp_path / "model.pth.tar").write_bytes(b"PK\3\4 anything")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    assert_refused(model, tmp_path / "model.pth.tar", "2.9.1", "CVE-2026-24747", error=ImportError)
