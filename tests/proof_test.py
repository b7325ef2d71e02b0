"""Proofs that tfcert writes, from a search to the program that checks them."""

import numpy as np
import onnx
import pytest
from keras import ops

import tfcert_check
from tests import onnx_cases, proof_searches, support, vnncomp_support
from tests.proof_support import Files, mlp, property_text, residual
from tfcert import interchange, methods, proofs
from tfcert.bounds.statistics import node_values
from tfcert.network import network_of
from tfcert.proofs.layers import layers_of
from tfcert.proofs.values import values_of
from tfcert.proofs.writing import proof_arrays
from tfcert_check import __main__ as program
from tfcert_check.bounds import Enclosure

QUICK = methods.AlphaCrown(iterations=8, learning_rate=0.3)


def branches(seed=0):
    """Two branches whose activations come in another order in the file than behind each other."""
    rng = np.random.default_rng(seed)
    weights = {f"w{i}": rng.normal(size=(3, 3)).astype("float32") for i in range(5)}
    nodes = [
        ("MatMul", "x w0", "a", {}),
        ("MatMul", "x w1", "b", {}),
        ("Relu", "b", "rb", {}),
        ("LeakyRelu", "a", "ra", {"alpha": 0.5}),
        ("MatMul", "rb w2", "c", {}),
        ("MatMul", "ra w3", "d", {}),
        ("Relu", "c", "rc", {}),
        ("Relu", "d", "rd", {}),
        ("Add", "rd rc", "s", {}),
        ("MatMul", "s w4", "y", {}),
    ]
    return onnx_cases.network(nodes, weights, (1, 3))


def prepared(folder, proto, ease, width=0.5, cases=2):
    """Files and the model. At ease 0 points nearly break the property, at 1 CROWN proves it."""
    rng = np.random.default_rng(0)
    onnx.save(proto, folder / "net.onnx")
    network = tfcert_check.read_network(folder / "net.onnx")
    center = np.float32(rng.uniform(-0.5, 0.5, network.steps[0].size)).astype(float)
    lower, upper = center - width, center + width
    values = values_of(network, rng.uniform(lower, upper, (3000, len(center))))[network.output]
    outputs = values.shape[1]
    row = np.eye(outputs)[0] - np.eye(outputs)[-1]
    rows = np.stack([row, -row][:cases])
    highest = (values @ rows.T).max(axis=0)
    whole = Enclosure(network, lower[None], upper[None])
    bounds = -whole.lower_bounds(network.output, -rows[None])[0]
    limits = highest + ease * (bounds - highest)
    alternatives = [[[*own, float(-limit)]] for own, limit in zip(rows, limits, strict=True)]
    files = Files(folder, proto, property_text(lower, upper, outputs, alternatives))
    return files, interchange.load_onnx(files.network_path)


def written(files, tree, model):
    paths = (files.network_path, files.property_path)
    return proofs.write_proof(files.proof_path, tree, model, *paths)


TREES = {
    "mlp": (mlp((2, 6, 5, 2), 6), 0.4, 0.5),
    "leaky": (mlp((3, 6, 5, 2), 2, slope=0.1), 0.7, 0.5),
    "residual": (residual(), 0.9, 0.1),
}


@pytest.mark.parametrize("kind", support.slow_except(lambda k: k != "residual", TREES))
def test_trees_of_units_with_slopes_and_multipliers_are_proofs(tmp_path, kind):
    files, model = prepared(tmp_path, *TREES[kind], cases=1)
    asked = interchange.read_vnnlib(files.property_path)
    tree = proof_searches.by_units(model, asked, QUICK)
    assert len(tree) > 2, "the property is so easy that nothing is split"
    leaves = written(files, tree, model)
    assert leaves == len(tree) // 2 + 1
    assert program.main(files.arguments()) == 0
    # The multipliers are needed: without them, some leaf is not proved.
    with np.load(files.proof_path) as file:
        arrays = dict(file)
    arrays["starts"], arrays["multipliers"] = 0 * arrays["starts"], arrays["multipliers"][:0]
    with pytest.raises(tfcert_check.Refused, match="is not proved"):
        files.check(arrays)


