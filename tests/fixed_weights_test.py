"""Every objective trains a small network to the weights that it had when they were written down."""

import keras
import numpy as np
import pytest

from tests import fixed_weights, support

if keras.backend.backend() != "tensorflow":
    pytest.skip("the numbers are those of TensorFlow's generators", allow_module_level=True)


@pytest.fixture(scope="module")
def known():
    with np.load(fixed_weights.PATH) as file:
        return dict(file)


# One objective of each kind in `make test`.
_QUICK = ("ibp", "crown_ibp", "maar", "advibp", "tight", "sabr", "taps")


@pytest.mark.parametrize("name", support.slow_except(_QUICK.__contains__, fixed_weights.CASES))
def test_weights_after_25_steps(name, known):
    found = fixed_weights.trained(name)
    expected = {
        key.removeprefix(f"{name}/"): value
        for key, value in known.items()
        if key.startswith(f"{name}/")
    }
    assert set(found) == set(expected)
    for key, value in expected.items():
        # Rounding adds up more in the History, in sums over samples.
        limit = 1e-6 if key == "weights" else 1e-5
        np.testing.assert_allclose(found[key], value, rtol=limit, atol=limit, err_msg=key)


def test_every_objective_has_a_case():
    kinds = {type(make()) for make, _ in fixed_weights.CASES.values()}
    public = [getattr(fixed_weights.objectives, n) for n in fixed_weights.objectives.__all__]
    bases = {fixed_weights.objectives.Objective, fixed_weights.objectives.RobustObjective}
    wanted = {
        kind
        for kind in public
        if isinstance(kind, type) and issubclass(kind, fixed_weights.objectives.Objective)
    }
    assert kinds == wanted - bases
