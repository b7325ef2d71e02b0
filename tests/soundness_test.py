"""Properties of bounds on random networks, regions and sizes."""

import dataclasses

import hypothesis as hp
import hypothesis.strategies as hps
import keras
import numpy as np
import pytest

import tfcert
from tests import random_models, soundness
from tfcert import methods

SEEDS = hps.integers(0, 2**31 - 1)
# Powers of ten of the region's size.
SIZES = hps.integers(-3, 3)


def examples(count):
    # A smaller seed is not a simpler network: nothing to gain from shrinking.
    phases = (hp.Phase.explicit, hp.Phase.generate)
    return hp.settings(
        derandomize=True, deadline=None, database=None, max_examples=count, phases=phases
    )


METHODS = {
    "ibp": "ibp",
    "crown-ibp": "crown-ibp",
    "fast-lin": "fast-lin",
    "crown-one": tfcert.methods.Crown(slope="one"),
    "crown": "crown",
    "alpha-crown": tfcert.methods.AlphaCrown(iterations=2),
}


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def draw(seed, size, dtype, **options):
    rng = np.random.default_rng(seed)
    model = random_models.random_model(rng, dtype, **options)
    x = random_models.random_inputs(rng, model)
    return rng, model, x, random_models.random_region(rng, x, 10.0**size)


@pytest.mark.slow
@examples(16)
@hp.given(seed=SEEDS, size=SIZES)
def test_outputs_lie_within_the_bounds_of_every_method(seed, size):
    _, model, x, region = draw(seed, size, soundness.dtypes()[0], classes=None)
    tolerance = soundness.TOLERANCE[str(x.dtype)]
    reached = soundness.Reached(model, x, region, seed=seed)
    bounds = {name: tfcert.bound(model, x, region, method) for name, method in METHODS.items()}
    for name, found in bounds.items():
        reached.check(found, name)
    # What is tighter by construction.
    for loose, tight in (("ibp", "crown-ibp"), ("ibp", "crown"), ("crown", "alpha-crown")):
        soundness.check_contains(bounds[loose], bounds[tight], f"{tight} in {loose}", tolerance)


@pytest.mark.slow
@examples(8)
@hp.given(seed=SEEDS, size=hps.integers(-2, 1))
def test_margins_and_other_linear_functions_of_the_outputs(seed, size):
    rng, model, x, region = draw(seed, size, soundness.dtypes()[0])
    reached = soundness.Reached(model, x, region, seed=seed)
    y = rng.integers(0, 3, size=len(x))
    rows = np.eye(3)[y][:, None] - np.eye(3)[None]
    specification = rng.normal(size=(len(x), 2, 3))
    for name in ("ibp", "crown-ibp", "crown"):
        method = METHODS[name]
        margins = tfcert.bound_margins(model, x, y, region, method)
        reached.check_margins(margins, rows, name)
        lower = tfcert.bound_margins(model, x, None, region, method, specification=specification)
        reached.check_margins(lower, specification, name)
        # Folding the difference is not looser than the difference of bounds of the same kind: an
        # interval of one score and a sweep of the other may beat both kinds of folded bounds.
        if name != "ibp":
            method = dataclasses.replace(methods.get(method), intersect=False)
            margins = tfcert.bound_margins(model, x, y, region, method)
        low, high = (soundness.flat(t)[0] for t in tfcert.bound(model, x, region, method))
        apart = np.where(rows.any(-1), low[np.arange(len(x)), y][:, None] - high, 0.0)
        slack = soundness.TOLERANCE[str(x.dtype)] * soundness.magnitude(low, high)
        assert (soundness.flat(margins)[0] >= apart - slack).all(), name


@examples(8)
@hp.given(seed=SEEDS, size=hps.integers(-2, 1))
def test_float32(seed, size):
    _, model, x, region = draw(seed, size, "float32")
    reached = soundness.Reached(model, x, region, seed=seed)
    for name in ("ibp", "crown", "alpha-crown"):
        bounds = tfcert.bound(model, x, region, METHODS[name])
        assert str(soundness.flat(bounds.lower)[0].dtype) == "float32"
        reached.check(bounds, name)


@examples(20)
@hp.given(seed=SEEDS, size=hps.integers(-2, 2), share=hps.floats(0.0, 0.99))
def test_a_larger_region_has_wider_interval_bounds(seed, size, share):
    _, model, x, region = draw(seed, size, soundness.dtypes()[0])
    smaller = region.scaled(share)
    outer, inner = (tfcert.bound(model, x, r, "ibp") for r in (region, smaller))
    soundness.check_contains(outer, inner, "smaller region", soundness.TOLERANCE[str(x.dtype)])


@pytest.mark.slow
@examples(8)
@hp.given(seed=SEEDS)
def test_a_region_of_size_0_gives_the_outputs(seed):
    _, model, x, _ = draw(seed, 0, soundness.dtypes()[0], classes=None)
    for name in ("ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown"):
        soundness.check_point(model, x, METHODS[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [None, [1], [2], [1, 2]])
def test_slopes_of_places_in_windowed_sweeps(shared):
    """Rows that see a window of a map have the trained slopes of the places that they see."""
    rng = np.random.default_rng(0)

    def bounded(shape, head, method):
        model = keras.Sequential(
            [
                keras.Input(shape),
                keras.layers.Conv2D(2, 3, padding="same"),
                keras.layers.PReLU(shared_axes=shared),
                keras.layers.Conv2D(2, 3, padding="same"),
                *head,
            ]
        )
        for weight in model.weights:
            weight.assign(0.5 * rng.normal(size=weight.shape))
        x = rng.normal(size=(2, *shape)).astype("float32")
        region = tfcert.LpBall(0.5)
        found = tfcert.bound(model, x, region, method)
        soundness.Reached(model, x, region, seed=0).check(found, "alpha-crown")
        soundness.check_contains(
            tfcert.bound(model, x, region, "crown"), found, "crown", soundness.TOLERANCE["float32"]
        )

    # More outputs than are swept whole; and sweeps of single hidden neurons.
    bounded((3, 60, 1), [], methods.AlphaCrown(iterations=3))
    head = [keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(3)]
    bounded((3, 9, 1), head, methods.AlphaCrown(iterations=3, optimize_intermediate=True))
