import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_convmixer.deployment.depthwise import cover as planner
from keras_convmixer.deployment.depthwise.cover import ADD_COST, Piece, Side, cost, cover, microkernel


def same(taps, dilation=1):
    reach = (taps - 1) * dilation
    return Side(taps, reach // 2, reach - reach // 2, dilation)


def valid(taps, dilation=1):
    return Side(taps, 0, 0, dilation)


sides = st.builds(lambda kind, *arguments: kind(*arguments), st.sampled_from([same, valid]), st.integers(1, 15))


@settings(max_examples=80, derandomize=True, deadline=None)
@given(sides, sides)
def test_every_tap_is_in_one_piece_that_has_a_microkernel(rows, columns):
    taps = np.zeros((rows.taps, columns.taps), int)
    for piece in cover(rows, columns):
        assert 1 <= piece.taps <= 25
        taps[piece.top : piece.bottom, piece.left : piece.right] += 1
    assert (taps == 1).all()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_what_has_a_microkernel_stays_whole(size):
    assert cover(same(size), valid(size)) == (Piece(0, size, 0, size),)


@pytest.mark.parametrize(("size", "taps"), [(7, [24, 21, 4]), (8, [24, 24, 8, 8]), (9, [24, 24, 24, 9])])
def test_pieces_fill_their_microkernels(size, taps):
    pieces = cover(same(size), same(size))
    assert [piece.taps for piece in pieces] == taps


def cheapest(rows, columns):
    """The cost of the best cover that cuts from edge to edge, over and over, found by trying each."""

    @functools.cache
    def of(top, bottom, left, right):
        best = cost(rows, columns, [Piece(top, bottom, left, right)])  # infinite over 25 taps
        for cut in range(top + 1, bottom):
            best = min(best, of(top, cut, left, right) + of(cut, bottom, left, right) + ADD_COST)
        for cut in range(left + 1, right):
            best = min(best, of(top, bottom, left, cut) + of(top, bottom, cut, right) + ADD_COST)
        return best

    return of(0, rows.taps, 0, columns.taps)


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (8, 8), (9, 9), (7, 9), (5, 11), (1, 60), (11, 11)])
@pytest.mark.parametrize("kind", [same, valid])
def test_no_cover_by_cuts_from_edge_to_edge_is_cheaper(size, kind):
    rows, columns = map(kind, size)
    assert cost(rows, columns, cover(rows, columns)) == pytest.approx(cheapest(rows, columns), rel=0.02)


# Instructions for 4 outputs on a Cortex-A76: benchmarks/on_arm/operators.py, files of ConvMixer768_32 and 1024_20.
ON_ARM = {
    "float32": {"MICROKERNELS": {3: 12.4, 4: 14.5, 9: 31.5, 25: 75.0}, "ADD_COST": 5.6, "CROP_COST": 2.1},
    "int8": {"MICROKERNELS": {3: 13.4, 4: 26.2, 9: 26.2, 25: 63.7}, "ADD_COST": 10.3, "CROP_COST": 0.6},
}


@pytest.mark.parametrize("dtype", ON_ARM)
@pytest.mark.parametrize("size", range(6, 16))
def test_on_arm_no_other_cover_gains_over_a_tenth(dtype, size, monkeypatch):
    """Or deploy() would have to ask for which processor: see `cover`."""
    side, half = same(size), size // 2 + 1
    planned = cover(side, side)
    for name, value in {**ON_ARM[dtype], "ROW_COST": 0}.items():
        monkeypatch.setattr(planner, name, value)
    least = cost(side, side, cover(side, side))
    assert cost(side, side, planned) <= 1.01 * least
    if size in (7, 9):
        corners = [
            Piece(*rows, *columns) for rows in ((0, half), (half, size)) for columns in ((0, half), (half, size))
        ]
        assert cost(side, side, corners) > 1.1 * least


def test_a_crop_counts_where_a_piece_lies_beside_the_centre():
    side = same(9)
    assert side.padding(0, 3) == (4, -2)
    assert side.padding(3, 6) == (1, 1)
    assert valid(9).padding(3, 6) == (-3, -3)
    assert same(9, dilation=2).padding(0, 3) == (8, -4)


def test_microkernels_end_at_25_taps():
    assert [microkernel(taps) for taps in (1, 3, 4, 5, 9, 10, 25, 26)] == [3, 3, 4, 9, 9, 25, 25, None]


def test_a_large_kernel_is_covered_in_seconds():
    assert sum(piece.taps for piece in cover(same(31), same(31))) == 31 * 31
