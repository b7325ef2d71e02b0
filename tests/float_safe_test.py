"""float_safe bounds hold for what float32 hardware makes of a network, however it adds up."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import executions, rule_cases, soundness, support
from tests.float_safe_support import (
    CROWN,
    IBP,
    NETWORKS,
    check_executions,
    dense,
    draw,
    draw_weights,
    ends,
    in_double,
    margins_of,
    overflowing,
)
from tfcert import methods
from tfcert.network import Network, network_of
from tfcert.rules import linear, nonlinear, primitives, rounding

U = 2.0**-24


@pytest.fixture(scope="module", autouse=True)
def _float64():
    soundness.needs_float64()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("eps", [pytest.param(0.0, marks=pytest.mark.slow), 0.03])
def test_every_execution_lies_within_the_bounds(name, eps):
    for seed in range(2):
        model, x = draw(NETWORKS[name], seed)
        check_executions(model, x, tfcert.LpBall(eps), seed=seed)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "scale", support.slow_except(lambda scale: scale == 1e-40, [1e-40, 1e-12, 1e6, 1e20])
)
def test_at_tiny_and_huge_scales(name, scale):
    model, x = draw(NETWORKS[name], 3, scale)
    check_executions(model, x, tfcert.LpBall(0.01), seed=1, count=6)
    x = np.float32(x / max(scale, 1e-30))
    check_executions(model, x, tfcert.LpBall(0.01 / scale), seed=2, count=6)


@pytest.mark.parametrize("norm", [1, 2])
def test_balls_of_other_norms(norm):
    model, x = draw(NETWORKS["convolutional"], 5)
    region = tfcert.LpBall(0.5, norm=norm, clip=(-5.0, 5.0))
    check_executions(model, x, region, chosen=(IBP, CROWN, methods.CrownIBP(float_safe=True)))


def test_alpha_crown():
    model, x = draw(NETWORKS["convolutional"], 6)
    method = methods.AlphaCrown(iterations=2, optimize_intermediate=True, float_safe=True)
    check_executions(model, x, tfcert.LpBall(0.05), chosen=(method,))


# The network computes its scores one by one.


def test_scores_are_computed_separately():
    rng = np.random.default_rng(0)
    other = rng.normal(size=64)
    kernel = np.stack([other + 1e-6 * rng.normal(size=64), other], axis=1).astype("float32")
    model = keras.Sequential([keras.Input((64,)), dense(kernel)])
    x = rng.normal(size=(1, 64)).astype("float32")
    exact = np.longdouble(x[0]) @ np.longdouble(kernel)
    margin = float(exact[0] - exact[1])
    # What rounding would do to a network that computed the difference itself.
    folded = rounding.gamma(68, U) * float(np.abs(x[0]) @ np.abs(kernel[:, 0] - kernel[:, 1]))
    reached = []
    for run in executions.executions(60):
        scores = run.run(model, x)[0]
        reached.append(scores[0] - scores[1])
    assert margin - min(reached) > 10 * folded
    for method in (IBP, CROWN):
        lower = margins_of(model, x, [0], tfcert.LpBall(0.0), method)[0, 1]
        assert margin - 0.1 < lower <= min(reached)


# The bounds themselves are computed in float64.


def _nodes_of_cases():
    for name, case in rule_cases.CASES.items():
        for place in case.places[:1]:
            yield name, case, place


@pytest.mark.slow
def test_nothing_is_cast_down_to_float32():
    layer = dense(np.eye(2))
    assert keras.backend.standardize_dtype(layer(np.ones((1, 2), "float64")).dtype) == "float32"
    rng, checked = np.random.default_rng(0), set()
    for name, case, place in _nodes_of_cases():
        network = Network(rule_cases.build(case, place, "float32", 0))
        for node in network.nodes:
            primitive = node.primitive
            if not node.inputs or isinstance(primitive, linear.Declared | nonlinear.Opaque):
                continue
            p = primitive.parameters("float64")
            values = [rng.uniform(0.1, 0.9, size=(2, *source.shape)) for source in node.inputs]
            rounded = [np.float64(np.float32(value)) for value in values]
            results = []
            for given in (values, rounded):
                tensors = [ops.convert_to_tensor(v, dtype="float64") for v in given]
                try:
                    results.append(primitive.apply(p, *tensors))
                except Exception as error:  # What the backend has no kernel for.
                    assert "float64" not in str(error), name
                    break
            else:
                assert keras.backend.standardize_dtype(results[0].dtype) == "float64", (name, node)
                first, second = (ops.convert_to_numpy(t) for t in results)
                if isinstance(primitive, primitives.Affine) and first.size:
                    assert (first != second).any(), f"{name}: {node} casts down"
                checked.add(type(primitive).__name__)
    assert {"_LayerMatrix", "_LayerKernel", "Scale", "Sum", "Rearrange", "BatchNorm"} <= checked


def test_bounds_are_centred_on_exact_values():
    model, x = draw(NETWORKS["mlp"], 7)
    values = np.longdouble(x)
    for layer in model.layers[1:]:
        if isinstance(layer, layers.Dense):
            kernel, bias = (np.longdouble(w) for w in layer.get_weights())
            values = values @ kernel + bias
            if layer.activation is keras.activations.relu:
                values = np.maximum(values, 0)
        else:
            slope = np.longdouble(np.float32(layer.negative_slope))
            values = np.where(values < 0, slope * values, values)
    network = network_of(model)
    region = tfcert.LpBall(0.0)
    low, high = ends(model, x, region, CROWN)
    size = np.abs(values).max()
    rounded = np.abs(np.asarray(model(x)) - values).max() / size
    centred = np.abs((low + high) / 2 - values).max() / size
    assert network.dtype == "float32" and rounded > 2.0**-27
    # No value lies so close to a kink that its error reaches over it: all is symmetric.
    assert centred < 2.0**-45


# What it is all for.


def wrong_in_float32():
    """``x`` survives in real arithmetic, and drowns in a bias on the way: class 0 against 0.5."""
    first = dense([[1.0, 0.0]], [2.0**25, 0.5], activation="relu")
    last = dense(np.eye(2), [-(2.0**25), 0.0])
    model = keras.Sequential([keras.Input((1,)), first, last])
    return model, np.array([[1.25]], "float32")


@pytest.mark.parametrize("method", [methods.CrownIBP, methods.Crown, methods.AlphaCrown])
def test_refuses_what_is_wrong_in_float32(method):
    model, x = wrong_in_float32()
    region = tfcert.LpBall(0.25)
    # Right for the real numbers: x >= 1 and 1 - 0.5 > 0.
    assert margins_of(model, x, [0], region, method())[0, 1] > 0.4
    for allowed in (1.0, 1.25, 1.5):
        scores = np.asarray(model(np.array([[allowed]], "float32")))
        assert region.contains(np.array([[allowed]]), x).all()
        assert scores[0, 0] - scores[0, 1] <= 0.0  # But not for what runs.
    assert margins_of(model, x, [0], region, method(float_safe=True))[0, 1] <= -0.5


def test_refuses_what_is_wrong_in_another_order():
    """A sum that comes out right in one order of summation and wrong in another."""
    kernel = [[2.0**24, 0.0], [1.0, 0.0], [-(2.0**24), 0.0]]
    model = keras.Sequential([keras.Input((3,)), dense(kernel, [0.0, 0.5])])
    x = np.ones((1, 3), "float32")
    region = tfcert.Box(np.array([1.0, 0.9, 1.0]), np.array([1.0, 1.1, 1.0]))
    reached = []
    for order in ("forward", "largest"):
        scores = executions.Execution(order=order).run(model, x)[0]
        reached.append(scores[0] - scores[1])
    assert reached == [-0.5, 0.5]
    # Right for the real numbers; in float32, ordinary bounds would go wrong just like the model.
    assert margins_of(in_double(model), x, [0], region, "crown")[0, 1] > 0.3
    assert margins_of(model, x, [0], region, CROWN)[0, 1] <= -0.5


def test_overflow_takes_only_its_own_sample():
    model = overflowing()[0]
    x = np.array([[1e-40] * 4, [1.0] * 4], "float32")
    scores = np.asarray(model(x))
    assert np.isinf(scores[1]).all()
    low, high = ends(model, x, tfcert.LpBall(0.0), CROWN)
    assert (low[1] == -np.inf).all() and (high[1] == np.inf).all()
    assert np.isfinite(low[0]).all() and (low[0] <= scores[0]).all()
    margins = margins_of(model, x, [0, 0], tfcert.LpBall(0.0), CROWN)
    assert (margins[1, 1:] == -np.inf).all()


def test_inputs_between_floats_are_covered():
    # Nearer to 1 + 2^-23 than to 1, which are neighbours in float32.
    model = keras.Sequential([keras.Input((1,)), dense([[1.0]])])
    x = np.array([[1.0 + 2.0**-24 + 2.0**-40]])
    low, high = ends(model, x, tfcert.LpBall(0.0), IBP)
    seen = float(model(x)[0, 0])
    assert seen == 1.0 + 2.0**-23 and low[0, 0] <= seen <= high[0, 0]


_RADII = {"mlp": 0.02, "normalised": 0.2, "convolutional": 5.0, "residual": 0.1}


@pytest.mark.parametrize("name", _RADII)
def test_contains_the_ordinary_bounds_and_is_hardly_looser(name):
    model, x = draw(NETWORKS[name], 8)
    region = tfcert.LpBall(_RADII[name])
    for safe, plain in ((IBP, "ibp"), (CROWN, "crown")):
        low, high = ends(model, x, region, safe)
        inner_low, inner_high = ends(in_double(model), x, region, plain)
        assert (low <= inner_low).all() and (inner_high <= high).all()
        wider = (high - low) / (inner_high - inner_low)
        assert wider.max() < 1.002


# Keras itself, at sizes at which its kernels block, vectorise and fuse.


@pytest.mark.parametrize("jit_compile", [False, True])
def test_keras_own_executions(jit_compile):
    rng = np.random.default_rng(9)
    i = keras.Input((12, 12, 8))
    x = layers.Conv2D(24, 5, strides=2)(i)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.SeparableConv2D(16, 3, padding="same")(x)
    x = layers.UpSampling2D((2, 4), interpolation="bilinear")(x)
    x = layers.AveragePooling2D(3, padding="same")(x)
    x = layers.Flatten()(x)
    model = keras.Model(i, layers.Dense(10)(x))
    draw_weights(model, rng)
    inputs = (100.0 * rng.normal(size=(3, 12, 12, 8))).astype("float32")
    low, high = ends(model, inputs, tfcert.LpBall(0.0), IBP)
    model.compile(jit_compile=jit_compile)
    for batch in (1, 3):
        scores = model.predict(inputs, batch_size=batch, verbose=0)
        assert ((low <= scores) & (scores <= high)).all()


def test_bilinear_upsampling_by_powers_of_two():
    def model_of(factor):
        layer = layers.UpSampling2D(factor, interpolation="bilinear", name="enlarged")
        return keras.Sequential([keras.Input((20, 3, 1)), layer])

    rng = np.random.default_rng(0)
    x = (10.0 ** rng.uniform(-3, 3, size=(4, 20, 3, 1))).astype("float32")
    low, high = ends(model_of((8, 2)), x, tfcert.LpBall(0.0), IBP)
    values = np.asarray(model_of((8, 2))(x))
    assert ((low <= values) & (values <= high)).all()
    # 1/3 is rounded, and where a pixel lies exactly on another, XLA mistakes its neighbour.
    with pytest.raises(NotImplementedError, match="'enlarged'.*powers of two"):
        ends(model_of(3), x, tfcert.LpBall(0.0), IBP)
