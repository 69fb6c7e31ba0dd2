import dataclasses
import importlib
from pathlib import Path

import pytest

import keras_convmixer.training.recipes as recipes
from keras_convmixer.training import RECIPES


def test_every_file_is_in_the_table():
    files = {path.stem for path in Path(recipes.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(RECIPES) == set(recipes.DESCRIPTIONS) == files


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_to_type_and_to_expect(name):
    module = importlib.import_module(f"keras_convmixer.training.recipes.{name}")
    assert RECIPES[name] is module.RECIPE
    assert RECIPES[name].name == name
    for words in (f"Command: convmixer train {name}", "Accuracy:", "Cost:", "Data:", "Source:"):
        assert words in module.__doc__


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
    ],
)
def test_a_number_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}: give more than 0"):
        dataclasses.replace(RECIPES["digits"], **{field: value})


def test_seed_and_weight_decay_may_be_zero():
    recipe = dataclasses.replace(RECIPES["digits"], seed=0, weight_decay=0.0)
    with pytest.raises(ValueError, match="seed=-1: give 0 to 200,000,000"):
        dataclasses.replace(recipe, seed=-1)
    with pytest.raises(ValueError, match="weight_decay=nan: give 0 or more"):
        dataclasses.replace(recipe, weight_decay=float("nan"))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("epochs", 1.5, "a whole number"),
        ("epochs", True, "a whole number"),
        ("learning_rate", "fast", "a number"),
        ("flip", 1, "true or false"),
        ("dataset", None, "a text"),
        ("schedule", "linear", "one of piecewise_linear, cosine"),
        ("precision", 32, "one of auto, float32"),
    ],
)
def test_a_value_of_another_kind_is_named(field, value, allowed):
    with pytest.raises(ValueError, match=f"{field}={value!r}: give {allowed}"):
        dataclasses.replace(RECIPES["digits"], **{field: value})


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/"])
def test_a_name_is_one_folders(name):
    with pytest.raises(ValueError, match="give a name for a folder"):
        dataclasses.replace(RECIPES["digits"], name=name)
