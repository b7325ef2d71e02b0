"""Proofs that were changed: the checker refuses them, or what they say is still true."""

import numpy as np
import pytest

import tfcert_check
from tests.proof_support import Files, exact_minimum, mlp, small
from tfcert_check.bounds import Enclosure


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def by_inputs(files):
    return files.prove()


@pytest.fixture(scope="module")
def by_units(files):
    return files.prove(units=True)


# Proofs that were changed.


def change(arrays, **values):
    return {**arrays, **{name: np.asarray(value) for name, value in values.items()}}


def put(arrays, name, at, value):
    copy = arrays[name].copy()
    copy[at] = value
    return {**arrays, name: copy}


def inner(arrays, kind):
    return int(np.flatnonzero(arrays["kind"] == kind)[0])


TAMPERED = {
    "another format": lambda a: change(a, format="tfcert proof 2"),
    "no roots": lambda a: change(a, roots=a["roots"][:0]),
    "a root of another case": lambda a: change(a, roots=a["roots"][[0, 0]]),
    "a root that is a leaf below": lambda a: put(a, "roots", 0, inner(a, 0)),
    "nodes that are missing": lambda a: {
        **a,
        **{n: a[n][:-1] for n in ("kind", "child", "layer", "index", "point", "slopes", "sweep")},
        "starts": a["starts"][:-1],
    },
    "a split made a leaf": lambda a: put(a, "kind", int(a["roots"][0]), 0),
    "a child far away": lambda a: put(a, "child", int(a["roots"][0]), 10**9),
    "a child before all": lambda a: put(a, "child", int(a["roots"][0]), -1),
    "a child that is the parent": lambda a: put(a, "child", int(a["roots"][0]), int(a["roots"][0])),
    "an unknown kind": lambda a: put(a, "kind", int(a["roots"][0]), 3),
    "an index of no input or unit": lambda a: put(a, "index", int(a["roots"][0]), 99),
    "a negative index": lambda a: put(a, "index", int(a["roots"][0]), -1),
    "the wrong row": lambda a: put(a, "index", a["kind"] == 0, 0),
    "no such row": lambda a: put(a, "index", a["kind"] == 0, 2),
    "slopes that are not there": lambda a: put(a, "slopes", a["kind"] == 0, 0),
    "a length that differs": lambda a: change(a, index=a["index"][1:]),
    "the wrong type": lambda a: change(a, index=a["index"].astype(float)),
    "multipliers for no split": lambda a: change(
        a,
        starts=np.where(np.arange(len(a["starts"])) > inner(a, 0), 99, 0),
        multipliers=np.zeros(99),
    ),
    "another network's sum": lambda a: change(a, network="0" * 64),
    "another property's sum": lambda a: change(a, property="0" * 64),
}


@pytest.mark.parametrize("kind", ["inputs", "units"])
@pytest.mark.parametrize("name", TAMPERED)
def test_changed_proofs_are_refused(files, by_inputs, by_units, kind, name):
    arrays = by_inputs if kind == "inputs" else by_units
    assert files.check(arrays) > 2
    with pytest.raises(tfcert_check.Refused):
        files.check(TAMPERED[name](arrays))


@pytest.mark.parametrize("point", [np.nan, np.inf, -50.0, 50.0])
def test_points_outside_of_the_box_are_refused(files, by_inputs, point):
    with pytest.raises(tfcert_check.Refused, match="splits an input outside its box"):
        files.check(put(by_inputs, "point", inner(by_inputs, 1), point))


def test_a_leaf_cannot_stand_for_its_neighbour(files, by_inputs, by_units):
    """Each leaf in the place of all others: never valid, as no leaf alone covers the box."""
    for arrays in (by_inputs, by_units):
        for node in np.flatnonzero(arrays["kind"] > 0)[:6]:
            with pytest.raises(tfcert_check.Refused):
                files.check(put(arrays, "child", node, arrays["child"][node] + 1))


def test_multipliers_and_slopes_may_be_any_that_prove_it(files, by_units):
    """Changed numbers are refused, or the bound still holds, as it then must."""
    leaves = np.flatnonzero(by_units["kind"] == 0)
    depth = depths(by_units)
    counts = np.where(by_units["kind"] == 0, depth, 0)
    starts = np.concatenate([[0], np.cumsum(counts)])
    rng = np.random.default_rng(0)
    true = [true_margin(files, case) for case in range(2)]
    for trial in range(6):
        arrays = change(
            by_units,
            starts=starts,
            multipliers=rng.exponential(0.2 * trial, counts.sum()),
            slopes=np.where(by_units["kind"] == 0, np.arange(len(depth)), -1),
            **{
                f"slopes_{k}": rng.uniform(0, 1, (len(depth), layer.size))
                for k, layer in enumerate(files.network.layers)
            },
        )
        found = files.margins(arrays)
        assert len(found) == len(leaves)
        # The least bound over all leaves of a case is a bound of the whole case.
        own = cases_of(arrays)
        for case in range(2):
            least = min(b for b, c in zip(found, own, strict=True) if c == case)
            assert least <= true[case] + 1e-7


