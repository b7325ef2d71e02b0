"""Exports of smoothed classifiers: the library's numbers, in a process that has no tfcert."""

import json

import keras
import numpy as np
import pytest

from tests import support
from tfcert import smoothing
from tfcert.smoothing import confidence, counting

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports are TensorFlow's", allow_module_level=True)

import tensorflow as tf

from tfcert.smoothing import exporting, graph_keys

SETTINGS = {"n0": 130, "n": 2050, "alpha": 0.01}
FIELDS = ("prediction", "radius", "p_lower", "samples")


def make_model():
    generator = np.random.default_rng(3)
    model = keras.Sequential(
        [
            keras.Input((3, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(12, activation="relu"),
            keras.layers.Dense(4),
        ]
    )
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def inputs(size=9):
    return np.random.default_rng(5).normal(size=(size, 3, 2)).astype("float32")


def seeds(*values):
    return tf.constant(values, "int64")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The classifier, the folder and what is loaded from it: adaptive, with Gaussian noise."""
    smoothed = smoothing.SmoothedClassifier(make_model(), sigma=0.5)
    # What a user's program may do: the seeds that the server draws must not depend on it.
    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("smoothing") / "model" / "1"
    assert smoothed.export(path, **SETTINGS, adaptive=True, n_predict=230) == path
    return smoothed, path, tf.saved_model.load(str(path)).signatures


def same(found, wanted):
    for name in FIELDS:
        np.testing.assert_array_equal(found[name].numpy(), getattr(wanted, name), err_msg=name)


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 5])
def test_certificates_are_those_of_the_library(exported, seed):
    smoothed, _, signatures = exported
    x = inputs()
    found = signatures["certify"](x=tf.constant(x), seed=seeds(seed))
    wanted = smoothed.certify(x, **SETTINGS, adaptive=True, seed=seed)
    same(found, wanted)
    # Some of everything, or the comparison says little.
    assert len(set(wanted.samples)) > 1 and -1 in wanted.prediction
    assert len(set(wanted.prediction)) > 2
    assert found["radius"].dtype == found["p_lower"].dtype == tf.float64


def test_a_seed_may_be_a_number(exported):
    smoothed, _, signatures = exported
    x = inputs(3)
    found = signatures["certify"](x=tf.constant(x), seed=tf.constant(4, tf.int64))
    same(found, smoothed.certify(x, **SETTINGS, adaptive=True, seed=4))


def test_seeds_of_their_own_make_inputs_independent_of_the_batch(exported):
    smoothed, _, signatures = exported
    x, own = inputs(3), (11, 0, 5)
    found = signatures["certify"](x=tf.constant(x), seed=seeds(*own))
    for i, seed in enumerate(own):
        alone = smoothed.certify(x[i : i + 1], **SETTINGS, adaptive=True, seed=seed)
        for name in FIELDS:
            assert found[name].numpy()[i] == getattr(alone, name)[0], name


def test_predictions_are_those_of_the_library(exported):
    smoothed, _, signatures = exported
    x = inputs(40)
    found = signatures["predict"](x=tf.constant(x), seed=seeds(3))["prediction"].numpy()
    wanted = smoothed.predict(x, n=230, alpha=SETTINGS["alpha"], seed=3)
    np.testing.assert_array_equal(found, wanted)
    assert -1 in wanted and len(set(wanted)) > 2


def test_the_default_draws_a_new_seed_each_time(exported):
    smoothed, _, signatures = exported
    x = inputs(4)
    first, second = (signatures["serving_default"](x=tf.constant(x)) for _ in range(2))
    drawn = np.concatenate([first["seed"].numpy(), second["seed"].numpy()])
    assert len(set(drawn)) == 8 and drawn.min() >= 0
    for i in range(4):  # And it can be checked afterwards.
        seed = int(first["seed"].numpy()[i])
        again = smoothed.certify(x[i : i + 1], **SETTINGS, adaptive=True, seed=seed)
        assert first["p_lower"].numpy()[i] == again.p_lower[0]


def test_what_cannot_be_certified_abstains(exported):
    smoothed, _, signatures = exported
    x = inputs(4)
    x[0, 0, 0], x[1, 2, 1] = np.nan, np.inf
    found = signatures["certify"](x=tf.constant(x), seed=seeds(1, 1, -1, 1))
    np.testing.assert_array_equal(found["prediction"].numpy()[:3], -1)
    for name in ("radius", "p_lower", "samples"):
        np.testing.assert_array_equal(found[name].numpy()[:3], 0)
    alone = smoothed.certify(x[3:], **SETTINGS, adaptive=True, seed=1)
    assert found["radius"].numpy()[3] == alone.radius[0]
    assert signatures["predict"](x=tf.constant(x), seed=seeds(1))["prediction"].numpy()[0] == -1


def test_an_empty_batch(exported):
    _, _, signatures = exported
    found = signatures["certify"](x=tf.constant(inputs(0)), seed=seeds(1))
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(FIELDS, (0,))


def test_a_wrong_number_of_seeds_is_an_error(exported):
    _, _, signatures = exported
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures["certify"](x=tf.constant(inputs(3)), seed=seeds(1, 2))


@pytest.mark.parametrize(
    "noise",
    [smoothing.Laplace(0.3), pytest.param(smoothing.Uniform(0.8), marks=pytest.mark.slow)],
    ids=repr,
)
def test_other_noise_with_a_fixed_number_of_samples(noise, tmp_path):
    smoothed = smoothing.SmoothedClassifier(make_model(), noise=noise)
    smoothed.export(tmp_path / "1", **SETTINGS)
    certify = tf.saved_model.load(str(tmp_path / "1")).signatures["certify"]
    x = inputs(5)
    same(
        certify(x=tf.constant(x), seed=seeds(2)),
        smoothed.certify(x, **SETTINGS, seed=2),
    )
    facts = json.loads((tmp_path / "1/assets/certificate.json").read_text())
    assert facts["noise"] == {"class": type(noise).__name__, "scale": noise.scale}
    assert facts["norm"] == 1 and facts["adaptive"] is None and facts["n"] == SETTINGS["n"]


_ALONE = """
import numpy as np
import tensorflow as tf

x = np.load(sys.argv[2])
signatures = tf.saved_model.load(sys.argv[1]).signatures
found = signatures["certify"](x=tf.constant(x), seed=tf.constant([7], tf.int64))
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
"""


@pytest.mark.slow
def test_runs_where_only_tensorflow_is(exported, tmp_path):
    smoothed, path, _ = exported
    x = inputs(6)
    np.save(tmp_path / "x.npy", x)
    support.run_alone(_ALONE, path, tmp_path / "x.npy", tmp_path / "found.npz")
    wanted = smoothed.certify(x, **SETTINGS, adaptive=True, seed=7)
    with np.load(tmp_path / "found.npz") as found:
        for name in FIELDS:
            np.testing.assert_array_equal(found[name], getattr(wanted, name))


# The parts.


def test_keys_are_numpys():
    keys = tf.function(
        lambda seed, purpose, index, block: graph_keys.block_keys(
            graph_keys.stream_keys(seed, purpose, index), block
        )
    )
    blocks = np.arange(11)
    for seed in (0, 1, 2**32 - 1, 2**32, 2**63 - 1):
        for purpose, index in ((0, 0), (1, 3), (2, 2**31 + 1)):
            found = keys(
                seeds(*[seed] * 11),
                tf.constant(purpose, "int64"),
                seeds(*[index] * 11),
                tf.constant(blocks),
            )
            wanted = counting._keys_of(
                (seed, purpose), np.array([index]), np.zeros(11, int), blocks, 11
            )
            np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize(("n", "alpha"), [(40, 0.001), (61, 0.3), (7, 0.001)])
def test_the_table_of_predictions_is_the_test(n, alpha):
    winning = exporting._winning(n, alpha)
    first, second = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = (first >= second) & (first + second <= n)
    first, second = first[possible], second[possible]
    clear = confidence.two_sided_test(first, second) <= alpha
    np.testing.assert_array_equal(first >= winning[first + second], clear)


def test_tables_hold_no_more_than_they_should(exported):
    smoothed, _, _ = exported
    rule = smoothing.Adaptive()
    plan = rule.plan(SETTINGS["n"], 0.01, counting.BLOCK, smoothed.noise.radius)
    procedure = exporting.Procedure((0, 1, 2), 130, plan, rule, 230, 0.01)
    tables = exporting._Tables(procedure, smoothed.noise)
    lower, begin = tables.lower.numpy(), tables.begin.numpy()
    np.testing.assert_array_equal(lower[begin], 0.0)  # No votes promise nothing.
    assert len(lower) == sum(plan.looks) + len(plan.looks)
    last = np.append(begin[1:], len(lower)) - 1
    wanted = [confidence.lower_bound(n, n, a) for n, a in zip(*plan, strict=True)]
    np.testing.assert_array_equal(lower[last], wanted)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "`n` must be an integer of at least 1"),
        ({"n": 10_000_001}, "`n` of an export must be at most 10000000"),
        ({"alpha": 1.0}, "`alpha` must lie strictly between 0 and 1"),
        ({"n_predict": 1.5}, "`n_predict` must be an integer"),
        ({"adaptive": "yes"}, "`adaptive` must be True, False or"),
    ],
)
def test_refuses_bad_settings(arguments, message, tmp_path):
    smoothed = smoothing.SmoothedClassifier(make_model(), sigma=0.5)
    with pytest.raises(ValueError, match=message):
        smoothed.export(tmp_path / "1", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_refuses_weights_that_are_no_numbers(tmp_path):
    model = make_model()
    model.layers[-1].bias.assign([0.0, np.nan, 0.0, 0.0])
    smoothed = smoothing.SmoothedClassifier(model, sigma=0.5)
    with pytest.raises(ValueError, match=r"NaN or infinite values in its weight '.*bias'"):
        smoothed.export(tmp_path / "1", **SETTINGS)


def test_refuses_a_path_that_is_there(exported):
    smoothed, path, _ = exported
    with pytest.raises(ValueError, match="`path` already exists"):
        smoothed.export(path, **SETTINGS)
