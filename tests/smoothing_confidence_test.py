"""Confidence bounds: scipy's numbers, and coverage by simulation, also with early stopping."""

import doctest

import numpy as np
import pytest
from scipy import stats

from tfcert.smoothing import confidence, noise, sequential

RUNS = 100_000
# A test of coverage fails by chance with this probability (for a fixed seed: never or always).
CHANCE = 1e-3


def counts_of(n):
    """Both ends and the middle."""
    ends = np.arange(min(n, 40) + 1)
    return np.unique(np.concatenate([ends, n - ends, np.linspace(0, n, 60).astype(int)]))


def exceeds(failures, alpha):
    """Whether more of the runs failed than a failure rate of alpha explains."""
    return stats.binomtest(int(failures), RUNS, alpha, alternative="greater").pvalue < CHANCE


@pytest.mark.parametrize("alpha", [1e-9, 1e-4, 0.001, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 2, 10, 100, 1000, 10_000, 100_000, 1_000_000])
def test_equals_scipy(n, alpha):
    k = counts_of(n)
    with np.errstate(all="ignore"):
        lower = np.where(k > 0, stats.beta.ppf(alpha, k, n - k + 1), 0.0)
        upper = np.where(k < n, stats.beta.ppf(1 - alpha, k + 1, n - k), 1.0)
    np.testing.assert_allclose(confidence.lower_bound(k, n, alpha), lower, rtol=0, atol=1e-11)
    # scipy rounds 1 - alpha.
    np.testing.assert_allclose(confidence.upper_bound(k, n, alpha), upper, rtol=0, atol=1e-9)


def test_ends_are_exact():
    assert confidence.lower_bound(0, 100, 0.001) == 0.0
    assert confidence.upper_bound(100, 100, 0.001) == 1.0
    for n in (1, 100, 100_000):
        exact = 0.001 ** (1 / n)
        assert confidence.lower_bound(n, n, 0.001) == pytest.approx(exact, rel=1e-15)


def test_keeps_shapes():
    assert confidence.lower_bound(3, 10, 0.1).shape == ()
    assert confidence.lower_bound([[3, 3], [0, 10]], 10, 0.1).shape == (2, 2)
    assert confidence.lower_bound(np.zeros(0, int), 10, 0.1).shape == (0,)


def test_rises_with_votes_and_alpha():
    bounds = confidence.lower_bound(np.arange(1001), 1000, 0.01)
    assert (np.diff(bounds) > 0).all()
    assert (bounds <= confidence.lower_bound(np.arange(1001), 1000, 0.02)).all()


@pytest.mark.parametrize("pair", [(0, 0), (5, 5), (10, 0), (0, 10), (600, 400), (51_000, 49_000)])
def test_two_sided_test_equals_scipy(pair):
    wanted = stats.binomtest(pair[0], sum(pair)).pvalue if sum(pair) else 1.0
    assert confidence.two_sided_test(*pair) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize(("n", "p"), [(100, 0.5), (1000, 0.7), (1000, 0.995), (100_000, 0.999)])
def test_covers_in_simulation(n, p, alpha):
    votes = np.random.default_rng(0).binomial(n, p, RUNS)
    failures = (confidence.lower_bound(votes, n, alpha) > p).sum()
    assert not exceeds(failures, alpha)
    # Exact up to the steps of a count: a bound that wastes alpha is a mistake too.
    if n * (1 - p) > 50:
        assert failures > 0.6 * alpha * RUNS


# Several looks at the same samples.

ADAPTIVE = sequential.Adaptive(precision=0.2, first=100, growth=1.4)


def simulate(p, n, alpha, rule, stops=True, plan=None):
    """Lower bounds and samples of many runs."""
    rng, radius = np.random.default_rng(1), noise.Gaussian(0.5).radius
    return sequential.estimate(
        lambda active, start, stop: rng.binomial(stop - start, p, len(active)),
        RUNS,
        plan or rule.plan(n, alpha, block=100, radius=radius),
        rule if stops else None,
        radius,
    )


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("p", [0.501, 0.52, 0.8, 0.99])
def test_covers_with_early_stopping(p, alpha):
    lower, samples = simulate(p, 4000, alpha, ADAPTIVE)
    assert not exceeds((lower > p).sum(), alpha)
    assert samples.min() < 4000 and len(np.unique(samples)) > 1


@pytest.mark.parametrize("p", [0.501, 0.8, 0.99])
def test_covers_at_the_best_of_all_looks(p):
    """Whoever stops when the bound is highest, the worst rule there is, is covered too."""
    alpha = 0.05
    lower, samples = simulate(p, 4000, alpha, ADAPTIVE, stops=False)
    failures = (lower > p).sum()
    assert not exceeds(failures, alpha)
    assert failures > 0.1 * alpha * RUNS
    assert (samples == 4000).all()


