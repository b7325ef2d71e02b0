"""Layers of distances: values and gradients against NumPy in float64, and Keras's rules."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from tests import distance_support
from tfcert import backend
from tfcert.layers import (
    IdentityNormal,
    LInfDistance,
    LInfDistanceConv2D,
    MeanShift,
    distance_layers,
    point_kernels,
    set_exponent,
)

EXPONENTS = (1.0, 2.0, 3.7, 8.0, 20.2, 100.0, 531.3, 1000.0, math.inf)
SHAPES = ((5, 37, 11), (16, 32, 16), (1, 1, 3))


# The relative error of a power, which is that of a distance at p = 1 and smaller above.
POWER = 5e-6


@pytest.fixture
def _short_turns():
    """For tests of layers: the kernels have tests of their own."""
    with distance_support.short_turns():
        yield


def random_case(batch, inputs, units, seed=0):
    random = np.random.default_rng(seed)
    shapes = (batch, inputs), (inputs, units), (batch, units)
    return [random.normal(size=shape).astype("float32") for shape in shapes]


def expected_values(x, w, p):
    sizes = np.abs(x.astype("float64")[:, :, None] - w.astype("float64")[None])
    largest = sizes.max(axis=1)
    if p == math.inf:
        return largest
    return largest * np.sum((sizes / largest[:, None]) ** p, axis=1) ** (1.0 / p)


def expected_gradients(x, w, g, p):
    """Of ``sum(g * distances)``."""
    x, w, g = (array.astype("float64") for array in (x, w, g))
    differences = x[:, :, None] - w[None]
    if p == math.inf:
        first = np.abs(differences).argmax(axis=1)[:, None]
        terms = np.zeros_like(differences)
        np.put_along_axis(terms, first, np.sign(np.take_along_axis(differences, first, 1)), 1)
    else:
        norm = expected_values(x, w, p)[:, None]
        terms = np.sign(differences) * (np.abs(differences) / norm) ** (p - 1.0)
    terms = terms * g[:, None]
    return terms.sum(axis=2), -terms.sum(axis=0)


def gradients(x, w, g, p):
    found = backend.vector_jacobian(
        lambda x, w: point_kernels.distances(x, w, p), [ops.convert_to_tensor(v) for v in (x, w)], g
    )
    return [ops.convert_to_numpy(v) for v in found]


def close(found, expected, tolerance):
    scale = max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize(
    "shape", [SHAPES[0], pytest.param(SHAPES[1], marks=pytest.mark.slow), SHAPES[2]]
)
def test_values_and_gradients(shape, p):
    x, w, g = random_case(*shape)
    close(ops.convert_to_numpy(point_kernels.distances(x, w, p)), expected_values(x, w, p), POWER)
    # A power's relative error is that of its base times p.
    tolerance = 1e-6 if p == math.inf else 1e-5 + 1e-6 * p
    for found, expected in zip(gradients(x, w, g, p), expected_gradients(x, w, g, p), strict=True):
        close(found, expected, tolerance)


@pytest.mark.parametrize("p", EXPONENTS)
def test_safe_at_zeros_ties_and_any_scale(p):
    w = np.array([[0.0, 1.0, -3.0], [0.0, 1.0, 3.0], [0.0, 1.0, -3.0]], "float32")
    for scale in (1.0, 1e-12, 1e12):
        x = np.array([[0, 0, 0], [1, 1, 1], [-3, 3, -3], [0.5, -0.5, 0.5]], "float32")
        found = ops.convert_to_numpy(point_kernels.distances(scale * x, scale * w, p))
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = np.nan_to_num(expected_values(scale * x, scale * w, p))
        close(found, expected, 1e-5)
        for found in gradients(scale * x, scale * w, np.ones((4, 3), "float32"), p):
            assert np.isfinite(found).all()
            assert np.abs(found).max() <= 4.0 + 1e-5
    # At x = w nothing pulls; at a tie the gradient is a convex combination.
    one = np.ones((1, 3), "float32")
    assert not np.any(gradients(one, one.T, np.ones((1, 1), "float32"), p)[0])
    tie = gradients(np.zeros((1, 3), "float32"), one.T, np.ones((1, 1), "float32"), p)[0]
    assert (tie <= 0).all()
    q = 1.0 if p == math.inf else p / (p - 1.0) if p > 1 else math.inf
    assert np.linalg.norm(tie[0], ord=q) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX traces every shape")
def test_other_shapes_are_not_traced_again():
    def traces():
        return point_kernels._forward.experimental_get_tracing_count()

    with distance_support.short_turns():
        for shape in ((2, 3, 4), (3, 4, 5)):  # The first, and one that makes all sizes variable.
            point_kernels.distances(*random_case(*shape)[:2], 9.0)
        before = traces()
        for shape in ((4, 5, 6), (5, 17, 2), (1, 33, 3)):
            x, w, _ = random_case(*shape)
            close(
                ops.convert_to_numpy(point_kernels.distances(x, w, 9.0)),
                expected_values(x, w, 9.0),
                POWER,
            )
        assert traces() == before > 0


def test_layer_computes_distances_plus_bias():
    layer = LInfDistance(4, use_bias=True, bias_initializer="ones")
    x = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    found = ops.convert_to_numpy(layer(x))
    assert tuple(layer.kernel.shape) == (5, 4)
    close(found, 1.0 + expected_values(x, ops.convert_to_numpy(layer.kernel), math.inf), 1e-6)
    layer.p.assign(9.5)
    found = ops.convert_to_numpy(layer(x))
    close(found, 1.0 + expected_values(x, ops.convert_to_numpy(layer.kernel), 9.5), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "same"},
        {"strides": 2, "padding": "same"},
        {"strides": (1, 3), "dilation_rate": 1},
        {"dilation_rate": 2, "padding": "same"},
        {"groups": 2, "strides": 2},
    ],
)
@pytest.mark.usefixtures("_short_turns")
def test_convolution_takes_the_patches_of_keras(options):
    """One unit at a time, distances from 0 at p = 1 are sums of absolute values: a convolution."""
    layer = LInfDistanceConv2D(4, (3, 2), p=1.0, kernel_initializer="zeros", **options)
    plain = keras.layers.Conv2D(4, (3, 2), kernel_initializer="ones", use_bias=False, **options)
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 4)).astype("float32")
    found, expected = layer(x), plain(np.abs(x))
    assert tuple(found.shape) == tuple(expected.shape) == layer.compute_output_shape(x.shape)
    close(ops.convert_to_numpy(found), ops.convert_to_numpy(expected), POWER)
    assert tuple(layer.kernel.shape) == tuple(plain.kernel.shape)


def test_float64_and_half_precision():
    x, w, g = (array.astype("float64") for array in random_case(4, 9, 5))
    for p in (7.25, 1000.0, math.inf):
        found = point_kernels.distances(x, w, p)
        if keras.backend.standardize_dtype(found.dtype) == "float64":  # JAX has it on request.
            close(ops.convert_to_numpy(found), expected_values(x, w, p), 1e-12)
    half = point_kernels.distances(ops.cast(x, "bfloat16"), ops.cast(w, "bfloat16"), 1000.0)
    assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"
    rounded = [ops.convert_to_numpy(ops.cast(ops.cast(v, "bfloat16"), "float32")) for v in (x, w)]
    found = ops.convert_to_numpy(ops.cast(half, "float32"))
    close(found, expected_values(*rounded, 1000.0), 2.0**-7)


def test_nan_is_not_hidden():
    x = np.array([[math.nan, 0.0], [0.0, 1.0]], "float32")
    w = np.ones((2, 3), "float32")
    for p in (8.0, math.inf):
        found = ops.convert_to_numpy(point_kernels.distances(x, w, p))
        assert np.isnan(found[0]).all() and np.isfinite(found[1]).all()


@pytest.mark.slow
@pytest.mark.usefixtures("_short_turns")
def test_finite_differences_of_the_layer():
    """Of the layer's own values, which are exact to float32: large steps, smooth p."""
    layer = LInfDistance(3, p=4.0)
    x = np.random.default_rng(3).normal(size=(1, 6)).astype("float32")
    layer(x)
    gradient = backend.vector_jacobian(
        layer, [ops.convert_to_tensor(x)], np.ones((1, 3), "float32")
    )
    step = 1e-2
    for i in range(6):
        moved = np.zeros_like(x)
        moved[0, i] = step
        ends = [ops.convert_to_numpy(layer(x + sign * moved)).sum() for sign in (1.0, -1.0)]
        slope = (ends[0] - ends[1]) / (2.0 * step)
        assert ops.convert_to_numpy(gradient[0])[0, i] == pytest.approx(slope, abs=2e-3)


