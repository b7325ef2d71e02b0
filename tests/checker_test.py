"""The program that checks proofs, and what it rests on: rigorous bounds in float64."""

import ast
import functools
import gzip
import io
import re
import subprocess
import sys
import tokenize
from fractions import Fraction
from operator import add

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import tfcert_check
from tests import onnx_cases, support
from tests.proof_support import (
    Files,
    exact_minimum,
    exact_values,
    mlp,
    one_leaf,
    property_text,
    read,
    residual,
    small,
)
from tfcert import interchange
from tfcert.proofs.values import values_of
from tfcert_check import __main__ as program
from tfcert_check import rounding, steps
from tfcert_check.bounds import Enclosure

WEIGHTS = np.random.default_rng(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def by_inputs(files):
    return files.prove()


# Proofs of what is true, and of nothing else.


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("units", [False, True])
def test_proofs_of_small_networks_are_valid(tmp_path, seed, units):
    found = small(tmp_path, seed, slope=0.25 if seed == 3 else None)
    arrays = found.prove(units=units)
    assert len(arrays["kind"]) > 2, "the property is so easy that no tree is needed"
    assert found.check(arrays) == (arrays["kind"] == 0).sum()
    # The same tree about what is not true is refused.
    wrong = small(tmp_path, seed, slope=0.25 if seed == 3 else None, gap=-0.02)
    arrays["property"] = np.array(wrong.asked.sha256)
    with pytest.raises(tfcert_check.Refused, match="is not proved"):
        wrong.check(arrays)


@pytest.mark.parametrize("seed", range(3))
def test_no_bound_is_above_the_true_minimum(tmp_path, seed):
    network = read(mlp((2, 3, 3, 2), seed, None if seed else 0.1), tmp_path)
    rng = np.random.default_rng(seed)
    lower = rng.uniform(-1, 0, (3, 2))
    upper = lower + rng.uniform(0.01, 1.5, (3, 2))
    row = rng.normal(size=2)
    exact = [exact_minimum(network, *box, row, 0.0) for box in zip(lower, upper, strict=True)]
    rows = np.broadcast_to(row, (3, 1, 2))
    for sweep in (False, True):
        enclosure = Enclosure(network, lower, upper, sweep=sweep)
        slopes = {
            k: rng.uniform(layer.slope, 1, (3, 1, 3)) for k, layer in enumerate(network.layers)
        }
        for given in (None, slopes):
            bounds = enclosure.lower_bounds(network.output, rows, given)[:, 0]
            assert (bounds <= np.array(exact) + 1e-7).all()
    tiny = Enclosure(network, lower, lower + 1e-9).lower_bounds(network.output, rows)[:, 0]
    ends = values_of(network, lower)[network.output] @ row
    np.testing.assert_allclose(tiny, ends, atol=1e-6)


def test_a_box_is_bounded_as_if_it_were_alone(tmp_path):
    network = read(mlp((3, 8, 8, 2), 3), tmp_path)
    rng = np.random.default_rng(0)
    lower = rng.uniform(-1, 0.5, (30, 3))
    upper = lower + rng.uniform(0.01, 1.5, (30, 3))
    rows = np.broadcast_to(rng.normal(size=(2, 2)), (30, 2, 2))
    together = Enclosure(network, lower, upper).lower_bounds(network.output, rows)
    for i in range(30):
        box = slice(i, i + 1)
        alone = Enclosure(network, lower[box], upper[box]).lower_bounds(network.output, rows[box])
        np.testing.assert_allclose(together[box], alone, atol=1e-9)


def test_signs_and_multipliers_bound_the_part_with_these_signs(tmp_path):
    network = read(mlp((2, 6, 5, 2), 6), tmp_path)
    lower, upper = np.full((1, 2), -1.0), np.full((1, 2), 1.0)
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (4000, 2))
    values = values_of(network, points)
    whole, helped = Enclosure(network, lower, upper), 0
    for layer, size in ((0, 6), (1, 5)):
        for unit in range(size):
            z = values[network.layers[layer].source][:, unit]
            for sign in (1, -1):
                signs = np.zeros((1, size), np.int8)
                signs[0, unit] = sign
                part = Enclosure(network, lower, upper, {layer: signs}, whole, sweep=False)
                inside = sign * z >= 0
                if part.empty[0]:
                    assert not inside.any()
                    continue
                if not inside.any():
                    continue
                rows = rng.normal(size=(1, 5, 2))
                least = (values[network.output][inside] @ rows[0].T).min(axis=0)
                plain = np.full(5, -np.inf)
                for beta in (0.0, 0.02, 0.1, 0.5):
                    bound = part.lower_bounds(
                        network.output, rows, None, {layer: beta * signs[:, None]}
                    )[0]
                    assert (bound <= least + 1e-9).all()
                    helped += (bound > plain + 1e-6).sum() if beta else 0
                    plain = np.maximum(plain, bound)
    assert helped > 0, "multipliers must tighten something"


