"""Noise: its radius against the worst classifier there is, and its distribution as drawn."""

import doctest
import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from tfcert import backend
from tfcert.smoothing import drawing, noise

FAMILIES = {
    "gaussian": (noise.Gaussian(0.7), lambda z: stats.norm.pdf(z, scale=0.7)),
    "laplace": (noise.Laplace(0.4), lambda z: stats.laplace.pdf(z, scale=0.4)),
    "uniform": (noise.Uniform(0.6), lambda z: stats.uniform.pdf(z, -0.6, 1.2)),
}
CDFS = {
    "gaussian": stats.norm(scale=0.7).cdf,
    "laplace": stats.laplace(scale=0.4).cdf,
    "uniform": stats.uniform(-0.6, 1.2).cdf,
}
tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow Probability needs TensorFlow"
)


def grid(density, shift, cells):
    """Probabilities of a grid's cells under the noise, and under the noise around a shift."""
    end = 12.0 if density(5.0) > 0 else 0.6 + np.abs(shift).max()
    edges = np.linspace(-end, end, cells + 1)
    centers, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]

    def product(move):
        masses = [density(centers - m) * width for m in move]
        joint = masses[0]
        for mass in masses[1:]:
            joint = np.multiply.outer(joint, mass)
        return joint.ravel() / joint.sum()

    return product(np.zeros_like(shift)), product(shift)


def worst_probability(density, shift, p, cells):
    """The least probability around a shift of a class that has probability p around 0.

    By Neyman and Pearson's lemma the worst class consists of the points that the shift makes least
    likely, relative to what they were, until they add up to p.
    """
    here, there = grid(density, np.asarray(shift, "float64"), cells)
    some = here > 0
    here, there = here[some], there[some]
    order = np.argsort(there / here)
    sums = np.concatenate([[0.0], np.cumsum(here[order])])
    return np.interp(p, sums, np.concatenate([[0.0], np.cumsum(there[order])]))


@pytest.mark.parametrize("p", [0.55, 0.8, 0.99])
@pytest.mark.parametrize("family", FAMILIES)
def test_radius_is_the_largest_that_holds(family, p):
    kind, density = FAMILIES[family]
    radius = float(kind.radius(p))
    assert worst_probability(density, [0.995 * radius], p, 40_001) > 0.5
    assert worst_probability(density, [1.005 * radius], p, 40_001) < 0.5


@pytest.mark.parametrize("p", [0.6, 0.9])
@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_radius_holds_in_the_plane(family, angle, p):
    kind, density = FAMILIES[family]
    direction = np.array([math.cos(angle), math.sin(angle)])
    shift = 0.98 * kind.radius(p) * direction / np.linalg.norm(direction, kind.norm)
    assert worst_probability(density, shift, p, 801) > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_radius_is_zero_up_to_a_half_and_rises(family):
    kind, _ = FAMILIES[family]
    p = np.linspace(0.0, 1.0, 1001)
    with np.errstate(divide="raise"):
        radius = kind.radius(p[:-1])
    assert radius.dtype == np.float64 and radius.shape == (1000,)
    assert (radius[p[:-1] <= 0.5] == 0).all()
    assert (np.diff(radius[500:]) > 0).all()
    assert kind.radius(1.0) == (2 * 0.6 * 0.5 if family == "uniform" else math.inf)


def test_laplace_radius_is_no_smaller_than_by_differential_privacy():
    p = np.linspace(0.501, 0.999, 100)
    assert (noise.Laplace(0.4).radius(p) >= 0.2 * np.log(p / (1 - p))).all()


# What is drawn.


