"""Replays an attack on the rounding of certificates: ordinary ones fall, float-safe ones hold.

The search goes where a certificate only just holds: the largest eps that a method verifies. There
the worst point of the region lies at most a rounding error inside of the right class, and the
network is executed in float32 in as many ways as there are: eagerly, compiled, by XLA, in batches
of several sizes, and with sums taken in many orders (tests/executions.py).

Reference for the idea: Jia and Rinard, 2020, https://arxiv.org/abs/2003.03021.
"""

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import certification_support as support
from tests import executions
from tests.support import slow_except
from tfcert import backend, methods
from tfcert.attacks.exact import in_float64
from tfcert.certification import UnsoundCertificateError
from tfcert.certification.subject import margins_of

if keras.backend.backend() != "tensorflow":
    pytest.skip("executions by TensorFlow and XLA", allow_module_level=True)

_INPUTS, _COUNT = 24, 12


def network(seed, hidden=True):
    """Scores (z, 0) that are linear over the region: bounds and attacks are exact but for rounding.

    The ReLUs lie far inside of their linear parts, with large values that cancel in the end: the
    stage for rounding. IBP is exact only without hidden neurons.
    """
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (_COUNT, _INPUTS)).astype("float32")
    if not hidden:
        layer = keras.layers.Dense(2)
        model = keras.Sequential([keras.Input((_INPUTS,)), layer])
        kernel = np.zeros((_INPUTS, 2))
        kernel[:, 0] = rng.normal(size=_INPUTS, scale=40.0)
        layer.set_weights([kernel, np.array([1.0 - (x @ kernel)[:, 0].min(), 0.0])])
        return model, x
    first, second = keras.layers.Dense(16, activation="relu"), keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((_INPUTS,)), first, second])
    first.set_weights([rng.normal(size=(_INPUTS, 16)), rng.uniform(20, 40, 16)])
    kernel = np.zeros((16, 2))
    kernel[:, 0] = rng.normal(size=16)
    values = np.maximum(x @ first.get_weights()[0] + first.get_weights()[1], 0)
    second.set_weights([kernel, np.array([1.0 - (values @ kernel)[:, 0].min(), 0.0])])
    return model, x


def worst_points(model, x, eps):
    """The corner of each region where the margin is least, which is linear there."""
    slope = np.eye(_INPUTS)
    for layer in model.layers:
        slope = slope @ layer.get_weights()[0]
    slope = slope[:, 0]
    region = tfcert.LpBall(1.0).with_eps(eps)
    return np.asarray(region.minimiser(np.tile(slope, (len(x), 1))[:, None], x))[:, 0]


def executed(model, points):
    """The margins of points by every execution, ``(executions, points)``."""

    def scores(inputs):
        return model(inputs, training=False)

    def in_batches(function, size):
        parts = [
            function(ops.convert_to_tensor(points[i : i + size]))
            for i in range(0, len(points), size)
        ]
        return np.concatenate([np.asarray(part) for part in parts])

    compiled = backend.compile_function(scores, model)
    by_xla = backend.compile_function(scores, model, jit_compile=True)
    found = [
        in_batches(function, size)
        for function in (scores, compiled, by_xla)
        for size in (1, 3, len(points))
    ]
    # As hardware may do it: float32 in every order of summation, fused or not, flushed or not.
    for order in executions.ORDERS:
        for fused in (False, True):
            run = executions.Execution(order=order, fused=fused, flush=fused)
            found.append(run.run(model, points.astype("float64")))
    return np.stack([margins_of(np.asarray(f), np.zeros(len(points), int)) for f in found])


def largest_eps(model, x, method, steps=45):
    """The largest verified eps of each input, to the last bits of float32."""
    region = tfcert.LpBall(1e-6)
    given = {"method": method, "attack": None, "self_check": 0.0, "max_eps": 1.0}
    result = tfcert.certify(model, x, np.zeros(len(x), int), region, eps_steps=steps, **given)
    assert (result.verdict == "verified").all()
    return result.radius


@pytest.mark.parametrize(
    "kind", slow_except(lambda kind: kind is methods.IBP, [methods.IBP, methods.Crown])
)
def test_float_safe_is_never_broken_and_ordinary_is(kind):
    broken, ratios = 0, []
    for seed in range(2):
        model, x = network(seed, hidden=kind is not methods.IBP)
        ordinary = largest_eps(model, x, kind())
        safe = largest_eps(model, x, kind(float_safe=True))
        ratios += list(safe / ordinary)
        margins = executed(model, worst_points(model, x, ordinary))
        broken += int((margins <= 0).any(axis=0).sum())
        for eps in (safe, np.nextafter(safe.astype("float32"), 0)):
            margins = executed(model, worst_points(model, x, np.minimum(eps, safe)))
            assert (margins > 0).all()
    # The attack is one: it breaks ordinary certificates ...
    assert broken >= 2
    # ... and the safe ones cost little.
    assert min(ratios) > 0.99 and max(ratios) <= 1 + 1e-6


@pytest.mark.slow
def test_certify_finds_rounding_at_the_boundary():
    """The self-check meets the same attack: recorded without float_safe, never found with it."""
    model, x = network(0)
    y, given = np.zeros(len(x), int), {"attack": None, "self_check": 1.0}
    eps = largest_eps(model, x, methods.Crown())
    twin = in_float64(model)
    points = worst_points(model, x, eps)
    exact = margins_of(np.asarray(twin(points.astype("float64"))), y)
    wrong = executed(model, points).min(axis=0) <= 0
    # What float32 gets wrong is right, or within the rounding of the bound itself, in float64.
    assert np.abs(exact[wrong]).max() < 1e-4
    safe = largest_eps(model, x, methods.Crown(float_safe=True))
    try:
        result = tfcert.certify(
            model, x, y, tfcert.LpBall(1.0).with_eps(safe), "crown", float_safe=True, **given
        )
    except UnsoundCertificateError as error:
        pytest.fail(str(error))
    assert result.checked == len(x) and not result.rounding


def test_float_safe_holds_on_a_trained_network():
    """Found by attack, not worked out: APGD at the boundary of float-safe certificates."""
    model, (x, y) = support.trained(), support.digits(16)
    region = tfcert.LpBall(1e-4, clip=(0.0, 1.0))
    given = {"attack": None, "self_check": 1.0, "float_safe": True, "batch_size": 16}
    result = tfcert.certify(model, x, y, region, "ibp", max_eps=0.1, eps_steps=20, **given)
    assert result.checked > 8 and (result.radius > 1e-4).sum() > 8