# Rounding.

# The sum is -0.5. Added from the left in float64, it is 0.5.
CANCELLING = [1e16, -1.0, -1e16, 0.5]


def test_a_sum_that_cancels_is_not_claimed(tmp_path):
    # Python's own sum compensates from version 3.12 on.
    naive = functools.reduce(add, CANCELLING)
    assert naive == 0.5, "float64 alone must get this wrong"
    for order in ([0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0]):
        weights = np.array(CANCELLING)[order]
        proto = onnx_cases.network(
            [("MatMul", "x w", "y", {})],
            {"w": weights[:, None]},
            (1, 4),
            kind=onnx.TensorProto.DOUBLE,
        )
        # Broken where y <= 0, which holds at the only point.
        text = property_text(np.ones(4), np.ones(4), 1, [[[-1.0, 0.0]]])
        found = Files(tmp_path, proto, text)
        with pytest.raises(tfcert_check.Refused, match="is not proved"):
            found.check(one_leaf(found))
    (bound,) = found.margins(one_leaf(found))
    assert bound <= -0.5


def violations(folder):
    """How often bounds of badly scaled networks are above exact values at points of the box."""
    wrong = 0
    for seed in range(12):
        network = read(mlp((3, 4, 4, 2), seed, scale=7, dtype="float64"), folder)
        rng = np.random.default_rng(seed)
        point = rng.uniform(-1, 1, (1, 3))
        exact = exact_values(network, point[0])
        enclosure = Enclosure(network, point, point)
        for interval, values in zip(enclosure.intervals, exact, strict=True):
            for low, high, value in zip(*(np.ravel(end) for end in interval), values, strict=True):
                wrong += not low <= value <= high
        for row in ((1.0, -1.0), (-1.0, 0.3)):
            bound = enclosure.lower_bounds(network.output, np.array(row)[None, None])[0, 0]
            value = sum(
                type(v)(float(r)) * v for r, v in zip(row, exact[network.output], strict=True)
            )
            wrong += not bound <= value
    return wrong


def test_bounds_hold_in_exact_arithmetic(tmp_path):
    assert violations(tmp_path) == 0


@pytest.mark.parametrize("broken", ["share", "lost"])
def test_that_notices_where_rounding_is_forgotten(tmp_path, monkeypatch, broken):
    if broken == "share":
        monkeypatch.setattr(steps, "share", lambda terms: 0.0)
        monkeypatch.setattr(steps, "down", lambda x: x)
        monkeypatch.setattr(steps, "up", lambda x: x)
    else:
        monkeypatch.setattr(rounding, "share", lambda terms: 0.0)
        monkeypatch.setattr(steps, "down", lambda x: x)
    assert violations(tmp_path) > 0


def test_upper_lines_hold_in_exact_arithmetic():
    rng = np.random.default_rng(0)
    for slope in (0.0, 0.1, 1.0):
        layer = steps.TwoPiece(0, slope, 500)
        scale = 10.0 ** rng.uniform(-12, 12, (2, 500))
        z = steps.Interval(
            -rng.uniform(0, 1, (1, 500)) * scale[0], rng.uniform(0, 1, (1, 500)) * scale[1]
        )
        _, upper, offset = layer.lines(z, None)
        for i in range(500):
            t, h = Fraction(float(upper[0, i])), Fraction(float(offset[0, i]))
            low, high = Fraction(float(z.lower[0, i])), Fraction(float(z.upper[0, i]))
            assert t * high + h >= high
            assert t * low + h >= Fraction(slope) * low


def test_numbers_of_properties_are_rounded_away_from_a_proof(tmp_path):
    path = tmp_path / "asked.vnnlib"
    path.write_text(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0.1))"
        "(assert (<= X_0 0.3))(assert (>= Y_0 0.1))"
    )
    (case,) = tfcert_check.read_property(path).cases
    assert Fraction(float(case.lower[0])) < Fraction("0.1") < Fraction(float(case.upper[0]))
    assert Fraction(float(case.upper[0])) >= Fraction("0.3")
    assert Fraction(float(case.rows[0, -1])) >= -Fraction("0.1")


# Networks.


@pytest.mark.parametrize("opset", [8, 13, 18])
def test_networks_are_read_as_onnx_means_them(tmp_path, opset):
    for proto in (residual(), mlp((3, 4, 2), 1, 0.2), *gallery(opset)):
        network = read(proto, tmp_path)
        shape = [d.dim_value or 1 for d in proto.graph.input[0].type.tensor_type.shape.dim]
        rng = np.random.default_rng(0)
        for _ in range(3):
            x = rng.normal(size=shape).astype("float32")
            expected = ReferenceEvaluator(proto).run(None, {"x": x})[0].ravel()
            given = values_of(network, x.reshape(1, -1).astype(np.float64))[network.output][0]
            np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)


