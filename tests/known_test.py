"""What is known of hidden values: intervals, signs of split units, slopes and multipliers."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import soundness, support
from tfcert import backend, methods
from tfcert.bounds import propagation
from tfcert.bounds.alpha import standing
from tfcert.bounds.known import Known
from tfcert.bounds.statistics import node_values
from tfcert.network import network_of
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import Elementwise
from tfcert.rules.rows import Rows
from tfcert.types import Bounds

REGION = tfcert.LpBall(0.3)
STRONG = methods.AlphaCrown(iterations=25)


def mlp(seed, width=12, depth=3):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(width, activation="relu") for _ in range(depth)]
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(3)])


def convolutional(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            keras.layers.Conv2D(3, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.Dense(3),
        ]
    )


MODELS = {"mlp": mlp, "convolutional": convolutional}


class Split:
    """A network, its region, one unstable unit, and the two halves of the region at its kink."""

    def __init__(self, model, seed, which):
        self.network, self.model = network_of(model), model
        self.x = ops.convert_to_tensor(
            np.random.default_rng(seed).uniform(-1, 1, (2, *model.input_shape[1:])), "float32"
        )
        self.bound = REGION.bind(self.x)
        self.rows = np.broadcast_to(
            np.array([[[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [1.0, 0.5, 0.3]]], "float32"), (2, 3, 3)
        )
        self.whole = self.evaluate(None)
        activations = [
            node for node in self.network.nodes if isinstance(node.primitive, Elementwise)
        ]
        self.node = activations[which].inputs[0]
        self.place = self.network.index[self.node]
        interval = self.whole.intervals[self.node]
        lower, upper = (np.reshape(ops.convert_to_numpy(end), (2, -1)) for end in interval.bounds)
        # The unit of each sample whose relaxation is loosest.
        gap = np.where((lower < 0) & (upper > 0), np.minimum(-lower, upper), -1.0)
        self.unit = gap.argmax(axis=1)
        assert (gap.max(axis=1) > 0).all(), "the region is too small for this test"

    def evaluate(self, known, method=STRONG):
        return propagation.evaluate(self.network, REGION, self.bound, method, known=known)

    def known(self, sign, settled=True):
        signs = np.zeros((2, math.prod(self.node.shape)), "float32")
        signs[np.arange(2), self.unit] = sign
        places = [self.network.index[node] for node in self.network.needing_bounds()]
        ends = {
            place: Bounds(*self.whole.intervals[self.network.nodes[place]].bounds)
            for place in places
        }
        signs = ops.convert_to_tensor(signs.reshape(2, *self.node.shape))
        return Known(intervals=ends, signs={self.place: signs}, settled=settled)

    def values(self, points):
        """The unit's values and those of the rows at points, ``(2, count, *input_shape)``."""
        flat = ops.convert_to_tensor(np.reshape(points, (-1, *points.shape[2:])))
        found = node_values(self.network, {self.network.input: flat}, {})
        z, outputs = (
            np.reshape(ops.convert_to_numpy(found[node]), (*points.shape[:2], -1))
            for node in (self.node, self.network.outputs)
        )
        unit = np.take_along_axis(z, self.unit[:, None, None], axis=2)[..., 0]
        return unit, np.einsum("brc,bnc->bnr", self.rows, outputs)


@pytest.mark.parametrize("kind", support.slow_except("mlp".__eq__, MODELS))
@pytest.mark.parametrize("which", [0, 1])
def test_halves_of_a_split_are_bounded_at_least_as_tightly_as_the_whole(kind, which):
    better = 0
    for seed in range(2):
        split = Split(MODELS[kind](seed), seed, which)
        output = split.network.outputs
        whole = STRONG.optimise(split.whole, output, split.rows)
        points = ops.convert_to_numpy(REGION.sample(split.x, 400, 1))
        corners = ops.convert_to_numpy(REGION.sample(split.x, 400, 2, corners=True))
        unit, reached = split.values(np.concatenate([points, corners], axis=1))
        halves = []
        for sign in (1.0, -1.0):
            evaluation = split.evaluate(split.known(sign))
            half = STRONG.optimise(
                evaluation, output, split.rows, slopes=whole.slopes, multipliers=None
            )
            lower = ops.convert_to_numpy(half.lower)
            inside = (sign * unit >= 0)[..., None]
            least = np.where(inside, reached, np.inf).min(axis=1)
            assert (lower <= least + soundness.TOLERANCE["float32"] * 10).all()
            assert not ops.convert_to_numpy(evaluation.empty).any()
            assert all((ops.convert_to_numpy(t) >= 0).all() for t in half.multipliers.values())
            halves.append(lower)
        both, before = np.minimum(*halves), ops.convert_to_numpy(whole.lower)
        slack = 1e-3 * np.abs(before).max()
        assert (both >= before - slack).all(), (both - before).min()
        better += (both > before + slack).sum()
    assert better > 0, "a split must tighten something"


