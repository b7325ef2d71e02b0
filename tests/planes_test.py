"""Planes around products of two bounded values: sound, and with the coefficients that are meant."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import soundness
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import Product
from tfcert.rules.recurrent import _Gated

_SHARES = np.linspace(0.0, 1.0, 5)


def _intervals(lower, upper):
    return [Interval.from_ends(*map(ops.convert_to_tensor, ends)) for ends in (lower, upper)]


def _planes(product, first, second):
    found = product.relax((), "adaptive", *_intervals(first, second))
    return [np.asarray(t) for t in found]


@pytest.mark.parametrize("product", [Product(), _Gated()])
def test_planes_enclose_products(product):
    random = np.random.default_rng(0)
    lower = random.normal(size=(2, 500)).astype("float32")
    upper = lower + random.exponential(size=(2, 500)).astype("float32")
    ends = [(lower[i], upper[i]) for i in (0, 1)]
    below, above = np.split(np.stack(_planes(product, *ends)), 2)
    reached = np.full((2, 500), np.inf)
    for s, t in itertools.product(_SHARES, _SHARES):
        x, y = (low + share * (high - low) for share, (low, high) in zip((s, t), ends, strict=True))
        gaps = x * y - (below[0] * x + below[1] * y + below[2])
        others = above[0] * x + above[1] * y + above[2] - x * y
        assert min(gaps.min(), others.min()) > -1e-5
        reached = np.minimum(reached, [gaps, others])
    assert reached.max() < 1e-4  # Every plane touches the product at a corner.


def test_the_wider_factor_gets_the_smaller_coefficient():
    """Where both factors keep their signs, all planes pass on as much of both radii."""
    narrow, wide = (np.float32([1.0]), np.float32([1.2])), (np.float32([1.0]), np.float32([3.0]))
    for side in (0, 3):
        assert _planes(Product(), narrow, wide)[side + 1] == pytest.approx(1.0)
        assert _planes(Product(), wide, narrow)[side] == pytest.approx(1.0)
    for side in (0, 3):  # A gate is known better, however wide it is.
        assert _planes(_Gated(), wide, narrow)[side + 1] == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [keras.layers.LSTM, keras.layers.GRU])
def test_gated_planes_are_tighter_on_recurrent_networks(kind, monkeypatch):
    """By CROWN, than those that prefer the state, whose error has grown over all steps."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5, 3)), kind(4), keras.layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")

    def width():
        lower, upper = tfcert.bound(model, x, tfcert.LpBall(0.1), "crown")
        return float(ops.mean(upper - lower))

    with soundness.eagerly():
        gated = width()
        other = lambda self, x, y: ops.zeros_like(x.lower, dtype="bool")  # noqa: E731
        monkeypatch.setattr(_Gated, "prefers_first", other)
        assert gated < 0.99 * width()
