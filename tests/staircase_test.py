"""Rounding to whole numbers: ranges and lines hold for every way to round."""

import doctest
from unittest import mock

import keras
import numpy as np
import pytest

import tfcert
from tfcert import layers
from tfcert.layers import requantize
from tfcert.relaxations import Staircase, staircase

RADII = (0.5, 0.51, 0.75, 1.0, 1.4)


def case(radius, limits, seed=0, count=300):
    """A staircase, intervals, points in them, and all whole numbers that the points may become."""
    random = np.random.default_rng(seed)
    lower = random.uniform(-12, 10, count)
    upper = lower + random.uniform(0, 2, count) ** random.integers(1, 5, count)
    lower[:20] = np.round(lower[:20]) + radius  # Just at the end of a step.
    upper = np.maximum(lower, upper)
    lower, upper = (end.astype("float32") for end in (lower, upper))
    share = np.linspace(0.0, 1.0, 201, dtype="float32")
    points = np.minimum(lower[:, None] + share * (upper - lower)[:, None], upper[:, None])
    least = np.clip(np.ceil(points.astype("float64") - radius), *limits)
    largest = np.clip(np.floor(points.astype("float64") + radius), *limits)
    return Staircase(limits, radius), lower, upper, points.astype("float64"), least, largest


def arrays(tensors):
    return [np.asarray(keras.ops.convert_to_numpy(t)).astype("float64") for t in tensors]


def check_lines(lines, points, least, largest):
    low_slope, low, high_slope, high = (line[:, None] for line in arrays(lines))
    assert (low_slope * points + low <= least + 1e-9).all()
    assert (high_slope * points + high >= largest - 1e-9).all()


@pytest.mark.parametrize("limits", [(-128, 127), (0, 4), (-3, -3)])
@pytest.mark.parametrize("radius", RADII)
def test_ranges_and_lines_enclose_every_way_to_round(radius, limits):
    curve, lower, upper, points, least, largest = case(radius, limits)
    low, high = arrays(curve.interval(lower, upper))
    # Float32 may round an end minus the radius to the other side of a whole number.
    assert (np.abs(low - least.min(axis=1)) > 1e-6).sum() <= 20
    assert (low[20:] == least.min(axis=1)[20:]).all()
    assert (high[20:] == largest.max(axis=1)[20:]).mean() > 0.9
    assert (high[20:] >= largest.max(axis=1)[20:]).all()
    points, least, largest = (a[20:] for a in (points, least, largest))
    lower, upper = lower[20:], upper[20:]
    for slope in ("adaptive", "zero", "one", "same"):
        check_lines(curve.lines(lower, upper, slope), points, least, largest)
    random = np.random.default_rng(1)
    for spread in (1.0, 3.0):
        slopes = random.uniform(1 - spread, spread, (2, len(lower))).astype("float32")
        check_lines(curve.lines_with_slopes(*slopes, lower, upper), points, least, largest)
    ranges = arrays(curve.slope_range(lower, upper))
    lines = arrays(curve.lines(lower, upper))
    for least_slope, most_slope, line in ((*ranges[:2], lines[0]), (*ranges[2:], lines[2])):
        assert (least_slope <= line).all() and (line <= most_slope).all()


def test_lines_are_tight():
    curve, lower, upper, *_ = case(0.5, (0, 6))
    middle = 0.5 * (lower + upper).astype("float64")
    found = [line * middle for line in arrays(curve.lines(lower, upper))[::2]]
    gap = found[1] - found[0] + np.subtract(*arrays(curve.lines(lower, upper))[3::-2])
    others = []
    for slope in np.linspace(0, 1, 21, dtype="float32"):
        slopes = np.full_like(lower, slope)
        lines = arrays(curve.lines_with_slopes(slopes, slopes, lower, upper))
        others.append([lines[0] * middle + lines[1], lines[2] * middle + lines[3]])
    best = np.min([o[1] for o in others], axis=0) - np.max([o[0] for o in others], axis=0)
    assert (gap <= best + 1e-4).all()
    # A unit that is clipped on all of the interval, or that has one result, is known.
    one = curve.lines(np.float32([-9.0, 1.6, 8.0]), np.float32([-0.6, 2.4, 9.0]))
    np.testing.assert_allclose(arrays(one), [[0] * 3, [0, 2, 6], [0] * 3, [0, 2, 6]], atol=1e-4)


def test_unbounded_and_missing_ends():
    curve = Staircase((-5, 7), 0.5)
    inf = np.float32(np.inf)
    lower, upper = np.array([-inf, 0.0, -inf]), np.array([1.2, inf, inf])
    lower, upper = lower.astype("float32"), upper.astype("float32")
    np.testing.assert_array_equal(arrays(curve.interval(lower, upper)), [[-5, 0, -5], [1, 7, 7]])
    lines = arrays(curve.lines_with_slopes(*np.full((2, 3), 0.5, "float32"), lower, upper))
    np.testing.assert_allclose(lines, [[0] * 3, [-5, 0, -5], [0] * 3, [1, 7, 7]], atol=1e-4)
    nan = np.float32([np.nan])
    assert all(np.isnan(end).all() for end in arrays(curve.interval(nan, nan)))


def test_planted_errors_are_found():
    parts = case(0.75, (-4, 5))
    curve, lower, upper, points, least, largest = (
        part if isinstance(part, Staircase) else part[20:] for part in parts
    )

    def check():
        for slope in ("adaptive", "one"):
            check_lines(curve.lines(lower, upper, slope), points, least, largest)
        halves = np.full((2, len(lower)), 0.5, "float32")
        check_lines(curve.lines_with_slopes(*halves, lower, upper), points, least, largest)

    check()
    line = staircase._Below.line

    def shifted(self, slope):
        slope, intercept = line(self, slope)
        return slope, intercept + 0.01

    def past_the_bend(self, slope):
        self.bend = self.bend - 0.1
        return line(self, slope)

    for wrong in (shifted, past_the_bend):
        with mock.patch.object(staircase._Below, "line", wrong), pytest.raises(AssertionError):
            check()


def test_the_layer_rounds_to_the_nearest_stored_integer():
    x = np.float32([[-3.5, -2.5, -0.5, 0.49999997, 0.5, 1.5, 2.5, 99.0]])
    for zero_point in (0, -128, 5):
        layer = layers.Requantize(limits=(-3, 7), zero_point=zero_point)
        stored = x + zero_point
        away = np.sign(stored) * np.floor(np.abs(stored.astype("float64")) + 0.5) - zero_point
        near = np.where(np.abs(away - x) > 0.5, 0.0, away)
        np.testing.assert_array_equal(np.asarray(layer(x)), np.clip(near, -3, 7))
    many = np.random.default_rng(0).normal(0, 60, 10000).astype("float32")
    found = np.asarray(layers.Requantize(zero_point=7)(many))
    assert (found == np.round(found)).all()
    assert np.abs(found - np.clip(many, -128, 127)).max() <= 0.5


def test_the_example_of_the_layer():
    result = doctest.testmod(requantize, extraglobs={"np": np, "tfcert": tfcert})
    assert result.attempted == 2 and result.failed == 0
