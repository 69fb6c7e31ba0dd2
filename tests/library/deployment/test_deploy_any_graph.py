"""deploy() on models with nested models, shared layers, and several inputs and outputs."""

import keras
import numpy as np
import pytest
from deployed import deployed_equals, kinds, randomized

import keras_convmixer as kc
from keras_convmixer.environment.keras_internals import producer

L = keras.layers


def test_shared_layers_stay_shared():
    inputs = keras.Input((9, 9, 4))
    convolution, normalization = L.DepthwiseConv2D(7, padding="same"), L.BatchNormalization()
    x = normalization(convolution(normalization(convolution(inputs))))
    model = keras.Model(inputs, L.ReLU()(x))
    deployed = deployed_equals(model)
    assert kinds(deployed) == kinds(model)
    assert deployed.count_params() == model.count_params()


def test_nested_models_are_rewritten_inside_and_shared_ones_kept():
    inner_inputs = keras.Input((9, 9, 4))
    inner = keras.Model(inner_inputs, L.BatchNormalization()(L.DepthwiseConv2D(7, padding="same")(inner_inputs)))
    inputs = keras.Input((9, 9, 4))
    once = keras.Model(inputs, L.ReLU()(inner(inputs)))
    assert kinds(deployed_equals(once))["DepthwiseConv2D"] > 1
    assert kinds(deployed_equals(once))["BatchNormalization"] == 0
    twice = keras.Model(inputs, L.ReLU()(inner(inner(inputs))))
    deployed = deployed_equals(twice)
    assert kinds(deployed)["Functional"] == 1
    assert deployed.count_params() == twice.count_params()
    sequential = keras.Sequential([keras.Input((9, 9, 4)), inner, L.GlobalMaxPooling2D()])
    assert kinds(deployed_equals(sequential))["DepthwiseConv2D"] > 1


def test_several_inputs_and_outputs_keep_names_and_structure():
    one, two = keras.Input((9, 9, 4), name="one"), keras.Input((4,), name="two")
    x = L.BatchNormalization(name="bn")(L.DepthwiseConv2D(7, padding="same", name="dw")(one))
    y = L.Dense(4, name="dense")(two)
    outputs = {"map": x, "sum": L.Add(name="add")([L.GlobalAveragePooling2D(name="pool")(x), y]), "same": y}
    model = keras.Model({"one": one, "two": two}, outputs)
    deployed = deployed_equals(model)
    assert deployed.output_names == model.output_names
    assert set(deployed.output) == set(outputs)
    found = deployed({"one": np.ones((1, 9, 9, 4)), "two": np.ones((1, 4))})
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "map": (1, 9, 9, 4),
        "sum": (1, 4),
        "same": (1, 4),
    }


def unnamed_inputs():
    one, two = keras.Input((4,)), keras.Input((4,))
    return keras.Model([one, two], L.Dense(2)(L.Add()([one, two])))


def an_input_in_a_tensor():
    tensor = keras.KerasTensor((None, 4), name="mine")
    return keras.Model(tensor, L.Dense(2)(keras.Input(tensor=tensor)))


def an_input_that_is_an_output():
    one = keras.Input((4,))
    return keras.Model(one, [one, L.Dense(2)(one)])


@pytest.mark.parametrize(
    "build",
    [
        unnamed_inputs,
        an_input_in_a_tensor,
        an_input_that_is_an_output,
        lambda: keras.Sequential([keras.Input((4,)), L.Dense(2)]),
        lambda: keras.Sequential([keras.Input((4,), name="named"), L.Dense(2)]),
    ],
)
def test_inputs_and_outputs_keep_their_own_names_beside_their_layers(build):
    model = build()
    inputs, outputs = [[tensor.name for tensor in tensors] for tensors in (model.inputs, model.outputs)]
    deployed = deployed_equals(model)
    for one in (model, deployed):
        assert [tensor.name for tensor in one.inputs] == inputs
        assert [tensor.name for tensor in one.outputs] == outputs
    layers = [[producer(tensor).name for tensor in one.inputs] for one in (model, deployed)]
    assert layers[0] == layers[1]


