"""Files of weights as trainings leave them: prefixes, dictionaries around them, averages, and what else they hold."""

import logging

import frozen
import numpy as np
import peers
import pytest
from safetensors.numpy import save_file

import keras_convmixer as kc
from keras_convmixer.weights.tensor_names import architecture_of, find_names, tensor_shapes


def numbered(tensors):
    """By the names of the reference's nn.Sequential."""
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})

    def number(name):
        first, rest = name.split(".", 1)
        if first == "blocks":
            block, rest = rest.split(".", 1)
            return f"{3 + int(block)}.{rest}"
        return rest if first == "stem" else f"{5 + depth}.{rest}"

    return {number(name): tensor for name, tensor in tensors.items()}


def assert_loaded(model, scale=1.0):
    """The model has the weights of `odd_gelu`; those of another set are told by another `scale`."""
    tensors = frozen.tensors("odd_gelu")
    np.testing.assert_array_equal(model.get_layer("head_dense").bias, tensors["head.bias"] * np.float32(scale))
    kernel = tensors["blocks.2.0.fn.0.weight"] * np.float32(scale)
    np.testing.assert_array_equal(model.get_layer("block_2_depthwise_conv").kernel, kernel.transpose(2, 3, 0, 1))


PREFIXES = (
    *("module.", "_orig_mod.", "model.", "backbone.", "net.", "encoder.", "0."),
    *("module._orig_mod.", "_orig_mod.module.", "model.backbone.", "net.module._orig_mod.model."),
)


@pytest.mark.parametrize("names", [dict, numbered])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_is_found(tmp_path, model, caplog, names, prefix):
    tensors = names(frozen.tensors("odd_gelu"))
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    kc.load_weights(model, tmp_path / "a.safetensors")
    assert_loaded(model)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("prefix", "head"),
    [("backbone.", "head"), ("backbone.", "fc"), ("model.backbone.", "model.classifier"), ("0.", "2"), ("", "fc")],
)
def test_a_classifier_beside_the_body_is_found(tmp_path, model, caplog, prefix, head):
    """As of a module that holds timm's body, of num_classes=0, and a linear layer of its own."""
    tensors = frozen.tensors("odd_gelu")
    beside = {f"{head}.{part}": tensors.pop(f"head.{part}") for part in ("weight", "bias")}
    save_file({**{prefix + name: tensor for name, tensor in tensors.items()}, **beside}, tmp_path / "a.safetensors")
    kc.load_weights(model, tmp_path / "a.safetensors")
    assert_loaded(model)
    assert caplog.messages == []


def test_of_two_classifiers_beside_the_body_none_is_taken(tmp_path, model):
    tensors = frozen.tensors("odd_gelu")
    weight, bias = tensors.pop("head.weight"), tensors.pop("head.bias")
    heads = {"a.fc.weight": weight, "a.fc.bias": bias, "b.fc.weight": weight, "b.fc.bias": bias}
    save_file({**{f"net.{name}": tensor for name, tensor in tensors.items()}, **heads}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"missing: head\.bias \[11\], head\.weight \[11, 16\]; extra: a\.fc\.bias"):
        kc.load_weights(model, tmp_path / "a.safetensors")


@pytest.mark.parametrize("names", [dict, numbered])
def test_what_is_part_of_no_convmixer_is_ignored_and_listed(tmp_path, model, caplog, names):
    tensors = names(frozen.tensors("odd_gelu"))
    others = {"total_ops": np.ones(1), "total_params": np.ones(1), "criterion.weight": np.ones(11), "step": np.ones(())}
    counters = {f"{name}.num_batches_tracked": np.array(7) for name in ("stem.2", "blocks.0.3")}
    measured = {f"{name.rsplit('.', 1)[0]}.total_ops": np.ones(1) for name in tensors}  # as thop leaves them
    save_file({**tensors, **others, **(counters if names is dict else {}), **measured}, tmp_path / "a.safetensors")
    kc.load_weights(model, tmp_path / "a.safetensors")
    assert_loaded(model)
    (line,) = caplog.messages
    assert "a.safetensors: ignored, as it is not part of a ConvMixer:" in line
    for words in ("criterion.weight [11]", "step []", "total_ops of 16 modules", "total_params of 1 modules"):
        assert words in line
    assert "num_batches_tracked" not in line