@pytest.mark.parametrize("p", [0.7, 0.95, 0.999])
def test_stopping_loses_no_more_than_the_precision(p):
    n, alpha, radius = 20_000, 0.001, noise.Gaussian(0.5).radius
    rule = sequential.Adaptive(precision=0.1)
    early, samples = simulate(p, n, alpha, rule)
    fixed, _ = simulate(p, n, alpha, rule, False, sequential.single_look(n, alpha))
    # Two independent runs: compared with what a fixed number of samples gives at the median.
    enough = radius(early) >= 0.9 * np.median(radius(fixed))
    assert enough.mean() > 0.9
    assert radius(early).mean() > 0.9 * radius(fixed).mean()
    assert samples.mean() < 0.6 * n


def test_stops_early_where_it_will_abstain():
    lower, samples = simulate(0.4, 100_000, 0.001, sequential.Adaptive())
    assert (lower < 0.5).all()
    assert samples.mean() < 1000


@pytest.mark.parametrize("distribution", [noise.Gaussian(1.0), noise.Laplace(0.5)])
@pytest.mark.parametrize(("precision", "n"), [(0.05, 5000), (0.1, 100_000), (0.4, 300_000)])
def test_a_look_is_where_an_input_can_stop_whose_votes_agree(distribution, precision, n):
    rule, radius = sequential.Adaptive(precision), distribution.radius
    plan = rule.plan(n, 0.001, 100, radius)

    def all_votes(active, start, stop):
        return np.full(len(active), stop - start)

    (lower,), (drawn,) = sequential.estimate(all_votes, 1, plan, rule, radius)
    level = plan.alphas[plan.looks.index(drawn)]
    assert level == max(plan.alphas) and level >= 0.69 * 0.001
    enough = (1 - precision) * radius(0.001 ** (1 / n))
    assert radius(lower) >= enough > radius(level ** (1 / (drawn - 100)))
    wanted = rule.enough(np.array([drawn]), drawn, plan, radius)  # Of the fixed procedure's radius.
    np.testing.assert_allclose(wanted, enough, rtol=1e-9)


@pytest.mark.parametrize(("precision", "samples"), [(0.05, 49_500), (0.1, 24_100), (0.15, 12_200)])
def test_samples_where_all_votes_agree(precision, samples):
    """What docs/smoothing.md and docs/benchmarks.md say of the easiest inputs."""
    plan = sequential.Adaptive(precision).plan(100_000, 0.001, 100, noise.Gaussian(1.0).radius)
    assert plan.looks[plan.alphas.index(max(plan.alphas))] == samples


@pytest.mark.parametrize("precision", [0.001, 0.05, 0.9])
@pytest.mark.parametrize("n", [1, 100, 550, 1000, 99_999, 100_000])
def test_plan_spends_alpha(n, precision):
    radius = noise.Gaussian(1.0).radius
    for growth in (1.05, 1.5, 1e6):
        rule = sequential.Adaptive(precision, growth=growth)
        looks, alphas = rule.plan(n, 0.001, 100, radius)
        assert len(looks) == len(alphas) and min(alphas) > 0
        assert sum(alphas) == pytest.approx(0.001, rel=1e-12)
        assert looks[-1] == n and list(looks) == sorted(set(looks))
        assert all(look % 100 == 0 and look >= 500 for look in looks[:-1])
    dense = np.array(sequential.Adaptive(precision).plan(n, 0.001, 100, radius).looks)
    if n >= 99_999:  # No gap is wider than the growth, roundings to blocks, and the last tenth.
        assert dense[0] <= 800 and (dense[1:-1] <= 1.5 * dense[:-2] + 250).all()
        assert dense[-1] <= 1.5 / 0.9 * dense[-2] + 250


# Errors.


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, np.nan, "0.1", None])
def test_refuses_alpha(alpha):
    with pytest.raises(ValueError, match=r"`alpha` must lie strictly between 0 and 1. Received"):
        confidence.lower_bound(1, 10, alpha)


@pytest.mark.parametrize(("k", "n", "text"), [(11, 10, "lie in"), (-1, 10, "lie in")])
def test_refuses_counts(k, n, text):
    with pytest.raises(ValueError, match=text):
        confidence.lower_bound(k, n, 0.1)


def test_refuses_what_is_no_count():
    with pytest.raises(ValueError, match="must be integers"):
        confidence.lower_bound(0.5, 10, 0.1)
    with pytest.raises(ValueError, match="positive integer"):
        confidence.lower_bound(0, 0, 0.1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"precision": 0.0}, "precision"),
        ({"precision": "a"}, "precision"),
        ({"first": 0}, "first"),
        ({"first": float("nan")}, "first"),
        ({"growth": 1.0}, "growth"),
        ({"growth": None}, "growth"),
    ],
)
def test_refuses_settings_of_adaptive(arguments, text):
    with pytest.raises(ValueError, match=f"`{text}` must"):
        sequential.Adaptive(**arguments)


@pytest.mark.parametrize("module", [confidence, sequential])
def test_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
