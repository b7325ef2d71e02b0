"""Errors planted in the rules and methods: each makes a check fail that the tests rely on."""

from unittest import mock

import pytest

from tests import soundness, support
from tests.mutants import MUTANTS


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with soundness.eagerly():
        yield


# One of each room: rules, rows of windows, relaxations, methods, regions.
_QUICK = (
    "radius without absolute value",
    "window one entry off",
    "slope of ReLU's upper line",
    "bounds of other neurons",
    "norm in place of its dual",
)


@pytest.mark.parametrize("name", support.slow_except(_QUICK.__contains__, MUTANTS))
def test_planted_errors_are_found(name):
    mutant = MUTANTS[name]
    mutant.check()
    replacement = mutant.replace(getattr(mutant.owner, mutant.name))
    with mock.patch.object(mutant.owner, mutant.name, replacement), pytest.raises(AssertionError):
        mutant.check()
