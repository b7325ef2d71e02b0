"""Rules of l-inf-distance networks: bounds, the margin rule, hybrids, rounding, errors."""

import math

import hypothesis as hp
import hypothesis.strategies as hps
import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import rule_cases, soundness, support
from tests.distance_support import distance_network, inputs_of
from tfcert import lipschitz, methods
from tfcert.bounds import method as bound_method
from tfcert.layers import LInfDistance, LInfDistanceConv2D, MeanShift, set_exponent
from tfcert.network import network_of

METHODS = ("ibp", "crown-ibp", "fast-lin", "crown", methods.AlphaCrown(iterations=2))
SEEDS = hps.integers(0, 2**31 - 1)
EXPONENTS = hps.sampled_from([math.inf, math.inf, 1.0, 2.0, 7.5, 1000.0])


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def examples(count):
    phases = (hp.Phase.explicit, hp.Phase.generate)
    return hp.settings(
        derandomize=True, deadline=None, database=None, max_examples=count, phases=phases
    )


def _region(seed, eps):
    # No radius may be larger than the clip range.
    eps, clip = (min(eps, 1.0), (0.0, 1.0)) if seed % 2 else (eps, None)
    return tfcert.LpBall(eps, norm=2 if seed % 3 == 2 else "inf", clip=clip)


@pytest.mark.slow
@examples(5)
@hp.given(seed=SEEDS, p=EXPONENTS, eps=hps.sampled_from([0.01, 0.2, 3.0]))
def test_outputs_of_hybrids_lie_within_the_bounds_of_every_method(seed, p, eps):
    model = distance_network(seed, p, hybrid=True)
    x, region = inputs_of(model, seed), _region(seed, eps)
    tolerance = soundness.TOLERANCE[str(x.dtype)]
    reached = soundness.Reached(model, x, region, seed=seed)
    loosest = tfcert.bound(model, x, region, "ibp")
    for method in METHODS:
        bounds = tfcert.bound(model, x, region, method)
        reached.check(bounds, f"{method} at p={p}")
        soundness.check_contains(loosest, bounds, f"{method} in ibp", tolerance)
    y = np.arange(len(x)) % 3
    rows = np.eye(3)[y][:, None] - np.eye(3)[None]
    for method in ("ibp", "crown"):
        reached.check_margins(tfcert.bound_margins(model, x, y, region, method), rows, str(method))


@examples(6)
@hp.given(seed=SEEDS, p=EXPONENTS, eps=hps.sampled_from([0.01, 0.2, 3.0]))
def test_outputs_lie_within_the_intervals(seed, p, eps):
    model = distance_network(seed, p)
    x, region = inputs_of(model, seed), _region(seed, eps)
    reached = soundness.Reached(model, x, region, count=200, attacks=6, seed=seed)
    for method in ("ibp", "crown"):
        reached.check(tfcert.bound(model, x, region, method), f"{method} at p={p}")


@examples(8)
@hp.given(seed=SEEDS, eps=hps.sampled_from([0.02, 0.3, 2.0]))
def test_outputs_move_no_further_than_the_declared_factor(seed, eps):
    model = distance_network(seed)
    x = inputs_of(model, seed, batch=200)
    factor = float(lipschitz.factor(model))
    first = model.layers[1]
    scaled = isinstance(first, layers.Normalization)
    spread = np.sqrt(np.asarray(first.variance).min()) if scaled else 1.0
    assert factor == pytest.approx(1.0 / spread, rel=1e-6)
    z = x + eps * np.random.default_rng(seed).choice((-1.0, 0.3, 1.0), size=x.shape)
    apart = np.abs(np.asarray(model(x)) - np.asarray(model(z.astype(x.dtype)))).max(axis=1)
    assert (apart <= factor * eps * (1 + soundness.TOLERANCE[str(x.dtype)])).all()


@pytest.mark.slow
@examples(8)
@hp.given(seed=SEEDS, eps=hps.sampled_from([0.02, 0.3, 2.0]), clipped=hps.booleans())
def test_intervals_certify_all_that_the_margin_rule_does(seed, eps, clipped):
    model = distance_network(seed)
    x = inputs_of(model, seed, batch=4)
    eps = min(eps, 1.0) if clipped else eps
    region = tfcert.LpBall(eps, clip=(0.0, 1.0) if clipped else None)
    y = np.asarray(model(x)).argmax(axis=1)
    ibp, rule = (
        np.asarray(tfcert.bound_margins(model, x, y, region, m)) for m in ("ibp", "lipschitz")
    )
    slack = soundness.TOLERANCE[str(x.dtype)] * soundness.magnitude(ibp)
    assert (ibp >= rule - slack).all()
    reached = soundness.Reached(model, x, region, seed=seed)
    rows = np.eye(rule.shape[1])[y][:, None] - np.eye(rule.shape[1])[None]
    reached.check_margins(rule, rows, "margin rule")
    radius = np.asarray(lipschitz.radius(model, x))
    others = np.arange(rule.shape[1]) != y[:, None]
    certified = np.where(others, rule, np.inf).min(axis=1) > slack
    assert (radius[certified] > eps).all()


