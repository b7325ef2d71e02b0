"""Properties in VNN-LIB's format: reading, proving, looking for counterexamples."""

import gzip
import re
import time

import keras
import numpy as np
import pytest

from tests import support
from tfcert import interchange

HEAD = """; A comment (with brackets
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
"""
BOX = "(assert (>= X_0 -1)) (assert (<= X_0 1.5)) (assert (<= X_1 2e-1)) (assert (>= X_1 .125))\n"


def read(folder, text, head=HEAD + BOX):
    path = folder / "property.vnnlib"
    path.write_text(head + text)
    return interchange.read_vnnlib(path)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("(<= Y_0 Y_1)", [-1, 1, 0]),
        ("(>= Y_0 Y_1)", [1, -1, 0]),
        ("(>= Y_0 3.5)", [1, 0, -3.5]),
        ("(<= Y_1 -2)", [0, -1, -2]),
        ("(<= 2 Y_1)", [0, 1, -2]),
        ("(<= (+ Y_0 Y_1 1) (- Y_1 (* 2 Y_0)))", [-3, 0, -1]),
        ("(>= (- Y_0) (- 3 Y_1 1))", [-1, 1, -2]),
        ("(>= (* Y_0 0.5) (* (- 2) Y_1))", [0.5, 2, 0]),
        ("(>= (* (+ 1 1) (+ Y_0 3)) 0)", [2, 0, 6]),
    ],
)
def test_reads_conditions(tmp_path, text, rows):
    (case,) = read(tmp_path, f"(assert {text})").cases
    np.testing.assert_array_equal(case.rows, [rows])
    np.testing.assert_array_equal(case.lower, [-1, 0.125])
    np.testing.assert_array_equal(case.upper, [1.5, 0.2])


def test_reads_cases(tmp_path):
    asked = read(
        tmp_path,
        """(set-logic QF_LRA) (assert (>= Y_0 0))
        (assert (or (and (>= X_0 1) (<= Y_0 4) (<= Y_1 5)) (<= Y_1 6) (and (<= X_0 -2) (<= Y_1 7))))
        (check-sat)""",
    )
    assert (asked.inputs, asked.outputs) == (2, 2)
    first, second = asked.cases  # The third box is empty.
    np.testing.assert_array_equal(first.lower, [1, 0.125])
    np.testing.assert_array_equal(first.rows, [[1, 0, 0], [-1, 0, 4], [0, -1, 5]])
    np.testing.assert_array_equal(second.lower, [-1, 0.125])
    np.testing.assert_array_equal(second.rows, [[1, 0, 0], [0, -1, 6]])
    # Every alternative of one "or" with every one of another.
    both = "(assert (or (<= Y_0 1) (<= Y_0 2)))" * 3
    assert len(read(tmp_path, both).cases) == 8
    nested = "(assert (and (or (<= Y_0 1) (<= Y_0 2)) (or (<= Y_1 1) (or (<= Y_1 2) (<= Y_0 9)))))"
    assert len(read(tmp_path, nested).cases) == 6
    none = read(tmp_path, "(assert (<= X_0 -3))")
    assert none.cases == ()