def test_without_multipliers_a_half_can_be_looser():
    """What the multipliers are for: the sign alone, as an interval, is not enough."""
    looser = 0
    for seed in range(2):
        split = Split(mlp(seed), seed, 1)
        output = split.network.outputs
        none = dataclasses.replace(STRONG, iterations=1, learning_rate=1e-9)
        for sign in (1.0, -1.0):
            evaluation = split.evaluate(split.known(sign))
            start = ops.convert_to_numpy(none.optimise(evaluation, output, split.rows).lower)
            ended = ops.convert_to_numpy(STRONG.optimise(evaluation, output, split.rows).lower)
            assert (ended >= start - 1e-5).all()
            looser += (ended > start + 1e-3).sum()
    assert looser > 0


def test_one_sweep_is_sound_whatever_slopes_it_is_given():
    """They may come from another part, where other slopes were allowed."""
    split = Split(mlp(0), 0, 1)
    output, tolerance = split.network.outputs, soundness.TOLERANCE["float32"] * 10
    points = ops.convert_to_numpy(REGION.sample(split.x, 800, 1, corners=True))
    unit, reached = split.values(points)
    rows = Rows(ops.convert_to_tensor(split.rows))
    for sign in (1.0, -1.0):
        evaluation = split.evaluate(split.known(sign))
        found = STRONG.optimise(evaluation, output, split.rows)
        inside = (sign * unit >= 0)[..., None]
        least = np.where(inside, reached, np.inf).min(axis=1)
        again = ops.convert_to_numpy(
            standing(evaluation, output, rows, found.slopes, found.multipliers)
        )
        np.testing.assert_allclose(again, found.lower, rtol=1e-4, atol=1e-5)
        for slope, beta in ((-3.0, 0.3), (4.0, 0.3)):
            slopes = {
                place: [None if t is None else ops.full_like(t, slope) for t in pair]
                for place, pair in found.slopes.items()
            }
            betas = {place: ops.full_like(t, beta) for place, t in found.multipliers.items()}
            lower = ops.convert_to_numpy(standing(evaluation, output, rows, slopes, betas))
            assert (lower <= least + tolerance).all()
            assert np.isfinite(lower).all()


def test_ranges_that_are_exact_are_taken_as_they_are_known():
    """Interval arithmetic is spared where it finds nothing: even wider ends are not narrowed."""
    split = Split(mlp(0), 0, 0)
    known, place = split.known(0.0), split.place
    lower, upper = known.intervals[place]
    wide = Bounds(lower - 1.0, upper + 1.0)
    known = dataclasses.replace(known, intervals={**known.intervals, place: wide})
    found = split.evaluate(known).intervals[split.node].bounds
    for end, given in zip(found, wide, strict=True):
        np.testing.assert_array_equal(end, given)


def test_a_half_without_points_is_found_empty():
    split = Split(mlp(0), 0, 0)
    interval = split.whole.intervals[split.node]
    upper = ops.convert_to_numpy(interval.upper).reshape(2, -1)
    # In the first sample, ask for the unit that is furthest below 0 to be positive.
    split.unit[0] = upper[0].argmin()
    assert upper[0].min() < -0.01
    evaluation = split.evaluate(split.known(1.0))
    assert ops.convert_to_numpy(evaluation.empty).tolist() == [True, False]
    assert split.whole.empty is None


def test_crossed_ends_are_told_and_not_swapped():
    interval = Interval.from_ends(np.zeros(2, "float32"), np.ones(2, "float32"))
    crossed = interval.intersect(np.array([2.0, 0.5], "float32"), np.array([3.0, 0.7], "float32"))
    assert ops.convert_to_numpy(crossed.lower).tolist() == pytest.approx([2.0, 0.5])
    assert ops.convert_to_numpy(crossed.upper).tolist() == pytest.approx([1.0, 0.7])
    assert crossed.may_cross and not interval.may_cross
    ordered = crossed.ordered()
    assert (ops.convert_to_numpy(ordered.lower) <= ops.convert_to_numpy(ordered.upper)).all()