def test_intervals_use_the_range_of_pixels():
    # Each unit looks at one black pixel that the region cannot make darker.
    layer = LInfDistance(2)
    model = keras.Sequential([keras.Input((2,)), layer, layers.Rescaling(-1.0)])
    layer.kernel.assign(np.array([[2.0, 0.5], [0.5, 1.0]]))
    x, region = np.zeros((1, 2), "float32"), tfcert.LpBall(0.3, clip=(0.0, 1.0))
    lower, upper = tfcert.bound(model, x, region, "ibp")
    np.testing.assert_allclose(lower, [[-2.0, -1.0]], rtol=1e-6)
    np.testing.assert_allclose(upper, [[-1.7, -0.7]], rtol=1e-6)
    lower, upper = tfcert.bound(model, x, region, "lipschitz")
    np.testing.assert_allclose(lower, [[-2.3, -1.3]], rtol=1e-6)
    np.testing.assert_allclose(upper, [[-1.7, -0.7]], rtol=1e-6)


@pytest.mark.parametrize(
    ("p", "padding"),
    support.slow_except(lambda case: case[0] == math.inf, [(math.inf, "same"), (3.0, "valid")]),
)
@pytest.mark.parametrize(
    "options", [{}, {"strides": (2, 1)}, {"dilation_rate": (2, 1)}, {"groups": 2}]
)
def test_a_convolution_is_the_dense_layer_on_unfolded_inputs(p, padding, options):
    dtype = soundness.dtypes()[0]
    with rule_cases.dtype_of_new_layers(dtype):
        conv = LInfDistanceConv2D(2, (2, 3), padding=padding, p=p, use_bias=True, **options)
        model = keras.Sequential([keras.Input((3, 5, 2)), conv])
    rule_cases.randomise(model, 3)
    x, region = inputs_of(model, 0), tfcert.LpBall(0.3)
    found = tfcert.bound(model, x, region, "ibp")
    kernel, bias = np.asarray(conv.kernel), np.asarray(conv.bias)
    for channel in range(2):
        group = channel // (2 // conv.groups)
        own = kernel[..., channel]
        with rule_cases.dtype_of_new_layers(dtype):
            entry = keras.Input((3, 5, 2))
            patches = _unfolded(entry, conv, group, own.shape[-1])
            outputs = []
            for patch in patches:
                dense = LInfDistance(1, p=p)
                outputs.append(dense(patch) + bias[channel])
                dense.kernel.assign(own.reshape(-1, 1))
            unfolded = keras.Model(entry, layers.Concatenate()(outputs))
        expected = tfcert.bound(unfolded, x, region, "ibp")
        for end, wanted in zip(found, expected, strict=True):
            end = np.asarray(end)[..., channel].reshape(len(x), -1)
            np.testing.assert_allclose(end, wanted, rtol=1e-6, atol=1e-6)