def test_is_met(tmp_path):
    asked = read(tmp_path, "(assert (or (and (>= Y_0 1) (>= Y_1 1)) (<= Y_0 -1)))")
    inside, outside = [0, 0.15], [0, 0.3]
    points = [inside, inside, inside, inside, outside]
    outputs = [[1, 1], [1, 0.9], [-1, 0], [-0.5, 5], [2, 2]]
    np.testing.assert_array_equal(asked.is_met(points, outputs), [True, False, True, False, False])


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("(assert (< Y_0 1))", NotImplementedError, "must use <=, >=, and, or. Received: <"),
        ("(assert (not (<= Y_0 1)))", NotImplementedError, "Received: not"),
        ("(assert (<= X_0 X_1))", NotImplementedError, "this input alone with a number"),
        ("(assert (<= (* 2 X_0) 1))", NotImplementedError, "this input alone with a number"),
        ("(assert (<= X_0 Y_1))", NotImplementedError, "this input alone with a number"),
        ("(assert (<= (* Y_0 Y_1) 1))", NotImplementedError, r"not linear: \(\* Y_0 Y_1\)"),
        ("(assert (or (<= Y_0 1) (<= Y_0 2)))" * 17, NotImplementedError, "more than 100000 cases"),
        (
            f"(assert (and {'(or (<= Y_0 1) (<= Y_0 2))' * 17}))",
            NotImplementedError,
            "100000 cases",
        ),
        ("(assert (<= Y_0 1)", ValueError, "ends inside a bracket"),
        ("(assert (<= Y_0 1)))", ValueError, r"'\)' is outside all brackets"),
        ("assert", ValueError, "'assert' is outside all brackets"),
        ("(assert (<= Y_0))", ValueError, "not a condition"),
        ("(assert Y_0)", ValueError, "not a condition: Y_0"),
        ("(assert (or))", ValueError, "not a condition"),
        ("(assert (<= Y_0 1e999))", ValueError, "too large"),
        ("(assert (<= Y_0 nan))", ValueError, "X_i and Y_i. Received: 'nan'"),
        ("(assert (<= Y_2 1))", ValueError, "Y_2 is not declared"),
        ("(assert (<= 1 2))", ValueError, "no variable in"),
        ("(assert (<= Y_0 ()))", ValueError, "not a sum of variables"),
        ("(declare-const Z_0 Real)", ValueError, "Received: 'Z_0'"),
        ("(declare-const Y_3 Real)", ValueError, "without gaps"),
        ("(declare-const Y_2 Int)", ValueError, "neither a declaration nor an assertion"),
        ("(run x)", ValueError, "neither a declaration nor an assertion"),
        ("(" * 5000, ValueError, "64 brackets"),
    ],
)
def test_refuses_other_texts(tmp_path, text, kind, message):
    with pytest.raises(kind, match=f"property.vnnlib: .*{message}"):
        read(tmp_path, text)


def test_refuses_what_has_no_limits(tmp_path):
    with pytest.raises(ValueError, match="Input X_1 has no lower limit"):
        read(tmp_path, "(assert (>= X_0 1)) (assert (<= X_0 2))", HEAD)
    with pytest.raises(ValueError, match="no declaration of X_0"):
        read(tmp_path, "", "(declare-const Y_0 Real)")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="must be text"):
        interchange.read_vnnlib(tmp_path / "bytes")
    with pytest.raises(FileNotFoundError):
        interchange.read_vnnlib(tmp_path / "missing")


def test_gzip(tmp_path):
    path = tmp_path / "property.vnnlib.gz"
    path.write_bytes(gzip.compress((HEAD + BOX + "(assert (<= Y_0 Y_1))").encode()))
    assert len(interchange.read_vnnlib(path).cases) == 1


# Proving and searching.


def network(seed=0, inputs=2, outputs=2, dtype="float32"):
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((inputs,), dtype=dtype),
        keras.layers.Dense(8, activation="relu", dtype=dtype),
        keras.layers.Dense(outputs, dtype=dtype),
    ]
    return keras.Sequential(layers)


def random_property(generator, inputs=2, outputs=2):
    """Several boxes with several rows each, near what random networks give."""
    cases = []
    for _ in range(generator.integers(1, 4)):
        middle = generator.normal(size=inputs)
        radius = generator.uniform(0, 0.3, size=inputs)
        for _ in range(generator.integers(1, 3)):
            rows = generator.normal(size=(generator.integers(1, 4), outputs + 1))
            rows = rows.astype("float32").astype("float64")
            rows[:, -1] -= generator.uniform(0, 2)
            cases.append(interchange.Case(middle - radius, middle + radius, rows))
    return interchange.Property(inputs, outputs, tuple(cases))