def depths(arrays):
    depth = np.zeros(len(arrays["kind"]), int)
    for node in np.flatnonzero(arrays["kind"] > 0):  # Parents come before children.
        child = arrays["child"][node]
        depth[child : child + 2] = depth[node] + (arrays["kind"][node] == 2)
    return depth


def cases_of(arrays):
    """The case of each leaf, in the order in which the checker bounds them."""
    found = []
    for case, root in enumerate(arrays["roots"]):
        stack = [root]
        while stack:
            node = stack.pop()
            if arrays["kind"][node] == 0:
                found.append(case)
            else:
                stack += [arrays["child"][node] + 1, arrays["child"][node]]
    return found


def true_margin(files, case):
    lower, upper, rows = files.asked.cases[case]
    return exact_minimum(files.network, lower, upper, -rows[-1, :-1], -rows[-1, -1])


def test_leaves_of_one_part_are_bounded_as_if_each_were_alone(tmp_path, files):
    """Two cases share their parts, and have slopes and multipliers of their own."""
    count, rng = len(files.asked.cases), np.random.default_rng(3)
    nodes = np.arange(3 * count).reshape(-1, 3)
    inner = np.tile([True, False, False], count)
    box = files.asked.cases[0]
    layer, unit = files._open_unit(Enclosure(files.network, box.lower[None], box.upper[None]), {})
    arrays = change(
        files.prove(),
        roots=nodes[:, 0],
        kind=np.where(inner, 2, 0),
        child=np.where(inner, np.arange(3 * count) + 1, -1),
        layer=np.full(3 * count, layer),
        index=np.where(inner, unit, 1),
        point=np.full(3 * count, np.nan),
        sweep=~inner,
        slopes=np.where(inner, -1, np.arange(3 * count)),
        starts=np.concatenate([[0], np.cumsum(~inner)]),
        multipliers=rng.uniform(0, 0.5, 2 * count),
        **{
            f"slopes_{k}": rng.uniform(0, 1, (3 * count, each.size))
            for k, each in enumerate(files.network.layers)
        },
    )
    for own in (arrays, put(arrays, "slopes", 1, -1), put(arrays, "sweep", 4, False)):
        np.savez(tmp_path / "proof.npz", **own)
        proof = tfcert_check.read_proof(tmp_path / "proof.npz")
        known = set(range(3 * count))
        together = list(tfcert_check.margins(files.network, files.asked, proof))
        assert len(together) == 2 * count
        assert len({leaf.bound for leaf in together}) == 2 * count
        for leaf in together:
            alone = tfcert_check.margins(files.network, files.asked, proof, known - {leaf.node})
            ((case, node, bound),) = alone
            assert (case, node) == (leaf.case, leaf.node)
            assert bound == pytest.approx(leaf.bound, abs=1e-12)


@pytest.mark.parametrize("value", [-1e-9, np.nan, np.inf])
def test_multipliers_that_are_negative_or_no_number_are_refused(files, by_units, value):
    counts = np.where(by_units["kind"] == 0, depths(by_units), 0)
    starts = np.concatenate([[0], np.cumsum(counts)])
    multipliers = np.zeros(counts.sum())
    assert files.check(change(by_units, starts=starts, multipliers=multipliers)) > 2
    multipliers[-1] = value
    with pytest.raises(tfcert_check.Refused, match="negative or not a number"):
        files.check(change(by_units, starts=starts, multipliers=multipliers))


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan])
def test_slopes_outside_of_their_range_are_refused(files, by_inputs, value):
    slopes = np.ones((1, 3))
    arrays = change(by_inputs, slopes_0=np.ones((1, 4)), slopes_1=slopes)
    files.check(arrays)  # Nothing uses them.
    slopes[0, 1] = value
    with pytest.raises(tfcert_check.Refused, match="not between its pieces|no numbers"):
        files.check(change(arrays, slopes_1=slopes))


def test_a_wider_box_or_other_weights_are_refused_even_with_the_right_sums(tmp_path, files):
    arrays = files.prove()
    wider = files.text.replace("X_0 0.75", "X_0 2.75")
    assert wider != files.text
    other = Files(tmp_path, files.proto, wider)
    with pytest.raises(tfcert_check.Refused, match="about another property"):
        other.check(arrays)
    with pytest.raises(tfcert_check.Refused, match="is not proved"):
        other.check(change(arrays, property=other.asked.sha256))
    other = Files(tmp_path, mlp((2, 4, 3, 2), 9), files.text)
    with pytest.raises(tfcert_check.Refused, match="about another network"):
        other.check(arrays)
    with pytest.raises(tfcert_check.Refused, match="is not proved"):
        other.check(change(arrays, network=other.network.sha256))


def test_signs_exchanged_are_refused(files, by_units):
    """The halves of each split of a unit change places."""
    refused = 0
    for node in np.flatnonzero(by_units["kind"] == 2)[:8]:
        child = by_units["child"][node]
        arrays = {name: array.copy() for name, array in by_units.items()}
        for name in ("kind", "child", "layer", "index", "point"):
            arrays[name][[child, child + 1]] = arrays[name][[child + 1, child]]
        try:
            files.check(arrays)
        except tfcert_check.Refused:
            refused += 1
    assert refused > 0