def _unfolded(image, conv, group, channels):
    """The patches that a convolution reads, one flat value each, as slices of a padded image."""
    (rows, columns), (tall, wide) = image.shape[1:3], conv.kernel_size
    steps, dilation = conv.strides, conv.dilation_rate
    extent = [(tall - 1) * dilation[0] + 1, (wide - 1) * dilation[1] + 1]
    counts, before = [], []
    for size, length, step in zip((rows, columns), extent, steps, strict=True):
        same = conv.padding == "same"
        counts.append(-(-size // step) if same else (size - length) // step + 1)
        before.append(max((counts[-1] - 1) * step + length - size, 0) // 2 if same else 0)
    image = ops.pad(image, ((0, 0), *((b, 9) for b in before), (0, 0)))
    image = image[..., group * channels : (group + 1) * channels]
    patches = []
    for i in range(counts[0]):
        for j in range(counts[1]):
            top, left = i * steps[0], j * steps[1]
            cut = image[
                :,
                top : top + extent[0] : dilation[0],
                left : left + extent[1] : dilation[1],
            ]
            patches.append(layers.Flatten()(cut))
    return patches


def test_finite_p_is_not_bounded_by_the_formula_of_the_limit():
    layer = LInfDistance(1, p=2.0)
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.kernel.assign(np.zeros((2, 1)))
    x = np.array([[0.3, 0.4]], "float32")
    for p, low, high in ((2.0, math.hypot(0.2, 0.3), math.hypot(0.4, 0.5)), (math.inf, 0.3, 0.5)):
        set_exponent(model, p)  # The same compiled program.
        lower, upper = tfcert.bound(model, x, tfcert.LpBall(0.1), "ibp")
        assert float(lower[0, 0]) == pytest.approx(low, rel=1e-4)
        assert float(upper[0, 0]) == pytest.approx(high, rel=1e-4)


# What methods do with distances.


def test_nothing_is_swept_where_intervals_are_exact(monkeypatch):
    model = distance_network(4, hybrid=True)
    swept = []

    def refine(evaluation, node, *rest):
        swept.append(node.name)
        return original(evaluation, node, *rest)

    original = bound_method.refine
    monkeypatch.setattr(bound_method, "refine", refine)
    for region in (tfcert.LpBall(0.1), tfcert.LpBall(0.1, norm=2)):
        tfcert.bound(model, inputs_of(model, 4), region, "crown")
    distances = [layer.name for layer in model.layers if isinstance(layer, LInfDistance)]
    assert distances
    readers = {
        node.name
        for node in network_of(model).nodes
        if any(source.name in distances for source in node.inputs)
    }
    # Behind the last distance: one dense layer whose interval is exact, then one that is swept.
    dense = [layer.name for layer in model.layers if isinstance(layer, layers.Dense)]
    assert set(swept) == {dense[1]}
    assert not readers & set(swept)


def test_affine_layers_before_and_between_distances_are_joined():
    """Intervals of an affine chain are exact, also from the intervals of distances on."""
    with rule_cases.dtype_of_new_layers(soundness.dtypes()[0]):
        entry = keras.Input((3,))
        x = layers.Dense(4)(layers.Dense(4)(entry))
        x = layers.Dense(4)(layers.Dense(4)(LInfDistance(4)(x)))
        model = keras.Model(entry, LInfDistance(2)(x))
    rule_cases.randomise(model, 1)
    x, region = inputs_of(model, 2), tfcert.LpBall(0.3)
    reached = soundness.Reached(model, x, region)
    widths = {}
    for method in ("ibp", "crown"):
        lower, upper = bounds = tfcert.bound(model, x, region, method)
        reached.check(bounds)
        widths[method] = np.asarray(upper) - np.asarray(lower)
    assert (widths["crown"] < widths["ibp"]).all()


def test_batch_statistics_are_those_of_a_training_step():
    model = distance_network(8)
    shift = next(layer for layer in model.layers if isinstance(layer, MeanShift))
    shift.moving_mean.assign(100.0 + np.asarray(shift.moving_mean))
    x = inputs_of(model, 8, batch=5)
    bounds = tfcert.bound(model, x, tfcert.LpBall(0.0), "ibp", statistics="batch")
    frozen = [layer for layer in model.layers if isinstance(layer, MeanShift)]
    kept = [np.asarray(layer.moving_mean).copy() for layer in frozen]
    expected = np.asarray(model(x, training=True))
    for layer, mean in zip(frozen, kept, strict=True):
        layer.moving_mean.assign(mean)
    tolerance = 10 * soundness.TOLERANCE[str(x.dtype)]
    np.testing.assert_allclose(bounds.lower, expected, rtol=tolerance, atol=tolerance)
    assert np.abs(expected - np.asarray(model(x))).max() > 1.0


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses tf.GradientTape")
@pytest.mark.parametrize("p", [math.inf, 3.0])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "lipschitz"])
def test_margins_have_the_gradients_of_finite_differences(method, p):
    import tensorflow as tf

    if method == "lipschitz" and p != math.inf:
        pytest.skip("refused at a finite p")
    soundness.needs_float64()
    model = distance_network(21, p, hybrid=method != "lipschitz", dtype="float64")
    x, y, region = inputs_of(model, 21), np.array([0, 2]), tfcert.LpBall(0.05)

    def total():
        return ops.sum(tfcert.bound_margins(model, x, y, region, method))

    rng, variables = np.random.default_rng(0), model.trainable_variables
    directions = [rng.normal(size=v.shape) for v in variables]
    with tf.GradientTape() as tape:
        value = total()
    found = tape.gradient(value, [v.value for v in variables])
    slope = sum(float(np.sum(np.asarray(g) * d)) for g, d in zip(found, directions, strict=True))
    ends = []
    for sign in (1.0, -2.0):
        for variable, direction in zip(variables, directions, strict=True):
            variable.assign(np.asarray(variable) + sign * 1e-6 * direction)
        ends.append(float(total()))
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)
