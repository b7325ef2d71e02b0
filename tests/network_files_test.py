"""Files of networks and properties for the checker, written from Keras models."""

import json
from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
import tfcert_check
from tests import soundness
from tests.float_safe_support import NETWORKS, draw, draw_weights
from tfcert import proofs, properties
from tfcert.branching.asking import question_of
from tfcert.proofs.networks import agrees
from tfcert.proofs.values import values_of
from tfcert.properties.writing import write_problems
from tfcert_check.bounds import Enclosure


def images(*parts, shape=(6, 7, 3)):
    def builder():
        return keras.Sequential([keras.Input(shape), *[part() for part in parts]])

    return builder


def branches():
    i = keras.Input((5, 4, 2))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(i)
    x = layers.BatchNormalization(scale=False)(x)
    y = layers.Conv2D(4, (1, 2), padding="same", dilation_rate=2)(layers.LeakyReLU(0.25)(x))
    x = layers.ReLU()(layers.Add()([x, y, 2.0 * x]))
    x = layers.Concatenate()([x, layers.Cropping2D(((1, 0), (0, 0)))(layers.ZeroPadding2D(
        ((1, 0), (0, 0)))(y))])  # fmt: skip
    x = layers.Permute((3, 1, 2))(x)
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(x)) - 0.5)


def activations():
    i = keras.Input((6,))
    x = abs(layers.PReLU()(layers.Dense(5)(i)))
    x = layers.Maximum()([layers.ReLU(6.0, negative_slope=0.1)(3 * x), 1.0 - x])
    return keras.Model(i, layers.Dense(2, activation="hard_tanh")(layers.Average()([x, x - 1])))


CASES = {
    "dense": NETWORKS["mlp"],
    "normalised": NETWORKS["normalised"],
    "rows": images(
        lambda: layers.Dense(5, use_bias=False), layers.Flatten, lambda: layers.Dense(2)
    ),
    "convolutional": NETWORKS["convolutional"],
    "branches": branches,
    "activations": activations,
    "pools": images(
        lambda: layers.MaxPooling2D((2, 3), strides=1),
        lambda: layers.Conv2D(4, 2, use_bias=False),
        lambda: layers.AveragePooling2D(2, strides=1),
        lambda: layers.DepthwiseConv2D(2, depth_multiplier=2),
        layers.GlobalAveragePooling2D,
        lambda: layers.Dense(3),
    ),
    "groups": images(
        lambda: layers.Conv2D(4, (3, 2), strides=(2, 1), padding="same"),
        lambda: layers.Conv2D(6, 2, groups=2, activation="relu"),
        lambda: layers.GlobalMaxPooling2D(),
        lambda: layers.Dense(2),
    ),
    "sequence": images(
        lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu"),
        lambda: layers.Dense(4, activation="relu"),  # Each row by itself.
        lambda: layers.Conv1D(3, 2, strides=2),
        layers.GlobalAveragePooling1D,
        shape=(9, 2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_written_network_is_the_model(tmp_path, name):
    model, x = draw(CASES[name], 1)
    path = tmp_path / "net.npz"
    proofs.write_network(path, model)
    file = tfcert_check.read_network(path)
    found = values_of(file, x.reshape(len(x), -1).astype("float64"))[file.output]
    expected = ops.convert_to_numpy(model(x)).reshape(len(x), -1)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    # The intervals and rows of the checker hold for the values in between, too.
    rng = np.random.default_rng(0)
    points = x.reshape(len(x), 1, -1) + rng.uniform(-0.1, 0.1, (len(x), 50, x[0].size))
    lower, upper = points.min(axis=1), points.max(axis=1)
    enclosure = Enclosure(file, lower, upper)
    for i in range(len(x)):
        for (low, high), value in zip(enclosure.intervals, values_of(file, points[i]), strict=True):
            assert (low[min(i, len(low) - 1)] <= value + 1e-9).all()
            assert (value - 1e-9 <= high[min(i, len(high) - 1)]).all()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda: layers.Conv2D(3, 1, activation="tanh"), "applies 'tanh', which"),
        (lambda: layers.LayerNormalization(), "is made of"),
        (lambda: layers.UpSampling2D(2), "repeats entries"),
        (lambda: layers.MaxPooling2D(3, padding="same"), "reach over the edge"),
        (lambda: layers.Conv2DTranspose(2, 2), "is a map of a kind"),
    ],
)
def test_what_the_checker_does_not_know_is_refused_by_name(tmp_path, part, message):
    model = images(part, layers.Flatten, lambda: layers.Dense(2), shape=(4, 4, 2))()
    with pytest.raises(NotImplementedError, match=message):
        proofs.write_network(tmp_path / "net.npz", model)