def test_trees_of_boxes_are_proofs(tmp_path):
    files, model = prepared(tmp_path, mlp((2, 8, 8, 2), 4), 0.5)
    tree = proof_searches.by_boxes(model, interchange.read_vnnlib(files.property_path), batch=16)
    assert len(tree) > 4
    assert written(files, tree, model) == len(tree) // 2 + 1
    assert program.main(files.arguments()) == 0


@pytest.mark.parametrize("proto", [branches(), residual(), mlp((3, 4, 4, 2), 0, 0.2)])
def test_units_of_the_file_are_found_by_their_values(tmp_path, proto):
    files, model = prepared(tmp_path, proto, 0.5)
    network = network_of(model)
    layers = layers_of(model, files.network, files.asked.cases[0])
    assert sorted(layer.number for layer in layers) == list(range(len(files.network.layers)))
    rng = np.random.default_rng(3)
    points = rng.normal(size=(5, files.asked.inputs)).astype("float32")
    theirs = values_of(files.network, points.astype(float))
    for layer in layers:
        value = values_at(model, network.nodes[layer.source], points)
        own = theirs[files.network.layers[layer.number].source][:, layer.order]
        np.testing.assert_allclose(value, own, atol=1e-4)
        assert layer.slope == files.network.layers[layer.number].slope


def values_at(model, node, points):
    network = network_of(model)
    shaped = ops.convert_to_tensor(points.reshape(-1, *network.input.shape))
    found = node_values(network, {network.input: shaped}, {})[node]
    return ops.convert_to_numpy(found).reshape(len(points), -1)


def test_a_model_of_another_network_is_an_error(tmp_path):
    files, _ = prepared(tmp_path, mlp((3, 4, 4, 2), 0), 0.5)
    onnx.save(mlp((3, 4, 4, 2), 1), tmp_path / "other.onnx")
    other = interchange.load_onnx(tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="`model` must be the network of the file"):
        layers_of(other, files.network, files.asked.cases[0])


def test_what_is_no_proof_is_not_written(tmp_path):
    files, model = prepared(tmp_path, mlp((2, 6, 2), 3), -0.2)  # Does not hold.
    tree = proofs.Tree()
    roots = [tree.add_root(0)]
    with pytest.raises(ValueError, match=r"roots for 1 of 2 cases, 1 open parts"):
        written(files, tree, model)
    roots.append(tree.add_root(1))
    tree.close(roots, 0)
    with pytest.raises(ValueError, match="`tree` is not a proof: leaf 0 of case 0 is not proved"):
        written(files, tree, model)
    assert not files.proof_path.exists()


# The tree.


def test_cases_of_one_box_share_a_tree(tmp_path):
    files, model = prepared(tmp_path, mlp((2, 6, 2), 3), 1.5)
    tree = proofs.Tree()
    root = tree.add_root([0, 1])
    tree.close(root, 0, case=1)
    assert tree.open_nodes().tolist() == [root]
    halves = tree.split_input(root, 0, files.asked.cases[0].lower[0] + 0.25)
    tree.close(halves, 0, case=0)
    assert not len(tree.open_nodes())
    assert written(files, tree, model) == 3
    with pytest.raises(ValueError, match=r"`case` must be one of \[0, 1\] here"):
        tree.close(root, 0)


