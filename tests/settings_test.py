"""Settings that objectives share: signatures, configurations of older versions, weights."""

import inspect
import json
import pathlib
import warnings

import keras
import pytest

from tests import training_support as ts
from tfcert import objectives, schedules

_CONFIGURATIONS = pathlib.Path(__file__).parent / "data" / "objective_configurations.json"
KNOWN = json.loads(_CONFIGURATIONS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", KNOWN)
def test_configurations_of_the_first_version_are_read(name):
    objective = keras.saving.deserialize_keras_object(KNOWN[name])
    assert type(objective).__name__ == KNOWN[name]["class_name"]
    again = json.loads(json.dumps(keras.saving.serialize_keras_object(objective)))
    # Later versions may have more arguments.
    known = KNOWN[name]
    assert again == {**known, "config": {**again["config"], **known["config"]}}
    assert set(again["config"]) - set(known["config"]) <= {"mean_over"}


class Wider(objectives.MAAR):
    """An objective of a user, which hands arguments on."""

    def __init__(self, region, width=0.1, **options):
        super().__init__(region, **options)
        self.width = width


def test_signatures_name_the_arguments_that_are_handed_on():
    names = list(inspect.signature(objectives.FusedCrownIBP).parameters)
    shared = ["slope", "regularizer", "tolerance", "train_eps", "ramp", "validation_method"]
    shared += ["property", "natural_loss", "property_scale"]
    assert names == ["region", "natural_weight", "backward_weight", *shared]
    wider = inspect.signature(Wider).parameters
    assert {"width", "weight", "detach", *shared} < set(wider)
    assert wider["ramp"].default == 1.0
    assert wider["ramp"].kind == inspect.Parameter.KEYWORD_ONLY
    assert "natural_weight" not in inspect.signature(objectives.AdvIBP).parameters
    with pytest.raises(TypeError, match="natural_weight"):
        objectives.AdvIBP(ts.REGION, natural_weight=0.5)
    with pytest.raises(TypeError, match="ramps"):
        objectives.IBP(ts.REGION, ramps=(0, 1))


@pytest.mark.parametrize("make", [objectives.IBP, objectives.MAAR, objectives.AdversarialTraining])
def test_a_warning_points_at_the_code_that_makes_the_objective(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(ts.REGION, ramp=schedules.Constant(0.5))
    assert [warning.filename for warning in caught] == [__file__]


def test_a_pair_needs_a_radius():
    with pytest.raises(ValueError, match=r"`weight` must be a number or a schedule.*\(1.0, 2.0\)"):
        objectives.StabilitySmoothing(0.1, weight=(1.0, 2.0))
    objective = objectives.StabilitySmoothing(0.1, weight=schedules.Linear(0.0, 3.0, 0, 2))
    assert float(objective.weight("weight", schedules.Clock(1, 1))) == pytest.approx(1.5)


def test_settings_are_one_object():
    objective = objectives.CrownIBP(
        ts.REGION, train_eps=0.2, ramp=(0, 2), validation_method="crown"
    )
    settings = objective.settings
    assert settings.region is objective.region is ts.REGION
    assert settings.train_region.eps == objective.train_region.eps == 0.2
    assert settings.ramp is objective.ramp and settings.weights is objective.weights
    assert settings.validation_method == objective.validation_method == "crown"
    assert set(settings.weights) == {"natural_weight", "backward_weight"}
    half, last = schedules.Clock(1, 1), schedules.Clock(1, 1, final=True)
    assert float(settings.region_at(half).eps) == pytest.approx(0.1)
    assert settings.region_at(last) is ts.REGION
