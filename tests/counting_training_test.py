"""Training with properties that need some of their margins: TopK."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import training_support as ts
from tfcert import objectives
from tfcert.bounds.ranking import ranked, ranked_margins
from tfcert.properties import TopK

REGION = tfcert.LpBall(0.08, clip=(0.0, 1.0))
CLASSES, K, SCALE = 5, 3, 0.5


def counted(margins):
    """The loss of margins, ``(batch, rivals)``: all but the K - 1 least ones count."""
    kept = np.sort(np.asarray(margins, "float64"), axis=1)[:, K - 1 :]
    return np.log1p(np.exp(-kept / SCALE).sum(axis=1))


def margins_at(model, x, y):
    scores = np.asarray(model(x), "float64")
    rows = np.arange(len(y))
    others = np.arange(CLASSES) != y[:, None]
    return (scores[rows, y][:, None] - scores)[others].reshape(len(y), -1)


def asked(y=None):
    return {"property": TopK(y, K), "property_scale": SCALE}


# One class for all inputs, and labels that come with the batch.
CASES = {"one": 2, "labels": None}


def setting(case, samples=8):
    x, y = ts.data(samples, classes=CLASSES)
    return ts.mlp(seed=3, classes=CLASSES), x, np.full(samples, 2) if case == "one" else y


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_ranked_scores_leave_out_the_largest_rivals(allowed):
    random = np.random.default_rng(0)
    scores = random.normal(size=(50, 4)).astype("float32")
    scores[:10, 1] = scores[:10, 2]  # Ties.
    y = random.integers(0, 4, size=50)
    found = np.asarray(ranked(ops.convert_to_tensor(scores), ops.convert_to_tensor(y), allowed))
    rows, others = np.arange(50), np.arange(4) != y[:, None]
    np.testing.assert_array_equal(found[rows, y], scores[rows, y])
    rivals = found[others].reshape(50, 3)
    if allowed:
        wanted = -np.sort(-scores[others].reshape(50, 3), axis=1)
        np.testing.assert_array_equal(rivals[:, allowed:], wanted[:, allowed:])
        assert (rivals[:, :allowed] < -1e8).all()
    else:
        np.testing.assert_array_equal(found, scores)
    # The label is ahead exactly where the property holds.
    ahead = (scores[others].reshape(50, 3) >= scores[rows, y][:, None]).sum(axis=1)
    np.testing.assert_array_equal(found[rows, y] > rivals.max(axis=1), ahead <= allowed)


def test_ranked_margins_grow_with_the_margins():
    random = np.random.default_rng(1)
    low = random.normal(size=(40, CLASSES))
    y = random.integers(0, CLASSES, size=40)
    high = low + random.exponential(size=low.shape)
    for margins in (low, high):
        margins[np.arange(40), y] = 0.0
    less, more = (np.asarray(ranked_margins(ops.convert_to_tensor(m), y, 2)) for m in (low, high))
    assert (less <= more).all() and (less < more).any()


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_the_bounds_but_for_the_least(case):
    model, x, y = setting(case)
    objective = objectives.IBP(REGION, 0.25, **asked(CASES[case]))
    terms = ts.terms_at(objective, model, x, y)
    bounds = np.asarray(tfcert.bound_margins(model, x, y, REGION, method="ibp"))
    bounds = bounds[np.arange(CLASSES) != y[:, None]].reshape(len(x), -1)
    np.testing.assert_allclose(terms["robust"], 0.75 * counted(bounds).mean(), rtol=1e-4)
    here = counted(margins_at(model, x, y)).mean()
    np.testing.assert_allclose(terms["natural"], 0.25 * here, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["IBP", "CrownIBP"])
def test_the_loss_is_no_less_than_that_of_any_point(case, kind):
    model, x, y = setting(case)
    options = {"natural_weight": 0.0, "backward_weight": 1.0} if kind != "IBP" else {}
    objective = getattr(objectives, kind)(
        REGION, **{"natural_weight": 0.0, **options}, **asked(CASES[case])
    )
    robust = ts.terms_at(objective, model, x, y)["robust"]
    points = np.asarray(REGION.sample(ops.convert_to_tensor(x), 200, ops.array([7, 1])))
    losses = counted(margins_at(model, points.reshape(-1, 5), np.repeat(y, 200)))
    worst = losses.reshape(len(x), 200).max(axis=1).mean()
    here = counted(margins_at(model, x, y)).mean()
    assert robust >= worst > here


@pytest.mark.parametrize("kind", ["SABR", "MTLIBP", "CCIBP", "ExpIBP", "AdvIBP", "TAPS"])
def test_attacks_inside_of_losses_are_on_the_margins_that_count(kind):
    model, x, y = setting("labels")
    terms = ts.terms_at(getattr(objectives, kind)(REGION, **asked()), model, x, y, epoch=3.0)
    here = counted(margins_at(model, x, y)).mean()
    bounds = np.asarray(tfcert.bound_margins(model, x, y, REGION, method="ibp"))
    most = counted(bounds[np.arange(CLASSES) != y[:, None]].reshape(len(x), -1)).mean()
    found = terms["robust"]
    if kind == "TAPS":  # The product of two such losses.
        assert here**2 < found < most**2 + 1e-5
    else:
        assert here < found < most + 1e-5


@pytest.mark.parametrize("case", CASES)
def test_validation_shows_the_shares_that_hold_and_are_proved(case):
    model, x, y = setting(case, 40)
    region = tfcert.LpBall(0.05, clip=(0.0, 1.0))
    options = asked(CASES[case]) | {"validation_method": "crown"}
    trainer = tfcert.CertifiedTrainer(model, objectives.IBP(region, **options))
    metric = keras.metrics.SparseTopKCategoricalAccuracy(1, name="first")
    trainer.compile(metrics=[metric] if case == "labels" else [], run_eagerly=True)
    given = y if case == "labels" else None
    logs = trainer.evaluate(x, given, batch_size=16, verbose=0, return_dict=True)
    wanted = TopK(y, K)
    holds = (margins_at(model, x, y) <= 0).sum(axis=1) < K
    bounds = tfcert.bound_margins(model, x, wanted, region, method="crown")
    proved = wanted.proved(bounds) & holds
    assert 0 < proved.mean() < holds.mean() < 1
    np.testing.assert_allclose(logs["accuracy"], holds.mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["verified_accuracy"], proved.mean(), rtol=1e-5)
    if case == "labels":  # Metrics see the model's own outputs.
        first = (np.asarray(model(x)).argmax(axis=1) == y).mean()
        np.testing.assert_allclose(logs["first"], first, rtol=1e-5)


def test_natural_losses_measure_the_models_own_outputs_by_the_labels():
    model, x, y = setting("labels")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    objective = objectives.IBP(REGION, 0.5, natural_loss=loss, **asked())
    natural = ts.terms_at(objective, model, x, y)["natural"]
    np.testing.assert_allclose(natural, 0.5 * float(loss(y, model(x))), rtol=1e-5)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(objective)))
    again = keras.saving.deserialize_keras_object(config)
    assert repr(again) == repr(objective) and "TopK(y=None, k=3)" in repr(again)


@pytest.mark.slow
def test_training_proves_more_of_the_first_three():
    model, x, y = setting("labels", 64)
    trainer = tfcert.CertifiedTrainer(model, objectives.IBP(REGION, **asked()))
    trainer.compile(keras.optimizers.Adam(0.02))
    before = trainer.evaluate(x, y, verbose=0, return_dict=True)["verified_accuracy"]
    trainer.fit(x, y, epochs=20, batch_size=16, verbose=0)
    result = tfcert.certify(model, x, TopK(y, K), REGION, method="ibp", attack=None, self_check=0)
    assert result.verified_accuracy > before + 0.1


@pytest.mark.parametrize(
    ("kind", "options"),
    [("FusedCrownIBP", {}), ("TightRelaxation", {}), ("MAAR", {"divergence": "upper_bound"})],
)
def test_what_is_about_all_margins_is_refused(kind, options):
    model, _, _ = setting("labels")
    objective = getattr(objectives, kind)(REGION, **options, **asked())
    with pytest.raises(NotImplementedError, match="all be positive. Use another objective"):
        tfcert.CertifiedTrainer(model, objective)


def test_arguments_that_do_not_fit():
    model, x, y = setting("labels")
    with pytest.raises(ValueError, match="`k` must be below the number of outputs, 5"):
        tfcert.CertifiedTrainer(model, objectives.IBP(REGION, property=TopK(None, 5)))
    with pytest.raises(ValueError, match="`y` must be given where no training brings labels"):
        tfcert.bound_margins(model, x, TopK(None, 2), REGION)
    trainer = tfcert.CertifiedTrainer(model, objectives.IBP(REGION, **asked()))
    trainer.compile()
    with pytest.raises(ValueError, match="`y` must hold integer labels"):
        trainer.fit(x)
