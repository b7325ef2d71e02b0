"""Instances of the competition: nothing is called verified that is not, nor broken."""

import pytest

from tests import results_test, support


@pytest.fixture(name="vnncomp")
def _vnncomp(monkeypatch):
    monkeypatch.syspath_prepend(str(support.ROOT / "benchmarks"))
    from absl import flags

    before = set(flags.FLAGS)
    yield results_test.load("vnncomp")
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.mark.slow
def test_small_instances(vnncomp):
    folder = support.shared_path("vnncomp")
    names = ("attack", "ibp", "crown-ibp", "crown")
    rows = [vnncomp.decide(i, names) for i in vnncomp.instances(folder, ["mnist_fc"], None)]
    # One network with properties that are no classes.
    acasxu = [i for i in vnncomp.instances(folder, ["acasxu"], None) if "_2_2_" in i.network.name]
    rows += [vnncomp.decide(i, ("attack", "crown")) for i in acasxu]
    assert len(rows) == 20
    assert [row for row in rows if vnncomp.wrong(row)] == []

    def count(method, verdict):
        return sum(row.get(method) == verdict for row in rows)

    known = sum(row["expected"] == "sat" for row in rows)
    assert count("attack", "sat") == known == 7
    assert count("ibp", "unsat") <= count("crown-ibp", "unsat") <= count("crown", "unsat")
    assert count("crown", "unsat") >= 3


def test_the_whole_cascade(vnncomp):
    folder = support.shared_path("vnncomp")
    chosen = vnncomp.instances(folder, ["mnist_fc"], 3)
    rows = [vnncomp.decide(instance, ("certify",)) for instance in chosen]
    assert [(row["expected"], row["certify"]) for row in rows][:2] == [
        ("unsat", "unsat"),
        ("sat", "sat"),
    ]
    (acasxu, *_) = vnncomp.instances(folder, ["acasxu"], 1)
    assert vnncomp.decide(acasxu, ("certify",))["certify"] is None


def test_a_wrong_verdict_is_noticed(vnncomp):
    row = {"expected": "sat", "crown": "unsat", "ibp": "unknown", "attack": "sat", "certify": None}
    assert vnncomp.wrong(row) == ["crown"]
    assert vnncomp.wrong({**row, "expected": "unsat"}) == ["attack"]
    assert vnncomp.wrong({**row, "expected": "unknown"}) == []


def test_kept_results_contradict_nothing(vnncomp):
    import json

    report = json.loads((support.ROOT / "benchmarks/results/vnncomp.json").read_text())
    assert len(report["rows"]) == 50
    assert [row for row in report["rows"] if vnncomp.wrong(row)] == []


def test_verifies_instances_with_splits():
    from tests import vnncomp_support
    from tfcert import interchange, properties, verify

    found = {}
    for instance in vnncomp_support.instances("acasxu"):
        if "_2_2_" in instance.network.name:
            model = interchange.load_onnx(instance.network)
            outcome = verify(model, properties.read_vnnlib(instance.property), time_limit=116)
            said = {"holds": "unsat", "violated": "sat"}.get(outcome.verdict)
            found[instance.name] = said == instance.verdict
    assert found and all(found.values()), found