def test_known_intervals_tighten_and_settle():
    split = Split(mlp(1), 1, 1)
    known = split.known(0.0)
    again = split.evaluate(known, methods.IBP())
    exact = split.evaluate(None, methods.Crown())
    for node in split.network.needing_bounds():
        kept, own = again.intervals[node], exact.intervals[node]
        for first, second in zip(kept.bounds, own.bounds, strict=True):
            np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_network_may_start_at_a_hidden_box():
    """Bounds from a hidden node on: those of the rest of the network on the box there."""
    model = mlp(3)
    network, x = network_of(model), np.zeros((2, 4), "float32")
    bound = REGION.bind(ops.convert_to_tensor(x))
    names = [layer.name for layer in model.layers]
    start = next(
        node
        for node in network.nodes
        if node.name == names[0] and isinstance(node.primitive, Elementwise)
    )
    box = Bounds(*(ops.convert_to_tensor(v) for v in (np.full((2, 12), 0.1, "float32"),) * 2))
    box = Bounds(box.lower, box.upper + 0.4)
    place = network.index[start]
    known = Known(intervals={place: box}, starts=frozenset({place}))
    rest = keras.Sequential([keras.Input((12,)), *model.layers[1:]])
    region = tfcert.Box(np.full(12, 0.1), np.full(12, 0.5))
    inside = np.full((2, 12), 0.3, "float32")
    for method in (methods.IBP(), methods.CrownIBP(), methods.Crown(), methods.AlphaCrown()):
        evaluation = propagation.evaluate(network, REGION, bound, method, known=known)
        assert network.input not in evaluation.intervals
        ours = propagation.node_bounds(evaluation, method, network.outputs)
        theirs = tfcert.bound(rest, inside, region, method)
        for first, second in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="`starts` must be nodes with a known interval"):
        Known(starts=frozenset({place}))


def test_what_one_program_finds_can_be_given_to_another():
    split = Split(mlp(2), 2, 1)
    output, network = split.network.outputs, split.network

    def first(x, rows):
        evaluation = propagation.evaluate(network, REGION, REGION.bind(x), STRONG)
        found = STRONG.optimise(evaluation, output, rows)
        ends = {
            network.index[node]: evaluation.intervals[node].bounds
            for node in network.needing_bounds()
        }
        return found.lower, found.slopes, ends

    def second(x, rows, slopes, ends, signs):
        known = Known(intervals=ends, signs=signs, settled=True)
        evaluation = propagation.evaluate(network, REGION, REGION.bind(x), STRONG, known=known)
        found = STRONG.optimise(evaluation, output, rows, slopes=slopes)
        return found.lower, found.slopes, found.multipliers

    programs = [backend.compile_function(f, split.model) for f in (first, second)]
    lower, slopes, ends = programs[0](split.x, split.rows)
    signs = split.known(0.0).signs
    # The same problem, started where the first program ended: no looser.
    again, _, multipliers = programs[1](split.x, split.rows, slopes, ends, signs)
    assert (ops.convert_to_numpy(again) >= ops.convert_to_numpy(lower) - 1e-3).all()
    assert list(multipliers) == [split.place]


@pytest.mark.parametrize("settled", [True, False])
def test_signs_at_every_layer_stay_sound(settled):
    """No point with the signs leaves the bounds, whether hidden bounds are shared or swept anew."""
    method = methods.AlphaCrown(iterations=5)
    for which in (0, 1, 2):
        split = Split(mlp(which, width=6), which, which)
        points = ops.convert_to_numpy(REGION.sample(split.x, 500, which))
        unit, reached = split.values(points)
        for sign in (1.0, -1.0):
            evaluation = split.evaluate(split.known(sign, settled), method)
            lower = method.optimise(evaluation, split.network.outputs, split.rows).lower
            inside = (sign * unit >= 0)[..., None]
            least = np.where(inside, reached, np.inf).min(axis=1)
            assert (ops.convert_to_numpy(lower) <= least + 1e-4).all()