def test_moves_of_p_need_no_new_program():
    layer = LInfDistance(3)
    x = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    layer(x)
    traces = []
    original = point_kernels._norm

    def counted(*arguments):
        traces.append(1)
        return original(*arguments)

    point_kernels._norm = counted
    try:
        for p in (2.0, 77.7, math.inf, 1000.0):
            layer.p.assign(p)
            expected = expected_values(x, ops.convert_to_numpy(layer.kernel), p)
            close(ops.convert_to_numpy(layer(x)), expected, 1e-6)
    finally:
        point_kernels._norm = original
    assert not traces, "the kernel was traced again"


@pytest.mark.slow
@pytest.mark.parametrize("p", [9.0, math.inf])
def test_the_tensor_of_differences_is_never_made(p):
    """All differences would take 2 GB; the kernels take a few megabytes."""
    x, w, g = random_case(512, 2048, 512)
    small = [array[:32, :32] for array in (x, w, g)]
    gradients(*small, p)  # The compiler's memory comes first.
    before = peak_megabytes()
    for_x, for_w = gradients(x, w, g, p)
    assert for_x.shape == x.shape and for_w.shape == w.shape
    assert peak_megabytes() - before < 600


def peak_megabytes():
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_mean_shift():
    layer = MeanShift(momentum=0.5)
    x = np.random.default_rng(0).normal(size=(8, 3, 2, 5)).astype("float32")
    mean = x.mean(axis=(0, 1, 2))
    close(ops.convert_to_numpy(layer(x, training=True)), x - mean, 1e-5)
    close(ops.convert_to_numpy(layer.moving_mean), 0.5 * mean, 1e-5)
    layer(x, training=True)
    close(ops.convert_to_numpy(layer.moving_mean), 0.75 * mean, 1e-5)
    close(ops.convert_to_numpy(layer(x)), x - 0.75 * mean, 1e-5)
    # Gradients flow through the mean: what all samples share has none.
    upstream = np.ones_like(x)
    (gradient,) = backend.vector_jacobian(
        lambda t: layer(t, training=True), [ops.convert_to_tensor(x)], upstream
    )
    assert np.abs(ops.convert_to_numpy(gradient)).max() < 1e-5