def drawn(kind, keys, shape):
    keys = backend.noise_keys(np.asarray(keys, "uint32"))
    return np.asarray(ops.convert_to_numpy(drawing.draw(kind, keys, shape, "float32")))


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_follow_the_distribution(family):
    kind, _ = FAMILIES[family]
    values = drawn(kind, [[1, 2], [3, 4]], (100, 300))
    assert values.shape == (2, 100, 300) and np.isfinite(values).all()
    assert stats.kstest(values.ravel(), CDFS[family]).pvalue > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_are_independent(family):
    kind, _ = FAMILIES[family]
    values = drawn(kind, [[1, 2], [1, 3], [2, 2]], (20_000, 2)).astype("float64")
    columns = np.concatenate(list(values), axis=1).T  # Coordinates and keys.
    off = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(off).max() < 5 / math.sqrt(20_000)
    scale = np.corrcoef(np.abs(columns)) - np.eye(len(columns))
    assert np.abs(scale).max() < 5 / math.sqrt(20_000)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_key_decides_its_block_alone(family):
    kind, _ = FAMILIES[family]
    alone = drawn(kind, [[7, 8]], (100, 3))[0]
    among = drawn(kind, [[1, 1], [7, 8], [2**32 - 1, 5]], (100, 3))
    np.testing.assert_array_equal(alone, among[1])
    for first, second in itertools.combinations(among, 2):
        assert not np.array_equal(first, second)


# What is accepted.


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, True, "1", None])
def test_refuses_scales(scale):
    for family in (noise.Gaussian, noise.Laplace, noise.Uniform):
        with pytest.raises(ValueError, match="`scale` of .* must be a positive finite number"):
            family(scale)


@pytest.mark.parametrize("sigma", [0.0, -0.25, math.nan, math.inf, "0.25"])
def test_refuses_sigma(sigma):
    with pytest.raises(ValueError, match="`sigma` must be a positive finite number"):
        noise.resolve(sigma, None)


def test_wants_one_of_sigma_and_noise():
    for sigma, kind in ((None, None), (0.25, noise.Gaussian(0.25))):
        with pytest.raises(ValueError, match="Exactly one of `sigma`"):
            noise.resolve(sigma, kind)
    assert noise.resolve(0.25, None) == noise.Gaussian(0.25)
    assert noise.resolve(None, noise.Laplace(0.25)) == noise.Laplace(0.25)


def test_refuses_probabilities():
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="`p_lower` must lie in"):
            noise.Gaussian(1.0).radius(p)


def test_refuses_other_objects():
    class Wider(noise.Gaussian):
        pass

    for kind in (Wider(0.25), 0.25, "gaussian"):
        with pytest.raises(NotImplementedError, match="What fits: tfp.distributions.Normal"):
            noise.resolve(None, kind)


@tensorflow_only
def test_accepts_distributions_of_tensorflow_probability():
    from tensorflow_probability import distributions as tfd

    assert noise.resolve(None, tfd.Normal(0.0, 0.25)) == noise.Gaussian(0.25)
    assert noise.resolve(None, tfd.Laplace(0.0, 0.5)) == noise.Laplace(0.5)
    assert noise.resolve(None, tfd.Uniform(-0.5, 0.5)) == noise.Uniform(0.5)


@tensorflow_only
def test_refuses_distributions_without_a_radius():
    from tensorflow_probability import distributions as tfd

    class Shifted(tfd.Normal):
        pass

    for other in (
        Shifted(0.0, 1.0),
        tfd.StudentT(3.0, 0.0, 1.0),
        tfd.MultivariateNormalDiag([0.0, 0.0], [1.0, 1.0]),
        tfd.Independent(tfd.Normal([0.0], [1.0]), 1),
    ):
        with pytest.raises(NotImplementedError, match="no radius here.* What fits"):
            noise.resolve(None, other)
    with pytest.raises(NotImplementedError, match=r"one coordinate.* scale of shape \(2,\)"):
        noise.resolve(None, tfd.Normal(0.0, [1.0, 2.0]))
    for moved in (tfd.Normal(0.1, 1.0), tfd.Laplace(-1.0, 1.0), tfd.Uniform(0.0, 1.0)):
        with pytest.raises(ValueError, match="location zero"):
            noise.resolve(None, moved)
    with pytest.raises(ValueError, match="positive finite"):
        noise.resolve(None, tfd.Normal(0.0, -1.0))


def test_examples_run():
    result = doctest.testmod(noise)
    assert result.attempted and not result.failed
