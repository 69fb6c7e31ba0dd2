import numpy as np
import pytest

from keras_convmixer.export.runtime.decision import BINARY, MULTI, SINGLE, Decision, checked_labels, stated_kind
from keras_convmixer.outputs import kind as outputs

PROBABILITIES = np.array([[0.9, 0.2, 0.6], [0.4, 0.3, 0.1]])


def test_the_kinds_are_the_librarys():
    assert (SINGLE, MULTI, BINARY) == outputs.KINDS


def test_labels_are_the_most_probable_or_those_over_the_threshold():
    assert Decision()(PROBABILITIES).tolist() == [0, 0]
    assert Decision(MULTI, 0.5)(PROBABILITIES).tolist() == [[True, False, True], [False, False, False]]
    assert Decision(MULTI, 0.6)(PROBABILITIES).tolist()[0] == [True, False, True]
    assert Decision(MULTI, 0.61)(PROBABILITIES).tolist()[0] == [True, False, False]


def test_images_agree_where_all_labels_do():
    other = np.array([[0.9, 0.2, 0.4], [0.1, 0.3, 0.1]])
    assert Decision().same(PROBABILITIES, other).tolist() == [True, False]
    assert Decision(MULTI, 0.5).same(PROBABILITIES, other).tolist() == [False, True]
    assert Decision(MULTI, 0.35).same(PROBABILITIES, other).tolist() == [True, False]


def test_images_are_right_where_all_labels_are():
    assert Decision().right(PROBABILITIES, [0, 1]).tolist() == [True, False]
    assert Decision(MULTI, 0.5).right(PROBABILITIES, [[1, 0, 1], [1, 0, 0]]).tolist() == [True, False]
    assert Decision(MULTI, 0.5).right(PROBABILITIES, [0, 0]).tolist() == [
        True,
        True,
    ]  # one label each: the most probable
    assert Decision(BINARY, 0.5).right(PROBABILITIES[:, :1], np.array([1, 1])).tolist() == [True, False]


@pytest.mark.parametrize("threshold", [None, 0, 1, -0.5, 50])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(ValueError, match=f"threshold={threshold}: give more than 0 and less than 1"):
        Decision(MULTI, threshold)


def test_labels_state_a_kind_where_a_row_has_none_or_several():
    assert stated_kind(np.array([[1, 0], [1, 1]])) == stated_kind([[0, 0], [0, 1]]) == MULTI
    for labels in (None, [0, 1], [[1, 0], [0, 1]], [[0], [1]]):
        assert stated_kind(labels) is None


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        (
            SINGLE,
            [[1, 0, 0]] * 4,
            r"has shape \(4, 3\): give one class number for each .* \(labels.argmax\(-1\) of one-hot",
        ),
        (SINGLE, [0] * 3, r"has shape \(3,\)"),
        (MULTI, [[1, 0]] * 4, r"has shape \(4, 2\): give 0 or 1 for each of the 3 labels, \[4, 3\]"),
        (MULTI, [[2, 0, 0]] * 4, r"validation_labels has 0\.\.2: give 0 or 1"),
        (BINARY, [0, 1, 2, 0], r"validation_labels has 0\.\.2: give 0 or 1 for each"),
        (BINARY, [[0, 1]] * 4, r"has shape \(4, 2\): give 0 or 1 for each"),
    ],
)
def test_labels_that_do_not_fit_are_named(kind, labels, words):
    with pytest.raises(ValueError, match=words):
        checked_labels(kind, labels, 4, 3)


def test_labels_that_fit():
    assert checked_labels(BINARY, [[0], [1]], 2, 1).tolist() == [0, 1]
    assert checked_labels(MULTI, [2, 0], 2, 3).tolist() == [2, 0]
