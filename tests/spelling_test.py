"""Names in other spellings, and sizes in other units than the inputs have."""

import doctest
import math
import warnings

import numpy as np
import pytest

import tfcert
from tests import certification_support
from tfcert import names
from tfcert.bounds import methods
from tfcert.regions import LpBall


def test_examples_of_names():
    assert doctest.testmod(names).failed == 0


@pytest.mark.parametrize(
    ("norm", "p"),
    [
        *(("linf", math.inf), ("Linf", math.inf), ("l_inf", math.inf), (np.inf, math.inf)),
        *(("infinity", math.inf), ("∞", math.inf), ("ℓ∞", math.inf), ("INF", math.inf)),
        *(("l2", 2.0), ("L2", 2.0), ("ℓ2", 2.0), ("l1", 1.0), ("l-1.5", 1.5), ("2", 2.0)),
    ],
)
def test_norms(norm, p):
    ball = LpBall(0.1, norm)
    assert ball.norm == p
    assert ball.get_config() == LpBall(0.1, p).get_config()


@pytest.mark.parametrize("norm", ["l", "l0", "l0.5", "linfty2", "two", "", "ll2", "l2l"])
def test_texts_that_are_no_norms(norm):
    with pytest.raises(ValueError, match="`norm` must be .inf. or a number from 1 on. Received"):
        LpBall(0.1, norm)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CROWN", methods.Crown),
        ("crown_ibp", methods.CrownIBP),
        ("CROWN-IBP", methods.CrownIBP),
        ("CrownIBP", methods.CrownIBP),
        ("α-CROWN", methods.AlphaCrown),
        ("AlphaCrown", methods.AlphaCrown),
        ("fast_lin", methods.FastLin),
        ("IBP", methods.IBP),
        ("Lipschitz", methods.Lipschitz),
    ],
)
def test_methods(name, kind):
    assert methods.get(name) == kind()


def test_a_registered_name_comes_before_another_spelling():
    @tfcert.methods.register("CROWN_ibp")
    class Other(methods.IBP):
        pass

    try:
        assert type(methods.get("CROWN_ibp")) is Other
        assert type(methods.get("crown-ibp")) is methods.CrownIBP
    finally:
        del tfcert.bounds.method._NAMED["CROWN_ibp"]


def test_a_misspelt_method_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"Received: method='crwon'\. Did you mean 'crown'\?"):
        methods.get("crwon")
    with pytest.raises(ValueError, match=r"Received: method='zonotope'\.$"):
        methods.get("zonotope")
    with pytest.raises(ValueError, match=r"Received: method=3\.$"):
        methods.get(3)


def test_certify_takes_them():
    model = certification_support.trained()
    _, (x, y) = tfcert.datasets.load("digits")
    found = [
        tfcert.certify(model, x[:8], y[:8], LpBall(0.02, norm), method, attack=None, self_check=0.0)
        for norm, method in ((np.inf, ["ibp", "crown-ibp"]), ("linf", ["IBP", "CROWN_IBP"]))
    ]
    assert found[0].verdict.tolist() == found[1].verdict.tolist()
    assert found[0].method.tolist() == found[1].method.tolist()
    with pytest.raises(ValueError, match="`method` must be one of"):
        tfcert.certify(model, x[:8], y[:8], LpBall(0.02), "best")


@pytest.mark.parametrize(
    ("eps", "clip", "message"),
    [
        (8, (0, 1), r"Received: eps=8.0, clip=\(0.0, 1.0\)\. Did you mean 8/255\?$"),
        (1.01, (0, 1), r"Did you mean 1.01/255\?$"),
        (300, (0, 1), r"clip=\(0.0, 1.0\)\.$"),
        (8, (-1, 1), r"Did you mean 2 \* 8/255\?$"),
        ([8.0, 16.0], (0, 1), r"Did you mean 16/255\?$"),
        (8, ([-2.0, -1.0], [2.0, 1.0]), r"clip=\(\[-2.0, -1.0\], \[2.0, 1.0\]\)\.$"),
    ],
)
def test_a_size_beyond_the_range_of_inputs_is_refused(eps, clip, message):
    with pytest.raises(ValueError, match="`eps` must not be larger than the range of `clip`.*"):
        LpBall(eps, clip=clip)
    with pytest.raises(ValueError, match=message):
        LpBall(eps, clip=clip)


@pytest.mark.parametrize(
    ("eps", "norm", "clip"),
    [
        (8, "inf", None),
        (8, "inf", (0, 255)),
        (8, 2, (0, 1)),
        (0.5, "inf", (0, 1)),
        (0.0, "inf", (0.3, 0.3)),
        (8, "inf", (-np.inf, np.inf)),
        ([0.1, 8.0], "inf", (0, 1)),  # A coordinate that may be anything.
        (0.1, "inf", ([0.0, 0.5], [1.0, 0.5])),  # A coordinate that is fixed.
    ],
)
def test_other_sizes_are_taken_in_silence(eps, norm, clip):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LpBall(eps, norm, clip)


def test_a_size_above_half_of_the_range_is_warned_of():
    with pytest.warns(UserWarning, match="more than half of the range of valid inputs") as caught:
        LpBall(0.6, clip=(0, 1))
    assert caught[0].filename == __file__


def test_another_size_of_the_same_region_is_checked_too():
    region = LpBall(0.1, clip=(0, 1))
    with pytest.raises(ValueError, match=r"Received: eps=8.0, .*Did you mean 8/255\?$"):
        region.with_eps(8)
    with pytest.warns(UserWarning, match="more than half") as caught:
        region.with_eps(0.75)
    assert caught[0].filename == __file__
    assert LpBall([0.1, 0.2], clip=(0, 1)).with_eps(0.4).eps.tolist() == [0.2, 0.4]