def test_what_is_missing_stays_an_error_beside_what_is_ignored(tmp_path, model):
    tensors = {**frozen.tensors("odd_gelu"), "total_ops": np.ones(1)}
    del tensors["blocks.1.3.running_mean"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"missing: blocks\.1\.3\.running_mean \[16\]; extra: total_ops \[1\]"):
        kc.load_weights(model, tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["blocks.3.1.weight", "blocks.0.4.weight", "blocks.1.0.fn.0.lora_a", "stem.3.weight"])
def test_what_is_in_the_convmixer_and_has_no_place_stays_an_error(tmp_path, model, name):
    save_file({**frozen.tensors("odd_gelu"), name: np.ones((16, 16, 1, 1), "float32")}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=f"extra: .*{name}"):
        kc.load_weights(model, tmp_path / "a.safetensors")


@pytest.mark.parametrize("prefix", ["ema.", "model_ema.module.", "ema_model.", "swa_model.module."])
def test_of_weights_and_their_average_in_one_dictionary_it_is_the_average(tmp_path, model, caplog, prefix):
    raw = {f"model.{name}": tensor for name, tensor in frozen.tensors("odd_gelu").items()}
    average = {prefix + name: tensor * np.float32(0.5) for name, tensor in frozen.tensors("odd_gelu").items()}
    save_file({**raw, **average}, tmp_path / "a.safetensors")
    kc.load_weights(model, tmp_path / "a.safetensors")
    assert_loaded(model, 0.5)
    assert (
        "a.safetensors: the moving average of the weights is loaded, not the weights themselves (model)" in caplog.text
    )


def test_an_average_that_is_not_whole_is_passed_over(tmp_path, model, caplog):
    average = {"ema.stem.0.weight": frozen.tensors("odd_gelu")["stem.0.weight"]}
    save_file({**frozen.tensors("odd_gelu"), **average}, tmp_path / "a.safetensors")
    kc.load_weights(model, tmp_path / "a.safetensors")
    assert_loaded(model)
    assert "ignored, as it is not part of a ConvMixer: ema.stem.0.weight" in caplog.text


def test_of_two_models_neither_is_chosen(tmp_path, model):
    tensors = frozen.tensors("odd_gelu")
    both = {f"{who}.{name}": tensor for who in ("student", "teacher") for name, tensor in tensors.items()}
    save_file(both, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors holds several ConvMixers \('student', 'teacher'\): save the"):
        kc.load_weights(model, tmp_path / "a.safetensors")


def test_shapes_and_architecture_agree():
    sizes = {"dim": 8, "depth": 12, "kernel_size": 5, "patch_size": 2, "channels": 4}
    for classes in ({}, {"classes": 3}):
        shapes = tensor_shapes(**sizes, **classes)
        assert architecture_of(shapes) == {**sizes, **classes}
    assert {name: shapes[name] for name in frozen.tensors("odd_relu") if name.startswith(("stem", "head"))} == {
        **{"stem.0.weight": (8, 4, 2, 2), "stem.0.bias": (8,), "head.weight": (3, 8), "head.bias": (3,)},
        **{f"stem.2.{part}": (8,) for part in ("weight", "bias", "running_mean", "running_var")},
    }


def test_timms_order_of_dictionaries():
    shapes = tensor_shapes(8, 1, 3, 2)
    order = ["state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net", "mine"]
    for place, group in enumerate(order):
        assert find_names(dict.fromkeys(reversed(order[place:]), shapes)).group == group


def saved(folder, content, name="a.pth"):
    torch = peers.import_torch()

    def as_tensors(value):
        if isinstance(value, dict):
            return {key: as_tensors(inner) for key, inner in value.items()}
        return torch.tensor(value) if isinstance(value, np.ndarray) else value

    torch.save(as_tensors(content), folder / name)
    return folder / name


CONTAINERS = {
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": np.ones((16, 3, 7, 7))}}}},
    "net": lambda state: {"net": state, "acc": 93.1, "epoch": 7},  # the common CIFAR repositories'
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.1},
    "two deep": lambda state: {"checkpoint": {"model": state}},
    "state_dict_ema": lambda state: {"state_dict_ema": state},
    "a name of one's own": lambda state: {"best": state},
    "AveragedModel": lambda state: {"n_averaged": np.array(9), **{f"module.{n}": t for n, t in state.items()}},
    "Lightning": lambda state: {
        "state_dict": {**{f"model.{n}": t for n, t in state.items()}, "criterion.weight": np.ones(11)},
        "pytorch-lightning_version": "2.5",
        "hyper_parameters": {"lr": 0.01},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": np.ones(())}},
    },
}


