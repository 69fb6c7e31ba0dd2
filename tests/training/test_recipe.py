import dataclasses
import importlib
import json
from pathlib import Path

import pytest

import keras_convmixer.training.recipes as recipes
from keras_convmixer.training import RECIPES, Recipe
from keras_convmixer.training.recipe import PARTS, flat_fields


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
        RECIPES["digits"].replace(**{field: value})


def test_seed_and_weight_decay_may_be_zero():
    recipe = RECIPES["digits"].replace(seed=0, weight_decay=0.0)
    with pytest.raises(ValueError, match="seed=-1: give 0 to 200,000,000"):
        recipe.replace(seed=-1)
    with pytest.raises(ValueError, match="weight_decay=nan: give 0 or more"):
        recipe.replace(weight_decay=float("nan"))


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
        RECIPES["digits"].replace(**{field: value})


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/"])
def test_a_name_is_one_folders(name):
    with pytest.raises(ValueError, match="give a name for a folder"):
        RECIPES["digits"].replace(name=name)


def test_a_field_is_replaced_by_its_name_in_whichever_part_it_is():
    recipe = RECIPES["digits"].replace(name="short", dim=32, epochs=2, flip=True, seed=3)
    assert (recipe.name, recipe.model.dim, recipe.optimization.epochs) == ("short", 32, 2)
    assert (recipe.augmentation.flip, recipe.seed) == (True, 3)
    changed = {"name", "dim", "epochs", "flip", "seed"}
    before, after = (flat_fields(dataclasses.asdict(each)) for each in (RECIPES["digits"], recipe))
    assert {name for name in before if before[name] != after[name]} == changed
    with pytest.raises(TypeError, match="dimension"):
        recipe.replace(dimension=3)


def test_no_two_parts_have_a_field_of_the_same_name():
    names = [field.name for kind in (Recipe, *PARTS.values()) for field in dataclasses.fields(kind)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_back_from_json(name):
    assert Recipe.from_dict(json.loads(json.dumps(dataclasses.asdict(RECIPES[name])))) == RECIPES[name]
