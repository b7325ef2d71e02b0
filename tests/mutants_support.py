"""What planted errors are made of: checks that find them, and changes of what functions return."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

import tfcert
from tests import rule_cases, rule_checks, soundness
from tfcert.regions import LpBall
from tfcert.rules import (
    rows,
)
from tfcert.rules.interval import Interval


class Mutant(NamedTuple):
    """An attribute, what it is replaced by, and the check that must notice."""

    owner: Any
    name: str
    replace: Callable[[Callable], Callable]
    check: Callable[[], None]


def bounds(name, place=rule_cases.CHAIN, *methods, region=None):
    return lambda: rule_checks.check_bounds(name, place, methods, region)


def transposes(name):
    return lambda: rule_checks.check_transposes(name)


def in_windows(name):
    return lambda: rule_checks.check_windows(name)


def margins(name, place, method):
    def check():
        model, x = rule_checks.model_and_inputs(name, place)
        classes, y = model.output_shape[-1], np.array([0, 2])
        lower = tfcert.bound_margins(model, x, y, LpBall(0.3), method)
        differences = np.eye(classes)[y][:, None] - np.eye(classes)[None]
        soundness.Reached(model, x, LpBall(0.3)).check_margins(lower, differences)

    return check


def intervals(change):
    """Replaces ``interval(self, p, *intervals)`` by a change of its result."""
    return lambda original: lambda self, p, *x: change(original(self, p, *x), p, *x)


def result(change):
    """Replaces a function by a change of its result."""
    return lambda original: lambda *args, **kwargs: change(original(*args, **kwargs))


def lines(**changes):
    return result(lambda found: found._replace(**{k: f(found) for k, f in changes.items()}))


def swapped(found, p, *x):
    return Interval.from_ends(found.upper, found.lower)


def signed(found, p, x):
    return Interval.from_center(found.center, x.radius * p[0])


def no_absolute_value(original):
    def interval(self, p, *x):
        return Interval.from_center(
            self.apply(p, x[0].center), self.linear(x[0].radius, p["kernel"])
        )

    return interval


def all_channels(original):
    def ungrouped(kernel, channels):
        return ops.concatenate([kernel] * (channels // kernel.shape[-2]), axis=-2)

    return ungrouped


def first_two_corners(original):
    def interval(self, p, x, y):
        low, high = x.lower * y.lower, x.upper * y.upper
        return Interval.from_ends(ops.minimum(low, high), ops.maximum(low, high))

    return interval


def first_two_corners_alone(original):
    def ends(x, y):
        low, high = x.lower * y.lower, x.upper * y.upper
        return ops.minimum(low, high), ops.maximum(low, high)

    return ends


def wrong_offset(original):
    def moved(self, window, extent):
        found, grown = original(self, window, extent)
        return rows.Window(found.stride, tuple(o + 1 for o in found.offset)), grown

    return moved


def floor_from_the_wrong_ends(original):
    def relax(self, p, slope, x):
        # Largest lower end -> smallest.
        return original(self, p, slope, Interval.from_ends(x.lower, x.lower + 0.1 * x.radius))

    return relax


def slopes_beyond_their_range(original):
    def free_slopes(record):
        found = original(record)
        return [(place, side, low, 2.0 * width + 0.5) for place, side, low, width in found]

    return free_slopes


def other_neurons(original):
    def scattered(order, values, total):
        return ops.roll(original(order, values, total), 1, axis=0)

    return scattered


def first_alone(original):
    return lambda self, first, second, shape: self.dense(first, shape)


def no_flow_into_the_second(original):
    def transpose(self, p, coefficients, shapes):
        first, *others = original(self, p, coefficients, shapes)
        return [first, *[ops.zeros_like(other) for other in others]]

    return transpose


L2 = LpBall(0.5, norm=2)
ALONE, CHAIN, MAP = rule_cases.ALONE, rule_cases.CHAIN, rule_cases.MAP
