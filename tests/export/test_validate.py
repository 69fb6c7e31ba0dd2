from types import SimpleNamespace

import numpy as np
import pytest

from keras_convmixer.export import ValidationError
from keras_convmixer.export.litert import CONVERSIONS
from keras_convmixer.export.operators import Operators
from keras_convmixer.export.validate import REQUIREMENTS, check_litert, validate

REFERENCE = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.9, 0.1]], "float32")


def test_every_conversion_has_a_requirement():
    assert set(REQUIREMENTS) == {"saved_model", *CONVERSIONS}


def test_what_is_measured():
    actual = REFERENCE + np.array([[0.1, -0.1], [0, 0], [0, 0], [-0.06, 0.06]], "float32")
    measured = validate("int8", REFERENCE, actual, labels=np.array([0, 1, 1, 1]))
    assert measured.images == 4
    assert measured.top1_agreement == 1.0
    assert measured.max_difference == pytest.approx(0.1)
    assert measured.mean_difference == pytest.approx((0.1 + 0.06) / 4)
    assert measured.accuracy == 0.5
    assert validate("int8", REFERENCE, actual).accuracy is None


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_one_in_fifty_that_disagrees_is_too_many(name):
    reference = np.tile(REFERENCE[:1], (50, 1))
    actual = reference.copy()
    actual[7] = actual[7, ::-1]
    with pytest.raises(ValidationError, match=f"{name} agrees with the Keras model on 98.00% of 50 images"):
        validate(name, reference, actual)


@pytest.mark.parametrize("name", ["saved_model", "float32"])
def test_float_forms_may_differ_by_rounding_only(name):
    validate(name, REFERENCE, REFERENCE + np.float32(5e-5))
    with pytest.raises(ValidationError, match=f"{name} differs from the Keras model by up to 0.0002"):
        validate(name, REFERENCE, REFERENCE + np.float32(2e-4))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_other_shapes(value):
    with pytest.raises(ValidationError, match="int8 returns NaN"):
        validate("int8", REFERENCE, REFERENCE * np.float32(value))
    with pytest.raises(ValidationError, match=r"returns \(4, 1\), the Keras model \(4, 2\)"):
        validate("int8", REFERENCE, REFERENCE[:, :1])


def int8_file(input_dtype=np.uint8, output_dtype=np.uint8, quantization=(1.0, 0)):
    return SimpleNamespace(
        input={"dtype": input_dtype, "quantization": quantization},
        output={"dtype": output_dtype, "quantization": (1 / 256, 0)},
    )


GOOD = Operators({"CONV_2D": 1}, frozenset(), frozenset({"INT8", "UINT8", "INT32"}))


def test_a_good_file_passes():
    check_litert("int8", int8_file(), GOOD)
    check_litert("int8", int8_file(quantization=(0.996, 0)), GOOD)


@pytest.mark.parametrize(
    ("file", "operators", "words"),
    [
        (int8_file(input_dtype=np.int8), GOOD, "input is int8, and must be uint8"),
        (int8_file(output_dtype=np.float32), GOOD, "output is float32, and must be uint8"),
        (int8_file(quantization=(1.0, 3)), GOOD, "instead of 0..255"),
        (int8_file(quantization=(0.9, 0)), GOOD, "instead of 0..255"),
        (int8_file(), Operators({}, frozenset({"FlexErf"}), GOOD.dtypes), r"LiteRT lacks \(FlexErf\)"),
        (int8_file(), Operators({}, frozenset(), GOOD.dtypes | {"FLOAT32"}), "FLOAT32 tensors"),
    ],
)
def test_a_bad_file_is_named(file, operators, words):
    with pytest.raises(ValidationError, match=words):
        check_litert("int8", file, operators)