def test_multipliers_are_kept_in_the_order_of_the_splits():
    tree = proofs.Tree()
    halves = tree.split_unit(tree.add_root(0), 4, 2)
    quarters = tree.split_unit(tree.split_input(halves, 0, 0.5)[:, 0], [4, 7], [0, 1])
    tree.close(quarters.ravel(), 0, None, {4: np.arange(12.0).reshape(4, 3), 7: np.ones((4, 2))})
    found = [tree.closings[node][0].multipliers for node in quarters.ravel()]
    assert found == [(2.0, 0.0), (5.0, 3.0), (8.0, 1.0), (11.0, 1.0)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.add_root(0), "`case` must not have a root yet. Received: case=0"),
        (lambda t: t.split_input(0, 0, 0.5), "`node` must be a node without children"),
        (lambda t: t.split_unit(99, 0, 0), "`node` must be a node without children"),
        (lambda t: t.split_unit([1, 1], 0, 0), "`node` must name each node once"),
        (lambda t: t.close(99, 0), "`node` must be a node of the tree. Received: node=99"),
        (
            lambda t: t.close([1, 2, 2], 0, {3: np.ones((2, 4))}),
            "2 entries of place 3 for 3 nodes",
        ),
    ],
)
def test_wrong_calls_are_told(call, message):
    tree = proofs.Tree()
    tree.split_input(tree.add_root(0), 0, 0.5)
    with pytest.raises(ValueError, match=message):
        call(tree)


# Known instances.


def acasxu(name):
    (found,) = [one for one in vnncomp_support.instances("acasxu") if one.name == name]
    return found


@pytest.mark.parametrize(
    "name", support.slow_except("2_2/prop_4".__eq__, ["2_2/prop_4", "2_2/prop_3", "1_1/prop_4"])
)
def test_an_acasxu_property_is_proved_end_to_end(tmp_path, name, capsys):
    instance = acasxu(name)
    model = interchange.load_onnx(instance.network)
    asked = interchange.read_vnnlib(instance.property)
    tree = proof_searches.by_boxes(model, asked, batch=16 if name == "2_2/prop_4" else 128)
    path = tmp_path / "proof.npz"
    leaves = proofs.write_proof(path, tree, model, instance.network, instance.property)
    assert leaves == len(tree) // 2 + 1
    assert program.main([str(p) for p in (instance.network, instance.property, path)]) == 0
    # Another network, another property.
    other = acasxu("1_9/prop_2")
    assert program.main([str(p) for p in (other.network, instance.property, path)]) == 1
    assert program.main([str(p) for p in (instance.network, other.property, path)]) == 1
    assert capsys.readouterr().out.count("invalid: the proof is about another") == 2


def test_recorded_slopes_tighten_hidden_bounds(tmp_path):
    files, model = prepared(tmp_path, mlp((3, 6, 6, 6, 2), 1), 0.5, 1.0, cases=1)
    tree, (case,) = proofs.Tree(), files.asked.cases
    method = methods.AlphaCrown(iterations=8, learning_rate=0.3, optimize_intermediate=True)
    proofs.record_hidden(tree, model, case.lower, case.upper, method)
    tree.close(tree.add_root(0), 0)
    arrays = proof_arrays(tree, model, files.network, files.asked)
    assert {name for name in arrays if name.startswith("hidden")} == {
        *("hidden_1_0", "hidden_2_0", "hidden_2_1"),
    }
    np.savez(files.proof_path, **arrays)
    hidden = tfcert_check.read_proof(files.proof_path).tables
    boxes = case.lower[None], case.upper[None]
    plain = Enclosure(files.network, *boxes)
    helped = Enclosure(files.network, *boxes, hidden=hidden)
    tighter = 0
    points = np.random.default_rng(0).uniform(case.lower, case.upper, (2000, 3))
    values = values_of(files.network, points)
    for before, after, value in zip(plain.intervals, helped.intervals, values, strict=True):
        assert (after.lower >= before.lower - 1e-9).all()
        assert (after.lower <= value + 1e-9).all()
        assert (value - 1e-9 <= after.upper).all()
        tighter += (after.upper - after.lower < before.upper - before.lower - 1e-3).sum()
    assert tighter > 0
    # All units have slopes whose sign is open without them, also those that they settle.
    settled = 0
    for number, layer in enumerate(files.network.layers[1:], 1):
        (low, high), (below, above) = (e.intervals[layer.source] for e in (plain, helped))
        crossing = np.flatnonzero(((low < -1e-5) & (high > 1e-5))[0])
        assert not np.isnan(hidden[number, 0][:, crossing]).any()
        settled += ((below >= 0) | (above <= 0))[0, crossing].sum()
    assert settled > 0, "the slopes settle no sign"
    # Any slopes in their range are sound; others are refused.
    rng = np.random.default_rng(1)
    random = {key: rng.uniform(0, 1, table.shape) for key, table in hidden.items()}
    loose = Enclosure(files.network, *boxes, hidden=random)
    for interval, value in zip(loose.intervals, values, strict=True):
        assert (interval.lower <= value + 1e-9).all()
        assert (value - 1e-9 <= interval.upper).all()
    for name, change in (
        ("hidden_1_0", lambda a: a + 1.5),
        ("hidden_1_0", lambda a: a - 0.5),
        ("hidden_1_0", lambda a: a[:, :-1]),
        ("hidden_0_1", None),
        ("hidden_7_0", None),
    ):
        wrong = {**arrays, name: change(arrays[name]) if change else arrays["hidden_1_0"]}
        with pytest.raises(tfcert_check.Refused, match="slope"):
            files.margins(wrong)