def gallery(opset):
    """Small networks of the operators that ``residual`` does not have."""
    one = onnx_cases.one
    column, kernel = onnx_cases.weights(5), onnx_cases.weights(6, 3, 2, 2)
    yield one("Relu", opset=opset)
    yield one("LeakyRelu", opset=opset)
    yield one("Add", {"c": column}, opset=opset)
    yield one("Sub", {"c": column}, opset=opset)
    yield onnx_cases.network([("Sub", "c x", "y", {})], {"c": column}, opset=opset)
    yield one("Mul", {"c": column}, opset=opset)
    yield one("Div", {"c": column + np.float32(5)}, opset=opset)
    yield one("Neg", opset=opset)
    yield one("Identity", opset=opset)
    yield one("Flatten", opset=opset, axis=2)
    yield one("Transpose", opset=opset)
    yield one("Conv", {"k": kernel, "b": onnx_cases.weights(6)}, opset=opset, strides=[2, 1])
    yield one("GlobalAveragePool", opset=opset)
    yield one("AveragePool", opset=opset, kernel_shape=[2, 3], pads=[1, 1, 0, 0],
              count_include_pad=1)  # fmt: skip
    yield onnx_cases.network(
        [("Constant", "", "s", {"value": onnx.numpy_helper.from_array(np.array([1, -1]))}),
         ("Reshape", "x s", "f", {}), ("MatMul", "f w", "y", {})],
        {"w": onnx_cases.weights(90, 4)}, opset=opset,
    )  # fmt: skip
    yield onnx_cases.network([("Sub", "x x", "y", {})], opset=opset)
    yield onnx_cases.network(
        [("Neg", "x", "n", {}), ("Mul", "x c", "m", {}), ("Max", "n m x", "y", {})],
        {"c": column},
        opset=opset,
    )


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (onnx_cases.one("Sigmoid"), "operator Sigmoid is not supported"),
        (onnx_cases.one("LeakyRelu", alpha=1.5), "a slope of 1.5, not 0 or up to 1,"),
        (onnx_cases.network([("Mul", "x x", "y", {})]), "product of two values"),
        (onnx_cases.one("Add", {"c": np.float32(np.ones((2, 1, 1, 1, 1)))}), "repeating an entry"),
        (onnx_cases.one("Add", {"c": np.float32(np.inf)}), "not numbers"),
        (
            onnx_cases.one("AveragePool", kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
            "average over parts",
        ),
        (onnx_cases.one("Conv", {"k": np.ones((1, 3, 2, 2), "float32")}, auto_pad="SAME_UPPER"),
         "auto_pad"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(tmp_path, proto, message):
    with pytest.raises(tfcert_check.Refused, match=message):
        read(proto, tmp_path)


def test_transposes_are_exact_and_absolute_maps_are_absolute(tmp_path):
    network = read(residual(), tmp_path)
    rng = np.random.default_rng(0)
    seen = set()
    for step in network.steps[1:]:
        for operator, _ in getattr(step, "parts", []):
            matrix = operator.apply(np.eye(operator.size)).T
            seen.add(type(operator).__name__)
            rows = rng.normal(size=(3, len(matrix)))
            np.testing.assert_allclose(operator.transpose(rows), rows @ matrix, atol=1e-12)
            absolute = operator.absolute().apply(np.eye(operator.size)).T
            np.testing.assert_array_equal(absolute, np.abs(matrix))
            assert operator.terms >= (matrix != 0).sum(axis=1).max()
            assert operator.back >= (matrix != 0).sum(axis=0).max()
    assert seen == {"Matrix", "Scale", "Pick", "Convolution"}


def test_images_are_bounded_soundly(tmp_path):
    network = read(residual(), tmp_path)
    rng = np.random.default_rng(0)
    center = rng.normal(size=60)
    lower, upper = (center - 0.1)[None], (center + 0.1)[None]
    corners = rng.choice([-0.1, 0.1], (500, 60))
    values = values_of(
        network, center + np.concatenate([corners, rng.uniform(-0.1, 0.1, (500, 60))])
    )
    loose = Enclosure(network, lower, upper, sweep=False)
    tight = Enclosure(network, lower, upper)
    for enclosure in (loose, tight):
        for (low, high), value in zip(enclosure.intervals, values, strict=True):
            assert (low <= value + 1e-12).all()
            assert (value - 1e-12 <= high).all()
    rows = np.concatenate([np.eye(3), -np.eye(3)])[None]
    bounds = tight.lower_bounds(network.output, rows)[0]
    assert (bounds <= (values[network.output] @ rows[0].T).min(axis=0)).all()
    assert (bounds > -loose.intervals[network.output].largest.max()).all()


# The program.


def test_the_program_says_valid_or_what_is_wrong(files, by_inputs, capsys):
    files.check(by_inputs)  # Writes the file.
    packed = files.folder / "net.onnx.gz"
    packed.write_bytes(gzip.compress(files.network_path.read_bytes()))
    for network in (files.network_path, packed):
        assert program.main([str(network), *files.arguments()[1:]]) == 0
        assert capsys.readouterr().out == "valid\n"
    kind = by_inputs["kind"].copy()
    kind[by_inputs["roots"][0]] = 0
    np.savez(files.proof_path, **{**by_inputs, "kind": kind})
    assert program.main(files.arguments()) == 1
    assert capsys.readouterr().out.startswith("invalid: leaf 0 of case 0 is not proved")
    files.proof_path.write_bytes(b"no proof")
    assert program.main(files.arguments()) == 1
    out = capsys.readouterr().out
    assert out.startswith("invalid: ")
    assert out.count("\n") == 1
    for missing in range(3):
        arguments = files.arguments()
        arguments[missing] = str(files.folder / "nothing")
        assert program.main(arguments) == 1
        assert capsys.readouterr().out.startswith("invalid: ")


def test_the_checker_runs_without_tfcert_keras_and_tensorflow(files, by_inputs):
    files.check(by_inputs)
    blocked = ("tfcert", "tensorflow", "keras", "jax", "scipy", "matplotlib", "absl")
    code = (
        "import sys\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        "from tfcert_check.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *files.arguments()],
        capture_output=True,
        text=True,
        cwd=support.ROOT,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "valid\n", "")


def code_lines(path):
    """How many lines hold code: no comments, docstrings or blanks."""
    source = path.read_text(encoding="utf-8")
    texts = set()
    for node in ast.walk(ast.parse(source)):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            texts |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.string.strip() and token.type != tokenize.COMMENT:
            found |= set(range(token.start[0], token.end[0] + 1))
    return len(found - texts)


def test_the_page_says_how_large_the_checker_is():
    count = sum(map(code_lines, (support.ROOT / "tfcert_check").glob("*.py")))
    page = (support.ROOT / "docs/proofs.md").read_text(encoding="utf-8")
    told = int(re.search(r"([0-9]+) lines without comments", page)[1])
    assert abs(told - count) <= 5, f"{count} lines"
    assert count < 895


# Properties.


def test_alternatives_and_conditions_become_cases_in_the_order_of_the_file(tmp_path):
    text = """(declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
        (assert (>= X_0 0)) (assert (<= X_0 2)) ; a comment
        (assert (or (and (<= X_0 1) (<= Y_0 Y_1)) (and (>= X_0 1) (>= (* 2.0 Y_0) (- 3.5)))))
        (assert (or (>= Y_1 (+ Y_0 1)) (<= (- Y_0 Y_1) 0.25) (>= X_0 3)))"""
    path = tmp_path / "asked.vnnlib"
    path.write_text(text)
    ours, theirs = tfcert_check.read_property(path), interchange.read_vnnlib(path)
    assert len(ours.cases) == len(theirs.cases) == 4
    for mine, other in zip(ours.cases, theirs.cases, strict=True):
        for first, second in zip(mine, other, strict=True):
            np.testing.assert_array_equal(np.sort(first, 0), np.sort(second, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(assert (<= X_0 1))", "does not know"),
        ("(declare-const X_1 Real)", "without gaps"),
        ("(declare-const X_0 Real) (assert (<= X_0 1))", "without limits"),
        ("(declare-const X_0 Real) (assert (< X_0 1))", "does not know"),
        ("(declare-const X_0 Int)", "does not know"),
        ("(declare-const X_0 Real", "ends inside a bracket"),
        ("(check-sat))", "a bracket too many"),
        (
            "(declare-const X_0 Real) (declare-const X_1 Real) (assert (<= X_0 X_1))",
            "more than one input",
        ),
        (
            "(declare-const X_0 Real) (declare-const Y_0 Real) (assert (>= X_0 0))"
            "(assert (<= X_0 0)) (assert (>= (* 0.1 Y_0) 0))",
            "no float64 number",
        ),
    ],
)
def test_properties_that_are_not_understood_are_refused(tmp_path, text, message):
    path = tmp_path / "asked.vnnlib"
    path.write_text(text)
    with pytest.raises(tfcert_check.Refused, match=message):
        tfcert_check.read_property(path)
