"""Tests of the planes of products, which alpha-CROWN turns row by row."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import rule_cases, soundness
from tfcert.rules.contraction import Contraction, Equation
from tfcert.rules.interval import Interval
from tfcert.rules.nonlinear import Product
from tfcert.rules.rows import Frame, Rows, SampleTable

RNG = np.random.default_rng(0)
# The primitive, the shapes of both values and of the result, and NumPy's einsum.
CASES = {
    "product": (Product(), (2, 3), (2, 3), (2, 3), "...,...->..."),
    "anchored": (Contraction(Equation("ij", "jk", "ik")), (2, 3), (3, 2), (2, 2), "bij,bjk->bik"),
    "first": (
        Contraction(Equation("ij", "jk", "ik"), anchor=0),
        *((2, 3), (3, 2), (2, 2), "bij,bjk->bik"),
    ),
}


@pytest.fixture(autouse=True)
def _eager():
    with soundness.eagerly():
        yield


def _case(name):
    """A primitive, intervals of two samples, three rows each, and points, half of them corners."""
    primitive, first, second, output, einsum = CASES[name]
    values = []
    for shape in (first, second):
        center, radius = RNG.normal(size=(2, *shape)), RNG.uniform(size=(2, *shape))
        radius[0].flat[0] = 0.0
        share = RNG.uniform(-1.0, 1.0, size=(400, *center.shape))
        share[::2] = np.sign(share[::2])
        values.append((center, radius, center + share * radius))
    coefficients = RNG.normal(size=(2, 3, *output))
    tables = [[SampleTable(ops.convert_to_tensor(part)) for part in v[:2]] for v in values]
    products = np.stack(
        [np.einsum(einsum, x, y) for x, y in zip(values[0][2], values[1][2], strict=True)]
    )
    reached = np.einsum(
        "brn,pbn->pbr", coefficients.reshape(2, 3, -1), products.reshape(400, 2, -1)
    )
    rows = Rows(ops.convert_to_tensor(coefficients))
    return primitive, tables, rows, (first, second, output), values, reached


def _gap(turned, values, reached):
    """How far the products lie above an affine function of both values."""
    parts, constant = turned
    bound = np.asarray(constant)
    for part, (_, _, points) in zip(parts, values, strict=True):
        flat = np.asarray(part.coefficients).reshape(2, 3, -1)
        bound = bound + np.einsum("brn,pbn->pbr", flat, points.reshape(400, 2, -1))
    return reached - bound


@pytest.mark.parametrize("name", CASES)
def test_planes_of_all_numbers_bound_the_products(name):
    primitive, tables, rows, shapes, values, reached = _case(name)
    start = primitive.turn(tables, rows, Frame(), shapes)
    intervals = [Interval.from_center(*(table.tensor for table in pair)) for pair in tables]
    relaxation = [SampleTable(t) for t in primitive.relax(None, "adaptive", *intervals)]
    plain = primitive.backward(None, relaxation, rows, Frame(), shapes)
    same = primitive.turned(start, tables, rows, Frame(), shapes)
    for ours, theirs in zip([*same[0], same[1]], [*plain[0], plain[1]], strict=True):
        ours, theirs = (np.asarray(getattr(t, "coefficients", t)) for t in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    for _ in range(5):
        numbers = [ops.convert_to_tensor(RNG.uniform(-1, 1, size=t.shape)) for t in start]
        turned = primitive.turned(numbers, tables, rows, Frame(), shapes)
        assert _gap(turned, values, reached).min() > -1e-9
    # Beyond [-1, 1] a plane is none.
    wrong = [3.0 * ops.ones_like(number) for number in start]
    assert _gap(primitive.turned(wrong, tables, rows, Frame(), shapes), values, reached).min() < 0


def _model(kind):
    with rule_cases.dtype_of_new_layers("float64"):
        entry = keras.Input((4, 3))
        if kind == "product":
            x = layers.Dense(4)(entry) * layers.Dense(4)(entry)
        elif kind == "attention":
            x = layers.MultiHeadAttention(1, 3)(entry, entry)
        else:
            x = layers.GRU(3)(entry)
        x = layers.Dense(3)(x if kind == "gru" else layers.Flatten()(x))
        return rule_cases.randomise(keras.Model(entry, x), seed=2)


@pytest.mark.slow
def test_planes_of_hidden_neurons_turn_too():
    model, x, region = _model("attention"), RNG.normal(size=(2, 4, 3)), tfcert.LpBall(0.2)
    method = tfcert.methods.AlphaCrown(iterations=3)
    plain = tfcert.bound(model, x, region, method)
    method = tfcert.methods.AlphaCrown(iterations=3, optimize_intermediate=True)
    lower, upper = tfcert.bound(model, x, region, method)
    gained = np.asarray(lower) - np.asarray(plain.lower)
    assert gained.min() >= -1e-9 and gained.max() > 1e-4
    points = np.asarray(region.sample(x, 100, 1, corners=True))
    for i in range(2):
        outputs = np.asarray(model(points[i]))
        assert (np.asarray(lower)[i] - 1e-9 <= outputs).all()
        assert (outputs <= np.asarray(upper)[i] + 1e-9).all()


@pytest.mark.parametrize(
    "kind", ["product", *(pytest.param(k, marks=pytest.mark.slow) for k in ("attention", "gru"))]
)
def test_alpha_crown_turns_the_planes(kind):
    """Tighter than CROWN in a model whose only freedom is that of products; sound in all."""
    model, x, region = _model(kind), RNG.normal(size=(2, 4, 3)), tfcert.LpBall(0.2)
    plain = tfcert.bound(model, x, region, "crown")
    lower, upper = tfcert.bound(model, x, region, tfcert.methods.AlphaCrown(iterations=8))
    gained = np.asarray(lower) - np.asarray(plain.lower)
    assert gained.min() >= -1e-9 and gained.max() > 1e-4
    outputs = np.stack(
        [
            np.asarray(model(points))
            for corners in (False, True)
            for points in np.moveaxis(np.asarray(region.sample(x, 100, 1, corners)), 1, 0)
        ]
    )
    assert (np.asarray(lower) - 1e-9 <= outputs).all()
    assert (outputs <= np.asarray(upper) + 1e-9).all()
