"""Verdicts: right where they can be worked out, never unsound, and repeatable."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tests import certification_support as support
from tests.certification_support import REGION, certify, classes
from tfcert import attacks, logs, methods, naming, objectives
from tfcert.certification import cascade, goals, stages
from tfcert.runs import identity


@pytest.fixture(scope="module")
def digits():
    return support.trained(), *support.digits(90)


def test_verdicts_that_can_be_worked_out():
    # z = x1 - x2: within eps, class 0 stays right where z > 2 eps.
    x = np.float32([[1, 0], [0.15, 0], [0, 0.5], [0.2001, 0]])
    result = certify(support.line(), x, np.zeros(4, int), tfcert.LpBall(0.1))
    assert result.verdict.tolist() == ["verified", "falsified", "misclassified", "verified"]
    assert result.margin[[0, 3]] == pytest.approx([0.8, 0.0001], abs=1e-6)
    assert result.margin[1] < 0 and result.margin[2] == -0.5
    assert result.method.tolist() == ["ibp", "pgd", "none", "ibp"]
    assert result.predict.tolist() == [0, 0, 1, 0] and result.label.tolist() == [0] * 4
    assert list(result.counterexamples) == [1]
    point = result.counterexamples[1]
    assert point[0] < point[1] and np.abs(point - x[1]).max() <= 0.1
    assert (result.accuracy, result.verified_accuracy, result.attacked_accuracy) == (0.75, 0.5, 0.5)
    assert (result.seconds > 0).all()


def test_zero_is_not_verified():
    # The least margin is exactly 0: nothing says that the right class wins there.
    x = np.float32([[0.25, 0.0]])
    result = certify(support.line(), x, [0], tfcert.LpBall(0.125), attack=None)
    assert result.verdict.tolist() == ["unknown"] and result.margin.tolist() == [0.0]
    assert result.method.tolist() == ["ibp"]


def test_cascade_agrees_with_its_methods(digits):
    model, x, y = digits
    result = certify(model, x, y, REGION)
    assert set(result.verdict) == set(logs.VERDICTS)
    assert set(result.method[result.verdict == "verified"]) >= {"crown-ibp", "crown"}
    left = result.predict == y
    assert (left == (classes(model, x) == y)).all()
    assert (result.verdict[~left] == "misclassified").all()
    left &= result.verdict != "falsified"
    for name in ("ibp", "crown-ibp", "crown", "alpha-crown"):
        margins = ops.convert_to_numpy(tfcert.bound_margins(model, x, y, REGION, name))
        least = np.where(np.arange(10) == y[:, None], np.inf, margins).min(axis=1)
        here = left & (least > 1e-6)
        assert (result.verdict[here] == "verified").all()
        assert (result.method[here] == name).all()
        assert result.margin[here] == pytest.approx(least[here], abs=1e-5)
        left &= ~here
        assert (result.margin[left] >= least[left] - 1e-5).all()
    assert left.any()
    assert set(result.verdict[left]) == {"unknown"}


def test_counterexamples_are_counterexamples(digits):
    model, x, y = digits
    result = certify(model, x, y, REGION)
    places = np.flatnonzero(result.verdict == "falsified")
    assert list(result.counterexamples) == places.tolist() and len(places) > 5
    points = np.stack([result.counterexamples[place] for place in places])
    assert REGION.contains(points, x[places]).all()
    assert (classes(model, points) != y[places]).all()
    scores = ops.convert_to_numpy(model(points)).astype("float64")
    right = np.take_along_axis(scores, y[places, None], 1)[:, 0]
    other = np.where(np.arange(10) == y[places, None], -np.inf, scores).max(axis=1)
    assert result.margin[places] == pytest.approx(right - other, abs=1e-5)


@pytest.mark.parametrize("size", [8])
def test_batches_do_not_change_verdicts(size, digits):
    model, x, y = digits
    x, y = x[:23], y[:23]
    chain = ["ibp", "crown-ibp"]
    one = certify(model, x, y, REGION, chain, batch_size=30)
    other = certify(model, x, y, REGION, chain, batch_size=size)
    assert (one.verdict == other.verdict).all() and (one.method == other.method).all()
    proved = np.isin(one.verdict, ("verified", "unknown"))
    assert one.margin[proved] == pytest.approx(other.margin[proved], abs=1e-5)


def test_every_stage_sees_only_what_is_open(digits, monkeypatch):
    model, x, y = digits
    seen = {}

    def noted(self, places):
        seen.setdefault(self.name, []).append(len(places))
        run(self, places)

    run = stages.Bounds.run
    monkeypatch.setattr(stages.Bounds, "run", noted)
    chain = ["ibp", "crown-ibp"]
    result = certify(model, x, y, REGION, chain, batch_size=8)
    open_ = np.isin(result.verdict, ("verified", "unknown"))
    for name in chain:
        assert sum(seen[name]) == open_.sum()
        assert all(count == 8 for count in seen[name][:-1])
        open_ &= ~((result.verdict == "verified") & (result.method == name))


def test_one_shape_for_each_stage(digits):
    _, x, y = digits
    model = keras.models.clone_model(support.trained())
    model.set_weights(support.trained().get_weights())
    certify(model, x, y, REGION, ["ibp", "crown-ibp"], batch_size=16)
    before = tfcert.bounds.api.trace_count(model)
    assert before == 2
    certify(model, x[:57], y[:57], REGION.with_eps(0.03), ["ibp", "crown-ibp"], batch_size=16)
    assert tfcert.bounds.api.trace_count(model) == before


@pytest.mark.parametrize(
    "region",
    [
        pytest.param(tfcert.LpBall(0.3, norm=2), marks=pytest.mark.slow),
        pytest.param(tfcert.LpBall(0.9, norm=1, clip=(0.0, 1.0)), marks=pytest.mark.slow),
        tfcert.LpBall(1.0, clip=(0.0, 1.0)).with_eps(np.linspace(0.0, 0.2, 30)),
        pytest.param(
            tfcert.LpBall(np.linspace(0.0, 0.06, 64).reshape(8, 8, 1)), marks=pytest.mark.slow
        ),
        "box",
        "box of each",
    ],
    ids=lambda region: region if isinstance(region, str) else repr(region)[:30],
)
def test_regions(region, digits):
    model, x, y = digits
    x, y = x[:30], y[:30]
    if region == "box":
        region = tfcert.Box(-0.05, 1.05).scaled(0.06)
    if region == "box of each":
        region = tfcert.Box(x - 0.06, x + 0.01)
    result = certify(model, x, y, region, ["ibp", "crown-ibp"], batch_size=8)
    assert {"verified", "falsified"} <= set(result.verdict)
    for method in ("ibp", "crown-ibp"):
        margins = ops.convert_to_numpy(tfcert.bound_margins(model, x, y, region, method))
        least = np.where(np.arange(10) == y[:, None], np.inf, margins).min(axis=1)
        verified = result.verdict == "verified"
        assert (verified[(least > 1e-6)]).all()
        same = verified & (result.method == method)
        assert result.margin[same] == pytest.approx(least[same], abs=1e-5)
    found = np.flatnonzero(result.verdict == "falsified")
    points = np.stack([result.counterexamples[place] for place in found])
    assert region.select(found, x).contains(points, x[found]).all()


def test_sizes_of_single_samples_are_their_own(digits):
    model, x, y = digits
    x, y = x[:40], y[:40]
    eps = np.where(np.arange(40) % 2, 0.02, 0.08)
    mixed = certify(model, x, y, REGION.with_eps(eps), "crown-ibp", batch_size=8)
    for one in (0.02, 0.08):
        alone = certify(model, x, y, REGION.with_eps(one), "crown-ibp", batch_size=8)
        assert (mixed.verdict == alone.verdict)[eps == one].all()
    assert set(mixed.verdict[eps == 0.02]) != set(mixed.verdict[eps == 0.08])


@pytest.mark.slow
def test_softmax_is_left_out(digits):
    _, x, y = digits
    x, y = x[:40], y[:40]
    plain = certify(support.nearest_mean(), x, y, REGION, "crown-ibp")
    model = support.nearest_mean(softmax=True)
    result = certify(model, x, y, REGION, "crown-ibp")
    assert (result.verdict == plain.verdict).all()
    proved = plain.verdict == "verified"
    assert result.margin[proved] == pytest.approx(plain.margin[proved], abs=1e-5)
    inner, inputs = support.nearest_mean(), keras.Input((8, 8, 1))
    for outputs in (
        keras.layers.Softmax()(inner(inputs)),
        keras.layers.Activation("softmax")(inner(inputs)),
        model(inputs),
    ):
        nested = certify(keras.Model(inputs, outputs), x, y, REGION, "crown-ibp")
        assert (nested.verdict == plain.verdict).all()


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_output_is_a_binary_classifier(activation):
    x = np.float32([[1, 0], [0.15, 0], [0, 0.5], [0, 0.5]])
    model = support.line(outputs=1, activation=activation)
    result = certify(model, x, np.array([1, 1, 1, 0]), tfcert.LpBall(0.1))
    assert result.verdict.tolist() == ["verified", "falsified", "misclassified", "verified"]
    assert result.predict.tolist() == [1, 1, 0, 0]
    assert result.margin[[0, 3]] == pytest.approx([0.8, 0.3], abs=1e-6)
    assert float(model(result.counterexamples[1][None])[0, 0]) <= (0.5 if activation else 0.0)


def test_weights_are_read_anew():
    x, region = np.float32([[1, 0]]), tfcert.LpBall(0.1)
    for activation in (None, "softmax"):
        model = support.line(activation=activation)
        assert certify(model, x, [0], region, "ibp").verdict[0] == "verified"
        model.layers[0].set_weights([np.zeros((2, 2)), np.zeros(2)])
        assert certify(model, x, [0], region, "ibp").verdict[0] != "verified"


def test_methods_as_given(digits):
    model, x, y = digits
    x, y = x[:30], y[:30]
    one = certify(model, x, y, REGION, method="crown-ibp", attack=None)
    assert set(one.method) <= {"crown-ibp", "none"} and "falsified" not in one.verdict
    several = certify(
        *(model, x, y, REGION, [methods.IBP(), methods.AlphaCrown(iterations=3), "crown-ibp"]),
        attack=None,
    )
    assert (one.verdict == "verified").sum() <= (several.verdict == "verified").sum()
    assert set(several.method) <= {"ibp", "alpha-crown", "crown-ibp", "none"}


def test_minus_infinity_goes_to_the_next_stage(monkeypatch, digits):
    model, x, y = digits
    bound = goals.least_margins

    def infinite(model, x, y, region, method, again):
        least = bound(model, x, y, region, method, again=again)
        return ops.full_like(least, -np.inf) if isinstance(method, methods.IBP) else least

    chain = ["ibp", "crown-ibp"]
    expected = certify(model, x[:20], y[:20], REGION, chain)
    monkeypatch.setattr(goals, "least_margins", infinite)
    result = certify(model, x[:20], y[:20], REGION, chain)
    assert (result.verdict == expected.verdict).all()
    result = certify(model, x[:20], y[:20], REGION, "ibp", attack=None)
    assert set(result.verdict) <= {"unknown", "misclassified"}
    assert (result.margin[result.verdict == "unknown"] == -np.inf).all()
    assert set(result.method) == {"none"}


def test_without_time_all_is_unknown(digits):
    model, x, y = digits
    result = certify(model, x, y, REGION, time_limit=1e-9)
    right = classes(model, x) == y
    assert (result.verdict == np.where(right, "unknown", "misclassified")).all()
    assert (result.predict == classes(model, x)).all()
    assert (result.margin[right] == -np.inf).all()


def test_time_for_each_input(digits, monkeypatch):
    model, x, y = digits
    clock = [0.0]
    run = stages.Bounds.run

    def slow(self, places):
        clock[0] += len(places) * {"ibp": 0.1, "crown-ibp": 1.0, "crown": 10.0}[self.name]
        run(self, places)

    monkeypatch.setattr(stages.Bounds, "run", slow)
    monkeypatch.setattr(cascade.time, "perf_counter", lambda: clock[0])
    chain = ["ibp", "crown-ibp", "crown"]
    result = certify(
        model, x, y, REGION, chain, attack=None, batch_size=10, time_limit_per_input=5.0
    )
    # The first batch shows what CROWN costs; no other input gets it.
    late = result.seconds > 5
    assert 0 < late.sum() <= 10
    assert result.seconds[~late].max() == pytest.approx(1.1)
    assert {"crown-ibp"} <= set(result.method[result.verdict == "verified"])


def test_limits():
    limits = cascade.Limits(per_input=5.0, whole=None, spent=0.0)
    stage, free = stages.Stage(None, None, 1), stages.Stage(None, None, 1)
    free.limited = False
    assert limits.allow(stage, 4.9) and not limits.allow(stage, 5.0) and limits.allow(free, 9.0)
    limits.note(stage, 60.0)  # With compilation.
    assert not limits.allow(stage, 0.0)
    limits.note(stage, 2.0)
    assert limits.allow(stage, 2.9) and not limits.allow(stage, 3.0)
    assert not cascade.Limits(None, 10.0, spent=10.5).allow(stage, 0.0)
    assert cascade.Limits(None, 10.0, spent=9.0).allow(stage, 0.0)


@pytest.mark.parametrize(
    ("objective", "bound"),
    [
        (objectives.IBP(REGION), "ibp"),
        pytest.param(objectives.CrownIBP(REGION), "ibp", marks=pytest.mark.slow),
        pytest.param(
            objectives.CrownIBP(REGION, backward_weight=1.0), "crown-ibp", marks=pytest.mark.slow
        ),
        (objectives.AdversarialTraining(REGION, steps=1), None),
        (objectives.Standard(REGION), None),
    ],
)
def test_models_remember_their_bounds(objective, bound, tmp_path, digits):
    _, x, y = digits
    model = support.nearest_mean()
    trainer = tfcert.CertifiedTrainer(model, objective, verified_share=0.0)
    trainer.compile(keras.optimizers.Adam(0.0))
    trainer.fit(x[:8], y[:8], batch_size=8, verbose=0)
    model.save(tmp_path / "first.keras")
    plain = keras.models.load_model(tmp_path / "first.keras")  # as without tfcert
    plain.save(tmp_path / "second.keras")
    model = keras.models.clone_model(keras.models.load_model(tmp_path / "second.keras"))
    assert naming.trained_with(model) == bound
    assert model.name == ("digits" if bound is None else f"digits-trained-with-{bound}")


def test_marks_replace_each_other():
    model = support.nearest_mean()
    for method, name in (
        ("ibp", "digits-trained-with-ibp"),
        ("crown", "digits-trained-with-crown"),
    ):
        naming.mark(model, method)
        assert model.name == name
    naming.mark(model, None)
    assert model.name == "digits" and naming.trained_with(model) is None


def test_a_looser_method_than_in_training_is_said():
    model = support.line()
    x, y = np.float32([[1, 0]]), np.array([0])
    region = tfcert.LpBall(0.1)
    naming.mark(model, "crown-ibp")
    with pytest.warns(UserWarning, match="trained with crown-ibp bounds. ibp is looser"):
        certify(model, x, y, region, "ibp")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for method in ("crown-ibp", "crown", "auto", ["ibp", "crown"]):
            certify(model, x, y, region, method)
        naming.mark(model, "lines")
        certify(model, x, y, region, "ibp")


def test_attack_is_used_as_given(digits):
    model, x, y = digits
    weak = attacks.FGSM(tfcert.LpBall(1e-9))  # Its own region does not count.
    result = certify(model, x[:40], y[:40], REGION, "ibp", attack=weak)
    assert set(result.method[result.verdict == "falsified"]) == {"fgsm"}


def test_identity_of_models():
    one, other = support.nearest_mean(), support.nearest_mean(name="other")
    assert identity.of_model(one) == identity.of_model(other)
    assert identity.of_model(one) != identity.of_model(support.nearest_mean(softmax=True))