@pytest.mark.slow
def test_proofs_and_counterexamples_never_contradict():
    generator = np.random.default_rng(0)
    proved = found = 0
    for trial in range(10):
        model = network(trial % 4)
        asked = random_property(generator)
        points = np.concatenate(
            [generator.uniform(c.lower, c.upper, size=(300, 2)) for c in asked.cases]
        )
        broken = asked.is_met(points, model(points.astype("float32"))).any()
        results = [interchange.prove(model, asked, method) for method in ("ibp", "crown")]
        example = interchange.find_counterexample(model, asked, steps=20, seed=trial)
        assert not (broken and any(results))
        assert example is not None or not broken
        if example is not None:
            assert not any(results)
            assert asked.is_met(example, model(example[None])).all()
            found += 1
        proved += results[1]
    assert proved >= 2 and found >= 2


def test_a_proof_by_hand(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.set_weights([np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.0, 0.0])])
    # Outputs are the inputs: Y_0 in [-1, 1.5], Y_1 in [0.125, 0.2].
    for text, proved in (
        ("(assert (>= Y_0 1.51))", True),
        ("(assert (>= Y_0 1.49))", False),
        ("(assert (<= Y_1 0.12))", True),
        ("(assert (>= Y_0 1)) (assert (>= Y_1 0.21))", True),  # One impossible row suffices,
        ("(assert (or (>= Y_0 1) (>= Y_1 0.21)))", False),  # of every case.
        ("(assert (or (>= Y_0 1.6) (>= Y_1 0.21)))", True),
        ("(assert (>= (- Y_0 Y_1) 1.376))", True),  # More than bounds of both outputs would tell.
        ("(assert (>= (- Y_0 Y_1) 1.374))", False),
        ("", False),  # No condition on outputs: every input is a counterexample.
        ("(assert (<= X_0 -2))", True),
    ):
        asked = read(tmp_path, text)
        assert interchange.prove(model, asked, "crown") == proved, text
        if len(text) < 30:  # Each search is compiled anew.
            assert (interchange.find_counterexample(model, asked) is None) == proved, text


def test_classes_areattacked_as_they_are():
    from tfcert.interchange import properties

    model = network(outputs=3)

    def asked(rows):
        limits = np.zeros(2), np.ones(2)
        return [interchange.Case(*limits, np.array([row], float)) for row in rows]

    rows = [[1, -1, 0, 0], [0, -1, 1, 0]]
    assert properties.attacked(model, asked(rows)) == (model, 1)
    assert properties.attacked(model, asked(rows[::-1])) == (model, 1)
    for other in (
        rows[:1],
        [rows[0], rows[0]],
        [rows[0], [0, -1, 1, -1]],
        [rows[0], [0, 1, -1, 0]],
    ):
        classifier, label = properties.attacked(model, asked(other))
        assert classifier is not model and label == 0
        x = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
        scores = np.asarray(classifier(x))
        values = np.asarray(model(x)) @ np.array(other)[:, :-1].T + np.array(other)[:, -1]
        assert scores.shape == (20, 1 + len(other)) and (scores[:, 0] == 0).all()
        np.testing.assert_array_equal(scores[:, 1:] > 0, values > 0)


def test_refuses_what_does_not_fit():
    case = interchange.Case(np.zeros(2), np.ones(2), np.array([[1.0, 0.0, 0.0]]))
    asked = interchange.Property(2, 2, (case,))
    with pytest.raises(ValueError, match="2 inputs and 2 outputs. Received: a model with 3"):
        interchange.prove(network(inputs=3), asked)
    with pytest.raises(ValueError, match="one output of shape"):
        interchange.prove(
            keras.Sequential([keras.Input((2,)), keras.layers.Reshape((2, 1))]), asked
        )
    with pytest.raises(ValueError, match="starts=0"):
        interchange.find_counterexample(network(), asked, starts=0)
    with pytest.raises(ValueError, match='"apgd" or "ensemble". Received: attack=\'pgd\''):
        interchange.find_counterexample(network(), asked, attack="pgd")
    with pytest.raises(ValueError, match="`time_limit` must be > 0. Received: time_limit=0"):
        interchange.find_counterexample(network(), asked, time_limit=0)
    odd = asked._replace(cases=(case._replace(rows=np.array([[0.1, 0.0, 0.0]])),))
    with pytest.raises(NotImplementedError, match="no float32 number"):
        interchange.prove(network(), odd)
    interchange.prove(network(dtype="float64"), odd)


