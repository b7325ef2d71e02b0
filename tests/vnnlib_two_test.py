"""Version 2 of VNN-LIB: what it says in the words of version 1."""

import numpy as np
import pytest

import tfcert
from tfcert import interchange

NETWORK = """; A comment [with ( brackets
(vnnlib-version <2.0>)
(declare-network N
  (declare-input image float32 [1, 2,2])
  (declare-output scores real [ 2 ])
)
"""
BOX = "".join(
    f"(assert (>= image[0, {i // 2}, {i % 2}] -{i}.5)) (assert (<= image [0,{i // 2},{i % 2}] {i}))"
    for i in range(4)
)


def read(folder, text, head=NETWORK + BOX):
    path = folder / "property.vnnlib"
    path.write_text(head + text)
    return interchange.read_vnnlib(path)


def test_reads_entries_of_tensors(tmp_path):
    asked = read(
        tmp_path,
        """(assert (or (and (<= scores[0] scores[1]) (>= image[0,1,0] 0.5))
                       (<= (+ scores[0] (* 2.0 scores [1])) 3.0)))""",
    )
    assert (asked.inputs, asked.outputs, asked.file) == (4, 2, None)
    first, second = asked.cases
    np.testing.assert_array_equal(first.lower, [-0.5, -1.5, 0.5, -3.5])
    np.testing.assert_array_equal(second.lower, [-0.5, -1.5, -2.5, -3.5])
    np.testing.assert_array_equal(second.upper, [0, 1, 2, 3])
    np.testing.assert_array_equal(first.rows, [[-1, 1, 0]])
    np.testing.assert_array_equal(second.rows, [[-1, -2, 3]])


def test_says_what_the_same_property_says_in_version_1(tmp_path):
    old = tmp_path / "old.vnnlib"
    old.write_text(
        "(declare-const X_0 Real) (declare-const Y_0 Real) (assert (<= X_0 1)) (assert (>= X_0 1))"
        "(assert (>= Y_0 0.5))"
    )
    new = read(
        tmp_path,
        "(assert (== X[] 1.0)) (assert (>= Y 0.5))",
        "(vnnlib-version <2.0>) (declare-network f (declare-output Y Real []) "
        "(declare-input X Real []))",
    )
    (one,), (other,) = interchange.read_vnnlib(old).cases, new.cases
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_verify_takes_it(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((1, 2, 2)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(2, use_bias=False))
    model.layers[-1].set_weights([np.array([[1.0, 0.0]] + [[0.0, 0.0]] * 3)])
    # The first score is the first entry, which lies between -0.5 and 0.
    for limit, verdict in ((0.25, "holds"), (-0.25, "violated")):
        asked = read(tmp_path, f"(assert (>= scores[0] {limit}))")
        assert tfcert.verify(model, asked, time_limit=60).verdict == verdict


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("(assert (<= scores[2] 1))", ValueError, r"scores\[2\] must be an entry of scores"),
        ("(assert (<= image[0,0] 1))", ValueError, r"of shape \[1, 2, 2\]"),
        ("(assert (<= image 1))", ValueError, "must be an entry of image"),
        ("(assert (<= image[0,,0] 1))", ValueError, "with commas between them"),
        ("(assert (<= other[0] 1))", ValueError, "other is not declared"),
        ("(assert (!= scores[0] 1))", NotImplementedError, "Received: !="),
        ("(assert (< scores[0] 1))", NotImplementedError, "Received: <"),
        (NETWORK, NotImplementedError, "about one network. Received: also N"),
    ],
)
def test_refuses_conditions(tmp_path, text, kind, message):
    with pytest.raises(kind, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("<2.0>", "<3.0>", NotImplementedError, "Versions 1 and 2 .* Received: <3.0>"),
        ("float32", "int8", NotImplementedError, "one of real, Real, .*Received: int8"),
        ("[1, 2,2]", "", ValueError, "numbers in brackets. Received: float32"),
        ("[1, 2,2]", "[1, 0]", ValueError, "must have 1 to"),
        (
            "(declare-output",
            "(declare-hidden h real [2] x) (declare-output",
            NotImplementedError,
            "Received: declare-hidden",
        ),
        (
            "(declare-output",
            "(declare-input also real [1]) (declare-output",
            NotImplementedError,
            "one input and one output",
        ),
        ("  (declare-output scores real [ 2 ])", "", NotImplementedError, "Received: 1 tensors"),
        ("  (declare-output", "(()) (declare-output", ValueError, "no part of the declaration"),
    ],
)
def test_refuses_declarations(tmp_path, old, new, kind, message):
    assert old in NETWORK
    with pytest.raises(kind, match=message):
        read(tmp_path, BOX, NETWORK.replace(old, new))
