"""Bounds against those that another tool computed for the same networks (../shared/reference).

By default a part is compared, which takes a minute or two. ``TFCERT_AGREEMENT=full`` compares every
file, setting, method and sample, and prints what it found with ``pytest -s``.
"""

import contextlib
import functools
import importlib.util
import os
import types
import unittest

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import soundness, support
from tfcert import backend, methods

# TensorFlow needs longer to compile an interval method than to run it once; JAX compiles every
# operation anyhow.
_at_once = soundness.eagerly if keras.backend.backend() == "tensorflow" else contextlib.nullcontext

FULL = os.environ.get("TFCERT_AGREEMENT", "") == "full"

# Rounding of float32 on both sides, and of x -/+ eps outwards on ours, as a share of the scale.
ROUNDING = 1e-4
# What may be looser in single entries where a method leaves freedom.
LOOSER = 0.03

RELU_NETS = ["mnist_fc_3layer", "kw_mnist", "cifar_2c2f", "resnet2b"]  # Without max pooling.
FILES = [*RELU_NETS, "tanh_mlp_s1", "bn_pool_res_s2"]
SETTINGS = ["linf_small", "linf_small_clip", "linf_moderate", "linf_moderate_clip", "l2"]
METHODS = {
    "IBP": methods.IBP(),
    "CROWN-IBP": methods.CrownIBP(),
    "CROWN": methods.Crown(),
    "CROWN-Optimized-fixed": methods.AlphaCrown(iterations=20),
    "CROWN-Optimized": methods.AlphaCrown(iterations=20, optimize_intermediate=True),
}


@functools.cache
def load(name):
    """The model of a file, rebuilt from stock layers, and what is stored of it."""
    folder = support.shared_path("reference")
    spec = importlib.util.spec_from_file_location("load_reference", folder / "load_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load_reference(str(folder / "bounds" / f"{name}.npz"))


class Stored(types.SimpleNamespace):
    """What is stored of one setting and method, and the call that must agree with it.

    Attributes: model, x, y, region, lower, upper, margins (arrays), scale.
    """


def stored(name, setting, method, samples=8):
    """One case; skips where the other tool stored none."""
    model, reference = load(name)
    found = [s for s in reference["settings"] if s["name"] == setting]
    if not found or method not in found[0]["methods"]:
        raise unittest.SkipTest(f"{name} has no stored bounds of {method} for {setting}")
    (facts,) = found
    parts = {
        part: np.float64(reference[f"{setting}/{method}/{part}"])
        for part in ("lower", "upper", "margin_lower")
    }
    region = tfcert.LpBall(
        facts["eps"],
        norm="inf" if facts["norm"] == "linf" else 2,
        clip=tuple(facts["clip_range"]) if facts["clip"] else None,
    )
    return Stored(
        model=model,
        x=reference["inputs"][:samples],
        y=reference["labels"][:samples].astype("int32"),
        region=region,
        lower=parts["lower"][:samples],
        upper=parts["upper"][:samples],
        margins=parts["margin_lower"][:samples],
        scale=max(1.0, np.abs(parts["margin_lower"]).max()),
    )


def gains(case, method, outputs=True):
    """How much tighter our bounds are, as shares of the scale: margins, then both ends."""
    margins = np.asarray(
        tfcert.bound_margins(case.model, case.x, case.y, case.region, METHODS[method])
    )
    own = np.arange(case.margins.shape[1]) == case.y[:, None]
    assert (margins[own] == 0).all() and (case.margins[own] == 0).all()
    found = [(margins - case.margins)[~own] / case.scale]
    if outputs:
        bounds = tfcert.bound(case.model, case.x, case.region, METHODS[method])
        low, high = soundness.flat(bounds)
        found.append(np.stack([low - case.lower, case.upper - high]) / case.scale)
    return found


def report(*words):
    if FULL:
        print(*words, flush=True)


def summary(found):
    return f"mean {found.mean():+.1e} worst {found.min():+.1e} best {found.max():+.1e}"


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", RELU_NETS)
def test_interval_methods_agree(name, setting, method):
    case = stored(name, setting, method)
    with _at_once():
        found = gains(case, method)
    report(name, setting, method, *map(summary, found))
    for gain in found:
        assert gain.min() >= -ROUNDING
        if (name, setting) != ("kw_mnist", "l2"):  # See test_ball_at_padded_borders.
            assert gain.max() <= ROUNDING, "tighter, and the reason is not known"


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["tanh_mlp_s1", "bn_pool_res_s2"])
def test_ibp_agrees_on_other_networks(name, setting):
    case = stored(name, setting, "IBP")
    with _at_once():
        found = gains(case, "IBP")
    report(name, setting, "IBP", *map(summary, found))
    for gain in found:
        assert np.abs(gain).max() <= ROUNDING


