"""Schedules: values by hand, ends reached exactly, units, configuration, errors."""

import keras
import numpy as np
import pytest

from tfcert import schedules
from tfcert.schedules import Clock


def at(schedule, epoch, steps_per_epoch=10):
    clock = Clock(step=np.int32(round(epoch * steps_per_epoch)), steps_per_epoch=steps_per_epoch)
    return float(schedule(clock))


CASES = {
    "constant": (schedules.Constant(0.3), {0: 0.3, 5: 0.3}),
    "linear": (schedules.Linear(1.0, 0.5, 2, 4), {0: 1.0, 2: 1.0, 3: 0.75, 4: 0.5, 9: 0.5}),
    "steps": (schedules.Linear(0.0, 1.0, 10, 30, unit="steps"), {1: 0.0, 2: 0.5, 3: 1.0, 7: 1.0}),
    "exponential": (schedules.Exponential(8.0, 1000.0, 0, 2), {0: 8.0, 1: 8000**0.5, 2: 1000.0}),
    "cosine": (schedules.Cosine(1.0, 0.0, 0, 4), {0: 1.0, 2: 0.5, 4: 0.0, 1: 0.5 + 0.125**0.5}),
    "piecewise": (schedules.Piecewise([1, 3], [5.0, 6.0, 7.0]), {0: 5, 0.9: 5, 1: 6, 3: 7, 8: 7}),
    "jump": (schedules.Linear(0.0, 1.0, 3, 3), {2.9: 0.0, 3: 1.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name):
    schedule, expected = CASES[name]
    for epoch, value in expected.items():
        np.testing.assert_allclose(at(schedule, epoch), value, rtol=1e-6, atol=1e-7)
    assert float(schedule(Clock(0, 10, final=True))) == np.float32(schedule.last)


@pytest.mark.parametrize("name", CASES)
def test_configuration(name):
    schedule = CASES[name][0]
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert schedules.get(config) == schedule


def test_smoothed_is_continuous_with_its_slope():
    begin, end, last = 1.0, 9.0, 0.4
    schedule = schedules.Smoothed(0.0, last, begin, end)
    middle = begin + 0.25 * (end - begin)
    a = last / (4 * (end - middle) * (middle - begin) ** 3 + (middle - begin) ** 4)
    for epoch in (1.5, 2.5, 2.9):
        np.testing.assert_allclose(at(schedule, epoch), a * (epoch - begin) ** 4, rtol=1e-5)
    slope = 4 * a * (middle - begin) ** 3
    for epoch in (3.5, 6.0, 8.0):
        expected = a * (middle - begin) ** 4 + slope * (epoch - middle)
        np.testing.assert_allclose(at(schedule, epoch), expected, rtol=1e-5)
    assert at(schedule, end) == np.float32(last)
    steep = np.diff([at(schedule, e, 1000) for e in np.linspace(middle - 0.02, middle + 0.02, 5)])
    np.testing.assert_allclose(steep, slope * 0.01, rtol=0.03)


def test_an_end_is_reached_exactly():
    # 0.7 + (0.1 - 0.7) * 1 is not float32(0.1).
    assert at(schedules.Linear(0.7, 0.1, 0, 3), 3) == np.float32(0.1)
    assert at(schedules.Exponential(0.05, 0.0002, 0, 3), 3) == np.float32(0.0002)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: schedules.Linear(0, 1, 3, 2), "`begin` must be at least 0 and not after `end`"),
        (lambda: schedules.Linear(0, 1, -1, 2), "begin=-1"),
        (lambda: schedules.Linear(0, 1, 0, 2, unit="days"), "`unit` must be one of"),
        (lambda: schedules.Linear(0, float("nan"), 0, 2), "`last` must be finite"),
        (lambda: schedules.Linear("a", 1, 0, 2), "`first` must be a number. Received: first='a'"),
        (lambda: schedules.Constant([1, 2]), "`value` must be a number"),
        (lambda: schedules.Exponential(0, 1, 0, 2), "must be > 0"),
        (lambda: schedules.Piecewise([2, 1], [0, 1, 2]), "`boundaries` must increase"),
        (lambda: schedules.Piecewise([1], [0]), "one entry more"),
        (lambda: schedules.Smoothed(0, 1, 0, 2, middle=0.0), "`middle` must lie in"),
        (lambda: schedules.get("soon"), "A number or a schedule"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()