@pytest.mark.peer
@pytest.mark.parametrize("names", [dict, numbered])
@pytest.mark.parametrize("container", CONTAINERS)
def test_any_dictionary_is_found(tmp_path, model, container, names):
    path = saved(tmp_path, CONTAINERS[container](names(frozen.tensors("odd_gelu"))))
    kc.load_weights(model, path)
    assert_loaded(model)


@pytest.mark.peer
@pytest.mark.parametrize("suffix", [".ckpt", ".t7", ".pth.tar"])
def test_pytorch_files_by_other_endings(tmp_path, model, suffix):
    path = saved(tmp_path, {"net": numbered(frozen.tensors("odd_gelu"))}, f"a{suffix}")
    assert_loaded(kc.ConvMixer(**frozen.arguments("odd_gelu"), classes=frozen.CLASSES, weights=path))


@pytest.mark.peer
@pytest.mark.parametrize(
    ("average", "instead"), [("state_dict_ema", "state_dict"), ("model_ema", "model"), ("swa_model", "model")]
)
def test_the_average_is_taken_as_in_timm_and_said(tmp_path, model, caplog, average, instead):
    tensors = frozen.tensors("odd_gelu")
    halved = {f"module.{name}": tensor * np.float32(0.5) for name, tensor in tensors.items()}
    path = saved(tmp_path, {"epoch": 1, instead: tensors, average: {"n_averaged": np.array(3), **halved}})
    with caplog.at_level(logging.WARNING):
        kc.load_weights(model, path)
    assert_loaded(model, 0.5)
    assert f"a.pth: the moving average of the weights is loaded, not the weights themselves ({instead})" in caplog.text
    assert f"ignored, as it is not part of a ConvMixer: epoch, {instead}" in caplog.text


@pytest.mark.peer
def test_timm_takes_the_same_of_each_file(tmp_path, model):
    tensors = frozen.tensors("odd_gelu")
    wrapped = {f"_orig_mod.module.{name}": tensor * np.float32(0.25) for name, tensor in tensors.items()}
    contents = [
        {"state_dict": tensors, "state_dict_ema": wrapped},
        {"model": tensors, "model_ema": wrapped},
        {"model": wrapped, "state_dict": tensors},
        {"model": tensors, "optimizer": {}},
    ]
    paths = [saved(tmp_path, content, f"{number}.pth") for number, content in enumerate(contents)]
    peers.run_timm("write_head_biases", path=tmp_path / "biases.npy", checkpoints=paths)
    for path, bias in zip(paths, np.load(tmp_path / "biases.npy"), strict=True):
        kc.load_weights(model, path)
        np.testing.assert_array_equal(model.get_layer("head_dense").bias, bias)


@pytest.mark.peer
def test_lightnings_objects_are_refused_with_the_remedy(tmp_path, model):
    torch = peers.import_torch()
    import pathlib

    content = {"state_dict": {}, "hyper_parameters": {"root": pathlib.PurePosixPath("data")}}
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"Python objects \(pathlib.*save the checkpoint's state_dict alone"):
        kc.load_weights(model, tmp_path / "last.ckpt")


@pytest.mark.peer
@pytest.mark.parametrize("trick", ["expanded", "shared"])
def test_tensors_that_repeat_the_same_numbers_are_refused(tmp_path, trick):
    """From 2 kB a model of 400 MB would be built."""
    torch = peers.import_torch()
    one = torch.zeros(1)
    shapes = tensor_shapes(10_000, 1, 3, 2, classes=2)
    tensors = {name: one.expand(shape) for name, shape in shapes.items()}
    if trick == "shared":
        numbers = torch.zeros(10_000)
        tensors = {name: numbers.expand(100, -1) for name in tensor_shapes(8, 900, 3, 2)}
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="save each tensor with numbers of its own"):
        kc.ConvMixer(8, 1, weights=tmp_path / "a.pth")