def test_ball_at_padded_borders():
    """Why bounds of kw_mnist are tighter for the l2 ball, and that they are right.

    A neuron at the border of a padded convolution reads a part of its window from the padding,
    which no attacker changes: the dual norm is that of the part of the kernel inside of the map.
    The stored bounds take the norm of the whole kernel everywhere.
    """
    case = stored("kw_mnist", "l2", "IBP")
    kernel, bias = case.model.layers[1].get_weights()
    kernel, bias, x = np.float64(kernel), np.float64(bias), np.float64(case.x)
    eps = float(np.float32(case.region.eps))
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    inside = np.pad(np.ones(x.shape[1:]), [(1, 1), (1, 1), (0, 0)])
    size = (padded.shape[1] - 4) // 2 + 1
    center, exact = np.zeros((2, len(x), size, size, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            rows, columns = slice(2 * i, 2 * i + 4), slice(2 * j, 2 * j + 4)
            window = padded[:, rows, columns]
            center[:, i, j] = np.einsum("bxyc,xycf->bf", window, kernel) + bias
            reached = kernel * inside[rows, columns, :, None]
            exact[:, i, j] = eps * np.sqrt((reached**2).sum(axis=(0, 1, 2)))
    whole = np.broadcast_to(eps * np.sqrt((kernel**2).sum(axis=(0, 1, 2))), exact.shape)
    assert (exact[:, 1:-1, 1:-1] == whole[:, 1:-1, 1:-1]).all() and (
        exact[:, 0] < whole[:, 0]
    ).all()
    with _at_once():
        margins = np.asarray(
            tfcert.bound_margins(case.model, case.x, case.y, case.region, METHODS["IBP"])
        )
        first = keras.Model(case.model.inputs, case.model.layers[1].output)
        low, high = soundness.flat(tfcert.bound(first, case.x, case.region, "crown"))
    np.testing.assert_allclose(low, center - exact, atol=1e-5)
    np.testing.assert_allclose(high, center + exact, atol=1e-5)
    for radius, expected in ((exact, margins), (whole, case.margins)):
        found = _interval_margins(case, center, radius)
        assert np.abs(found - expected).max() <= ROUNDING * case.scale


def _interval_margins(case, center, radius):
    """Interval bounds of the margins of kw_mnist from those of its first layer, in NumPy."""
    low, high = center - radius, center + radius
    for layer in case.model.layers[2:]:
        if isinstance(layer, keras.layers.ReLU):
            low, high = np.maximum(low, 0), np.maximum(high, 0)
        elif isinstance(layer, keras.layers.Flatten):
            low, high = low.reshape(len(low), -1), high.reshape(len(high), -1)
        else:
            kernel, bias = (np.float64(w) for w in layer.get_weights())
            center, radius = (high + low) / 2, (high - low) / 2
            if layer is case.model.layers[-1]:
                rows = np.eye(10)[case.y][:, None] - np.eye(10)
                kernel, bias = np.einsum("kc,bjc->bjk", kernel, rows), rows @ bias
                reach = np.einsum("bjk,bk->bj", np.abs(kernel), radius)
                return np.einsum("bjk,bk->bj", kernel, center) + bias - reach
            if isinstance(layer, keras.layers.Dense):
                center, radius = center @ kernel + bias, radius @ np.abs(kernel)
            else:
                center = _convolved(layer, center, kernel) + bias
                radius = _convolved(layer, radius, np.abs(kernel))
            low, high = center - radius, center + radius
    raise AssertionError("no last layer")


def _convolved(layer, x, kernel):
    (k, _, _, _), (s, _) = kernel.shape, layer.strides
    total = max((-(-x.shape[1] // s) - 1) * s + k - x.shape[1], 0) if layer.padding == "same" else 0
    pad = (total // 2, total - total // 2)
    x = np.pad(x, [(0, 0), pad, pad, (0, 0)])
    size = (x.shape[1] - k) // s + 1
    result = np.zeros((len(x), size, size, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            window = x[:, s * i : s * i + k, s * j : s * j + k]
            result[:, i, j] = np.einsum("bxyc,xycf->bf", window, kernel)
    return result


def _part(*names):
    """Of all cases those that are compared by default."""
    return [name for name in FILES if FULL or name in names]


BACKWARD = [
    *[("CROWN-IBP", name) for name in _part("tanh_mlp_s1", "bn_pool_res_s2")],
    *[("CROWN", name) for name in _part(*FILES)],
    *[
        ("CROWN-Optimized-fixed", name)
        for name in _part("kw_mnist", "mnist_fc_3layer", "tanh_mlp_s1")
    ],
    *[("CROWN-Optimized", name) for name in _part("mnist_fc_3layer", "kw_mnist")],
]
# The first convolutions and the first dense layers that a method meets.
_QUICK = [
    ("CROWN-IBP", "bn_pool_res_s2"),
    ("CROWN", "mnist_fc_3layer"),
    ("CROWN", "kw_mnist"),
    ("CROWN-Optimized-fixed", "mnist_fc_3layer"),
]


@pytest.mark.parametrize(("method", "name"), support.slow_except(_QUICK.__contains__, BACKWARD))
def test_backward_methods_are_as_tight(method, name):
    margins = []
    for setting in SETTINGS if FULL else SETTINGS[-2:-1]:
        try:
            case = stored(name, setting, method, samples=8 if FULL else 2)
        except unittest.SkipTest:
            continue
        found = gains(case, method, outputs=FULL)
        report(name, setting, method, *map(summary, found))
        assert min(gain.min() for gain in found) >= -LOOSER
        margins.append(found[0])
    if not margins:
        pytest.skip("no stored bounds")
    mean = np.mean([gain.mean() for gain in margins])
    report(f"== {name} {method} mean of the file {mean:+.1e}")
    assert mean >= -ROUNDING


# A bound that is tighter than the stored one may be wrong: nothing that the region holds may leave
# ours, what an attack finds included.


def reached(case, steps=12):
    """Margins at points where a Frank-Wolfe attack on every margin leads, and on the way there."""
    model, x, region = case.model, case.x, case.region
    batch, classes = case.margins.shape
    rows = np.float32(np.eye(classes)[case.y][:, None] - np.eye(classes))
    weights = ops.convert_to_tensor(rows.reshape(-1, classes))
    current = np.repeat(x[:, None], classes, axis=1)
    best = np.full((batch, classes), np.inf)

    def scores(points):
        return model(points, training=False)

    for step in range(steps):
        points = ops.convert_to_tensor(current.reshape(-1, *x.shape[1:]))
        (slopes,) = backend.vector_jacobian(scores, [points], weights)
        slopes = ops.reshape(slopes, current.shape)
        ends = np.asarray(ops.convert_to_numpy(region.minimiser(slopes, x)))
        for points in (ends, current):
            assert region.contains(points, x).all()
            values = np.asarray(scores(points.reshape(-1, *x.shape[1:])))
            best = np.minimum(best, (values * rows.reshape(-1, classes)).sum(1).reshape(best.shape))
        current = current + np.float32(2.0 / (step + 2.0)) * (ends - current)
        current = np.asarray(ops.convert_to_numpy(region.project(current, x)))
    return best


@pytest.mark.parametrize(
    "setting",
    support.slow_except(
        lambda setting: setting != "l2", SETTINGS if FULL else ["linf_moderate_clip", "l2"]
    ),
)
@pytest.mark.parametrize("name", support.slow_except("kw_mnist".__eq__, FILES))
def test_nothing_reached_leaves_the_bounds(name, setting):
    case = stored(name, setting, "IBP", samples=8 if FULL else 2)
    found = soundness.Reached(case.model, case.x, case.region, count=64, attacks=10)
    margins = reached(case)
    own = np.float64(np.eye(10)[case.y])[:, None]
    rows = own - np.eye(10)
    chosen = ["IBP", "CROWN-IBP"]
    if FULL:
        chosen += ["CROWN", "CROWN-Optimized-fixed"]
    elif name in ("kw_mnist", "bn_pool_res_s2"):
        chosen += ["CROWN"]
    for method in chosen:
        # Sweeps from thousands of neurons want to be compiled.
        with _at_once() if method in ("IBP", "CROWN-IBP") else contextlib.nullcontext():
            lower = np.asarray(
                tfcert.bound_margins(case.model, case.x, case.y, case.region, METHODS[method])
            )
            if FULL:
                bounds = tfcert.bound(case.model, case.x, case.region, METHODS[method])
                found.check(bounds, f"{name} {setting} {method}")
        found.check_margins(lower, rows, f"{name} {setting} {method}")
        slack = soundness.TOLERANCE["float32"] * max(1.0, np.abs(margins).max())
        assert (lower <= margins + slack).all(), f"{method}: an attack leaves the bounds"
        report(name, setting, method, f"attack above bounds by {(margins - lower).min():.2e}")