def hidden():
    """Class 1 is ahead of class 2 nearly everywhere, but never wins; class 2 can."""
    inputs = keras.Input((2,))
    first = keras.layers.Dense(2, use_bias=False, name="split")(inputs)
    near = keras.ops.minimum(2.9 + first[:, :1], 2.95)
    scores = [3.0 + 0.0 * first[:, :1], near, 1.0 - 2.2 * first[:, 1:]]
    model = keras.Model(inputs, keras.ops.concatenate(scores, 1))
    model.get_layer("split").set_weights([np.eye(2)])
    return model


@pytest.mark.parametrize("rows", ["classes", "cases"])
def test_the_ensemble_tries_every_case(rows):
    model, limits = hidden(), (-np.ones(2), np.ones(2))
    given = [[-1.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 1.0, 0.0]]
    if rows == "cases":
        given[1] = [0.0, 0.0, 1.0, -3.0]
    cases = [interchange.Case(*limits, np.array([row])) for row in given]
    asked = interchange.Property(2, 3, tuple(cases))
    assert interchange.find_counterexample(model, asked, 10, 1) is None
    point = interchange.find_counterexample(model, asked, 10, 1, attack="ensemble")
    assert asked.is_met(point, model(point[None])).all()
    # As does time for more starts.
    point = interchange.find_counterexample(model, asked, 10, 8, time_limit=60.0)
    assert asked.is_met(point, model(point[None])).all()


def test_time_ends_a_search():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.set_weights([np.eye(2), np.zeros(2)])
    rows = np.array([[1.0, 0.0, -9.0]])  # Y_0 reaches 9: in none of the boxes
    boxes = [(np.zeros(2), np.full(2, top)) for top in (1.0, 2.0)]
    asked = interchange.Property(2, 2, tuple(interchange.Case(*box, rows) for box in boxes))
    begin = time.monotonic()
    assert interchange.find_counterexample(model, asked, attack="ensemble", time_limit=2.0) is None
    assert 1.9 < time.monotonic() - begin < 30.0
    # The second box has time left, too.
    high = asked.cases[1]._replace(rows=np.array([[1.0, 0.0, -1.5]]))
    point = interchange.find_counterexample(
        model, asked._replace(cases=(asked.cases[0], high)), time_limit=8.0
    )
    assert 1.5 <= point[0] <= 2.0


def test_boxes_of_images(tmp_path):
    model = keras.Sequential([keras.Input((2, 1, 1)), keras.layers.Flatten()])
    asked = read(tmp_path, "(assert (>= Y_0 1.4)) (assert (<= Y_1 0.15))")
    example = interchange.find_counterexample(model, asked)
    assert example.shape == (2, 1, 1)
    assert 1.4 <= example[0, 0, 0] <= 1.5 and 0.125 <= example[1, 0, 0] <= 0.15
    assert not interchange.prove(model, asked)


def test_properties_of_the_competition():
    from tfcert.interchange import properties

    paths = sorted(support.shared_path("vnncomp").glob("*/vnnlib/*.vnnlib.gz"))
    assert len(paths) == 42
    for path in paths:
        asked = interchange.read_vnnlib(path)
        if path.parts[-3] == "acasxu":
            assert (asked.inputs, asked.outputs) == (5, 5)
            (case,) = asked.cases
            assert len(case.rows) == (1 if "prop_1" in path.name else 4)
            continue
        assert (asked.inputs, asked.outputs) == (784 if "mnist" in str(path) else 3072, 10)
        label = properties.label_of(list(asked.cases), 10)
        stated = re.search(rb"(label|of class|class):? (\d)", gzip.decompress(path.read_bytes()))
        assert label is not None and (stated is None or int(stated[2]) == label)