def test_a_file_of_another_model_does_not_agree(tmp_path):
    model, _ = draw(NETWORKS["mlp"], 0)
    proofs.write_network(tmp_path / "net.npz", model)
    assert agrees(model, tmp_path / "net.npz")
    draw_weights(model, np.random.default_rng(1))
    assert not agrees(model, tmp_path / "net.npz")
    other, _ = draw(NETWORKS["convolutional"], 0)
    assert not agrees(other, tmp_path / "net.npz")


def small_file(path, **changes):
    """A network as someone else may write it, by the page about the format."""
    graph = {
        "input": "x",
        "shape": [1, 2],
        "calls": [["MatMul", ["x", "w"], "z", {}], ["Relu", ["z"], "y", {}]],
        "output": "y",
        **{name: value for name, value in changes.items() if name != "w"},
    }
    weights = {"w": changes.get("w", np.float32([[1.0, -2.0], [0.5, 3.0]]))}
    texts = {"format": "tfcert network 1", "graph": json.dumps(graph)}
    np.savez(path, **texts, **weights)
    return path


def test_a_network_that_others_write_is_read(tmp_path):
    file = tfcert_check.read_network(small_file(tmp_path / "net.npz"))
    assert values_of(file, np.array([[1.0, 2.0]]))[file.output].tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calls": [["Gelu", ["x"], "y", {}]]}, "operator Gelu is not supported"),
        ({"calls": [["Relu", ["x"], "y", {"alpha": 1}]]}, "unexpected keyword argument 'alpha'"),
        ({"calls": [["Relu", ["w"], "y", {}]]}, "constants alone"),
        ({"calls": [["Relu", ["x"], "w", {}]], "output": "w"}, "same name"),
        ({"calls": [["Relu", ["nothing"], "y", {}]]}, "which nothing has computed"),
        ({"shape": [2, 2]}, "batch of one"),
        ({"output": "w"}, "does not depend on its input"),
        ({"w": np.array([[np.nan], [1.0]])}, "not numbers"),
        ({"w": np.array([[1j], [1.0]])}, "weights of type"),
        ({"w": np.ones((3, 2))}, "a value of this size"),
    ],
)
def test_files_that_are_no_network_are_refused(tmp_path, changes, message):
    with pytest.raises((tfcert_check.Refused, ValueError), match=message):
        network = tfcert_check.read_network(small_file(tmp_path / "net.npz", **changes))
        values_of(network, np.zeros((1, 2)))


# Properties.


def written(path, model, asked, x, region):
    problems = question_of(model, asked, x, region).boxes()
    write_problems(path, problems)
    return problems, tfcert_check.read_property(path), properties.read_vnnlib(path)


@pytest.mark.parametrize(
    ("asked", "cases", "rows"),
    [
        (properties.ClassStays([1, 0]), 6, 1),
        (properties.TopK([1, 0], 2), 6, 2),
        (properties.Targeted([1, 0], 3), 2, 1),
        (properties.OutputRange(-0.1, 1e-40), 16, 1),
        (properties.Linear([[0.1, -0.3, 0, 7]], [1e-3]), 2, 1),
    ],
)
def test_a_written_property_asks_the_same(tmp_path, asked, cases, rows):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4)])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5)).astype("float32")
    problems, theirs, ours = written(tmp_path / "asked.vnnlib", model, asked, x, tfcert.LpBall(0.1))
    assert len(theirs.cases) == cases and {len(case.rows) for case in theirs.cases} == {rows}
    # No number is changed, however many digits it takes.
    for mine, other in zip(ours.cases, theirs.cases, strict=True):
        for first, second in zip(mine, other, strict=True):
            np.testing.assert_array_equal(first, second)
    share = cases // len(problems)
    for i, case in enumerate(theirs.cases):
        problem = problems[i // share]
        assert (case.lower == problem.lower).all() and (case.upper == problem.upper).all()
    # The cases are what breaks the questions, in the order of the numbers that searches record.
    outputs = rng.normal(size=(300, 4))
    for i, problem in enumerate(problems):
        ways = problem.question.conjunctions(100)
        margins = problem.question.margins(outputs)
        own = theirs.cases[i * share : (i + 1) * share]
        for way, case in zip(ways, own, strict=True):
            np.testing.assert_array_equal(case.rows[:, :-1], -problem.question.rows[way])
            values = outputs @ case.rows[:, :-1].T + case.rows[:, -1]
            np.testing.assert_allclose(values, -margins[:, way], atol=1e-12)


def test_digits_are_exact(tmp_path):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(2)])
    x = np.float32([[0.1]])
    (problem,), theirs, _ = written(
        tmp_path / "asked.vnnlib", model, properties.ClassStays(0), x, tfcert.LpBall(1e-3)
    )
    (case,) = theirs.cases
    assert Fraction(float(case.lower[0])) == Fraction(float(problem.lower[0]))
    assert case.lower[0] < np.float32(0.1) - 1e-3 + 1e-7


@pytest.fixture(scope="module", autouse=True)
def _eagerly():
    with soundness.eagerly():
        yield