def mnist(name):
    (found,) = [
        one for one in vnncomp_support.instances("mnist_fc") if one.name.endswith(f"/{name}")
    ]
    return found


def test_an_image_is_proved_without_splits_by_its_slopes(tmp_path, capsys):
    instance = mnist("prop_3_0.05")
    model = interchange.load_onnx(instance.network)
    tree = proof_searches.without_splits(model, interchange.read_vnnlib(instance.property))
    path, files = tmp_path / "proof.npz", (instance.network, instance.property)
    assert proofs.write_proof(path, tree, model, *files) == 9
    assert program.main([str(p) for p in (*files, path)]) == 0
    with np.load(path) as file:
        arrays = dict(file)
    arrays["slopes"] = np.full_like(arrays["slopes"], -1)
    np.savez(path, **arrays)
    assert program.main([str(p) for p in (*files, path)]) == 1
    assert "is not proved: its bound is -0.0" in capsys.readouterr().out


@pytest.mark.slow
def test_an_image_is_proved_by_slopes_of_its_hidden_bounds(tmp_path):
    instance = mnist("prop_4_0.03")
    model = interchange.load_onnx(instance.network)
    asked = interchange.read_vnnlib(instance.property)
    files = (instance.network, instance.property)
    tree = proof_searches.without_splits(model, asked)
    with pytest.raises(ValueError, match="is not proved: its bound is -0.1"):
        proofs.write_proof(tmp_path / "proof.npz", tree, model, *files)
    proofs.record_hidden(tree, model, asked.cases[0].lower, asked.cases[0].upper)
    assert proofs.write_proof(tmp_path / "proof.npz", tree, model, *files) == 9


def test_leaves_that_the_checker_cannot_follow_are_cut(tmp_path):
    files, model = prepared(tmp_path, mlp((2, 8, 8, 2), 4), 0.5)
    case = files.asked.cases[0]
    tree = proofs.Tree()
    halves = tree.split_input(tree.add_root([0, 1]), 0, float(case.lower[0] + case.upper[0]) / 2)
    for number in (0, 1):
        tree.close(halves, [0, 0], case=number)
    assert written(files, tree, model) > 4
    assert program.main(files.arguments()) == 0


def test_leaves_with_a_counterexample_are_not_cut_for_ever(tmp_path):
    files, model = prepared(tmp_path, mlp((2, 8, 8, 2), 4), -0.2, cases=1)
    case = files.asked.cases[0]
    tree = proofs.Tree()
    halves = tree.split_input(tree.add_root(0), 0, float(case.lower[0] + case.upper[0]) / 2)
    tree.close(halves, [0, 0])
    with pytest.raises(ValueError, match="`tree` is not a proof: leaf .* is not proved"):
        written(files, tree, model)
    assert not files.proof_path.exists()
