from types import SimpleNamespace

import numpy as np
import pytest

from keras_convmixer.export import ValidationError
from keras_convmixer.export.formats import FORMATS
from keras_convmixer.export.tflite.operators import Operators
from keras_convmixer.export.validation.requirements import REQUIREMENTS
from keras_convmixer.export.validation.validate import check_litert, validate

REFERENCE = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.9, 0.1]], "float32")


def test_every_conversion_has_a_requirement():
    assert set(REQUIREMENTS) == {"saved_model", *FORMATS}


def test_what_is_measured():
    actual = REFERENCE + np.array([[0.1, -0.1], [0, 0], [0, 0], [-0.06, 0.06]], "float32")
    measured = validate("int8", REFERENCE, actual, labels=np.array([0, 1, 1, 1]))
    assert measured.images == 4
    assert measured.agreement == 1.0
    assert measured.max_difference == pytest.approx(0.1)
    assert measured.mean_difference == pytest.approx((0.1 + 0.06) / 4)
    assert measured.accuracy == 0.5
    assert validate("int8", REFERENCE, actual).accuracy is None


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        *(("saved_model", 1), ("float32", 1), ("float16", 1), ("dynamic", 2), ("int8", 7), ("int16x8", 2)),
        *(("weight_int8", 2), ("weight_int4", 15)),
    ],
)
def test_one_in_a_hundred_more_that_disagrees_is_too_many(name, allowed):
    reference = np.tile(REFERENCE[:1], (100, 1))
    actual = reference.copy()
    actual[: allowed + 1] = actual[: allowed + 1, ::-1]
    with pytest.raises(ValidationError, match=f"{name} agrees with the Keras model on {99 - allowed}.00% of 100"):
        validate(name, reference, actual)


def test_accuracy_may_be_lost_within_bounds():
    reference = np.tile(REFERENCE[:1], (1000, 1))
    for wrong, fails in ((10, False), (11, True)):
        actual = reference.copy()
        actual[:wrong] = actual[:wrong, ::-1]
        if fails:
            with pytest.raises(ValidationError, match=r"int8 is right on 98.90% of 1000 .* on 100.00%, and 1.0% less"):
                validate("int8", reference, actual, np.zeros(1000, int))
        else:
            validate("int8", reference, actual, np.zeros(1000, int))
    for better in (reference, actual):  # labels that the file is nearer to are no loss
        validate("int8", reference, better, np.repeat([1, 0], [11, 989]))
    few, actual = reference[:50], reference[:50].copy()
    actual[:2] = actual[:2, ::-1]
    validate("int8", few, actual, np.zeros(50, int))  # two images


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
