"""What objects show of themselves: objectives, classifiers, results, a History, progress."""

import io
import sys

import keras
import matplotlib
import numpy as np
import pytest

from tests import certification_showing_test, report_support
from tfcert import Box, LpBall, objectives, reporting, schedules, smoothing
from tfcert.runs import progress

REGION = LpBall(0.1, clip=(0.0, 1.0))
_NAMES = {
    **{name: getattr(objectives, name) for name in objectives.__all__},
    **{name: getattr(schedules, name) for name in schedules.__all__},
    **{name: getattr(smoothing, name) for name in ("Gaussian", "Laplace", "Uniform")},
    **{"LpBall": LpBall, "Box": Box},
}

OBJECTIVES = [
    objectives.Standard(),
    objectives.IBP(REGION),
    objectives.IBP(REGION, 0.3, train_eps=0.2, ramp=(1, 10), regularizer=0.5),
    objectives.SABR(REGION, 0.9, validation_method="crown"),
    objectives.CrownIBP(REGION, ramp=schedules.Smoothed(0.0, 1.0, 0, 10), slope="same"),
    objectives.MAAR(REGION, detach=("clean", "weight"), backward_weight=0.0),
    objectives.AdvIBP(REGION, ramp=(3, 8), attack_ramp=(1, 3), stage=2),
    objectives.TightRelaxation(REGION, 0.0, (0.0, 1.0), reduction="sum"),
    objectives.MTLIBP(REGION, 0.02, attack_scale=1.5),
    objectives.LInfDistance(LpBall(0.1), exponents=(8.0, 100.0)),
    objectives.AdversarialTraining(REGION, steps=3),
    objectives.GaussianSmoothing(0.25),
    objectives.MACER(0.5, copies=4),
    objectives.ConsistencySmoothing(None, noise=smoothing.Laplace(0.5), form="kl"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: type(each).__name__)
def test_an_objective_prints_the_code_that_makes_it(objective):
    again = eval(repr(objective), {"inf": np.inf}, _NAMES)
    assert again.get_config() == objective.get_config()


def test_settings_that_are_the_default_are_left_out():
    ball = 'LpBall(eps=0.1, norm="inf", clip=(0.0, 1.0))'
    assert repr(objectives.IBP(REGION)) == f"IBP({ball})"
    shown = repr(objectives.SABR(REGION, 0.9, train_eps=0.2))
    assert shown == f"SABR({ball}, ratio=0.9, train_eps=0.2)"
    assert repr(objectives.GaussianSmoothing(0.25)) == "GaussianSmoothing(sigma=0.25)"


def test_a_smoothed_classifier_names_its_model_and_its_noise():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="small")
    found = repr(smoothing.SmoothedClassifier(model, sigma=0.25))
    assert found.startswith("SmoothedClassifier(<Sequential name=small")
    assert found.endswith(", noise=Gaussian(scale=0.25))")
    assert "batch_size=500" in repr(smoothing.SmoothedClassifier(model, 0.25, batch_size=500))


def test_results_are_one_line(tmp_path):
    result = certification_showing_test.result()
    counts = ", ".join(f"{count} {name}" for name, count in result.counts().items())
    assert repr(result) == f"<Certificates of {len(result)} inputs: {counts}>"
    assert sum(result.counts().values()) == len(result)
    entries = reporting.read(report_support.smoothing_log(tmp_path / "a.tsv", 0))
    assert repr(entries).startswith("<Entries a: 60 inputs of a smoothing log, ")


# A History.

_HISTORY = {
    "loss": [2.0, 1.0],
    "natural": [1.5, 0.5],
    "accuracy": [0.5, 0.8],
    "eps": [0.05, 0.1],
    "val_loss": [2.0, 1.5],
    "val_accuracy": [0.6, 0.7],
    "val_verified_accuracy": [0.1, 0.4],
}


def test_a_history_is_drawn():
    matplotlib.use("Agg")
    shares, losses, radius = reporting.plot_history(_HISTORY)
    drawn = {line.get_label(): line.get_ydata().tolist() for line in shares.lines}
    assert drawn["right"] == [0.6, 0.7] and drawn["verified"] == [0.1, 0.4]
    assert [0.5, 0.8] in drawn.values()  # While training.
    assert [line.get_label() for line in losses.lines] == ["loss", "natural"]
    assert [line.get_ydata().tolist() for line in radius.lines] == [[0.05, 0.1]]
    history = keras.callbacks.History()
    history.history = {"loss": [1.0], "accuracy": [0.5]}
    again = reporting.plot_history(history, [shares, losses, radius])
    assert again[0] is shares and len(shares.lines) == 4
    with pytest.raises(ValueError, match="`history` must be what fit returns"):
        reporting.plot_history(3)


# Progress.


class _Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


class _Cell(_Stream):
    """The stream of a notebook's kernel."""

    __module__ = "ipykernel.iostream"


@pytest.mark.parametrize(
    ("stream", "shown"), [(_Stream(True), True), (_Cell(False), True), (_Stream(False), False)]
)
def test_progress_is_shown_where_somebody_watches(stream, shown, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    assert progress.wanted("auto") == shown
    assert progress.wanted(1) and not progress.wanted(0)
    bar = progress.Progress(1, 0, dict, "auto")
    bar.add(1)
    bar.close()
    assert ("1/1" in stream.getvalue()) == shown