def test_a_convolution_that_two_use_is_built_once():
    inputs = keras.Input((5, 5, 3))
    x = L.Conv2D(4, 3, name="shared")(inputs)
    model = keras.Model(inputs, L.Add()([L.BatchNormalization()(x), L.ReLU()(x)]))
    assert kinds(deployed_equals(model))["Conv2D"] == 1


def test_sums_of_operators_and_activations_of_operators_are_seen():
    inputs = keras.Input((16, 16, 256))
    x = L.BatchNormalization()(keras.ops.gelu(L.DepthwiseConv2D(7, padding="same")(inputs), approximate=False))
    model = keras.Model(inputs, L.Conv2D(8, 1)(inputs + x))
    assert kinds(deployed_equals(model))["Concatenate"] == 1  # once, before the pointwise convolution


@pytest.mark.parametrize("kind", ["sum", "dropped", "batch", "lambda", "ids", "prelu", "list", "constant", "outputs"])
def test_calls_that_only_look_like_what_is_rewritten(kind):
    inputs = keras.Input((6, 6, 4), batch_size=3 if kind == "batch" else None)
    outputs = {
        "sum": lambda x: x + keras.ops.mean(L.BatchNormalization()(x), axis=0),
        "dropped": lambda x: L.RandomFlip()(keras.ops.cast(x, "uint8")) - 300,
        "batch": lambda x: L.BatchNormalization()(x) + x,
        "lambda": lambda x: L.Lambda(lambda y: y * 2)(L.BatchNormalization()(x)),
        "ids": lambda x: L.Embedding(2, 3)(keras.ops.cast(x > 0, "int32")),
        "prelu": lambda x: L.Conv2D(3, 1, activation=L.PReLU())(x),
        "list": lambda x: L.Identity()([x, L.ReLU()(x)]),
        "outputs": lambda x: [x, L.Dropout(0.5, name="same")(x), L.ReLU(name="relu")(x)],
    }
    if kind == "constant":
        normalization = L.Normalization()
        normalization.adapt(np.ones((4, 6, 6, 4)))
        outputs["constant"] = lambda x: L.Conv2D(2, 1)(normalization(x))
    model = keras.Model(inputs, outputs[kind](inputs))
    images = np.ones((3, 6, 6, 4), "float32")
    deployed = deployed_equals(model, images=images)
    assert deployed.output_names == model.output_names


def test_a_nested_model_of_two_inputs_is_given_each_its_own():
    one, two = keras.Input((3,), name="one"), keras.Input((3,), name="two")
    inner = keras.Model([two, one], L.Dense(2)(one) - L.Dense(2)(two))
    model = keras.Model([one, two], inner([one, two]))
    deployed_equals(model)


def test_what_an_inner_model_uses_twice_is_built_once():
    inner_inputs = keras.Input((5, 5, 4))
    inner = keras.Model(inner_inputs, L.Add()([L.BatchNormalization()(inner_inputs), inner_inputs]))
    inputs = keras.Input((5, 5, 3))
    model = keras.Model(inputs, inner(L.Conv2D(4, 3, padding="same")(inputs)))
    assert kinds(deployed_equals(model))["Conv2D"] == 1


def test_calls_with_arguments_of_their_own_stay():
    inputs = keras.Input((4, 4, 3))
    x = L.BatchNormalization()(L.Conv2D(4, 1)(inputs), training=True)
    model = randomized(keras.Model(inputs, x))
    assert kinds(kc.deploy(model))["BatchNormalization"] == 1


def test_a_model_of_dropped_layers_only():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, L.Dropout(0.5, name="drop")(inputs))
    assert kinds(deployed_equals(model)) == {"InputLayer": 1, "Identity": 1}