@pytest.mark.usefixtures("_short_turns")
@pytest.mark.parametrize("p", [6.5, math.inf])
def test_models_of_distances_are_saved(tmp_path, p):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            LInfDistanceConv2D(4, 3, strides=2, padding="same", groups=2, use_bias=True),
            MeanShift(),
            keras.layers.Flatten(),
            LInfDistance(5, use_bias=True),
        ]
    )
    set_exponent(model, p)
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(x)), np.asarray(model(x)))
    assert [float(layer.p) for layer in distance_layers(again)] == [p, p]


def test_identity_initialisation_passes_inputs_on():
    weights = ops.convert_to_numpy(IdentityNormal(seed=1)((3, 7)))
    for unit in range(7):
        assert weights[unit % 3, unit] == -10.0
    assert (np.sort(weights.ravel())[7:] > -6.0).all()
    assert (ops.convert_to_numpy(IdentityNormal(seed=1)((9, 7))) > -6.0).all()
    layer = LInfDistance(3, kernel_initializer=IdentityNormal(seed=1))
    x = np.random.default_rng(0).uniform(-1, 1, size=(4, 3)).astype("float32")
    close(ops.convert_to_numpy(layer(x)), x + 10.0, 1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LInfDistance(0), "`units` must be a positive integer. Received: units=0"),
        (lambda: LInfDistance(2.5), "`units` must be a positive integer"),
        (lambda: LInfDistance(3, p=0.5), r"`p` must lie in \[1, 1000\] or be inf. Received: p=0.5"),
        (lambda: LInfDistance(3, p=2000.0), "`p` must lie in"),
        (lambda: LInfDistance(3, p=math.nan), "`p` must lie in"),
        (lambda: LInfDistance(3).build((None, 4, 4, 1)), "Put keras.layers.Flatten"),
        (lambda: LInfDistance(3).build((None, None)), "known size"),
        (lambda: LInfDistanceConv2D(3, (1, 2, 3)), "`kernel_size` must be a positive integer or a"),
        (lambda: LInfDistanceConv2D(3, 3, strides=0), "`strides` must be a positive integer"),
        (lambda: LInfDistanceConv2D(3, 3, padding="full"), "`padding` must be"),
        (lambda: LInfDistanceConv2D(3, 3, groups=2), "`filters` must be a multiple of `groups`"),
        (lambda: LInfDistanceConv2D(2, 3, groups=2).build((None, 5, 5, 3)), "multiple of `groups`"),
        (lambda: LInfDistanceConv2D(2, 9).build((None, 5, 5, 3)), "larger than the image"),
        (lambda: LInfDistanceConv2D(2, 3).build((None, 5)), "batch, height, width, channels"),
        (lambda: MeanShift(momentum=1.0), r"`momentum` must lie in \[0, 1\)"),
        (lambda: MeanShift().build((None, None)), "known last size"),
        (lambda: set_exponent(keras.Sequential(), 0.0), "`p` must lie in"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
