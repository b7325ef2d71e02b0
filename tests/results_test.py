"""The tables in the docs are those of the measurements that are kept."""

import importlib.util
import json
import sys

import pytest

from tests import support


def load(name):
    """A program of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, support.ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _flags_as_before():
    from absl import flags

    before = set(flags.FLAGS)
    yield
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def test_results_of_training():
    text = (support.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert load("results_table").tables().strip() in text


def _run_of(**complete):
    results = {"samples": 10_000, "attack": {"error": 0.05}}
    results["methods"] = {"ibp": {"error": 0.09}, "crown": {"error": 0.08}}
    return {"results": results, **({"complete": complete} if complete else {})}


@pytest.mark.parametrize(
    ("runs", "cells"),
    [
        ([_run_of()], ["", ""]),
        ([_run_of(samples=10_000, error=0.07, undecided=0.001)], ["7.00", "0.10"]),
        (
            [_run_of(samples=10_000, error=e, undecided=0.0) for e in (0.07, 0.06)],
            ["6.50 (6.00 to 7.00)", "0.00 (0.00 to 0.00)"],
        ),
        (
            [_run_of(samples=2000, error=0.07, undecided=0.0), _run_of()],
            ["7.00 [1 of 2 seeds, first 2,000 images]", "0.00"],
        ),
    ],
)
def test_errors_by_complete_verification(runs, cells):
    program = load("results_table")
    assert program._complete(runs) == cells
    assert program.room(runs[0]["results"]) == pytest.approx(0.03)


def test_results_of_distance_networks():
    text = (support.ROOT / "docs" / "linf_nets.md").read_text(encoding="utf-8")
    assert load("results_table").linf_table().strip() in text


@pytest.mark.parametrize("page", ["paper_maar", "paper_tightness", "paper_advibp"])
def test_results_of_papers(page):
    text = (support.ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    program = load("results_table")
    assert program.paper_table(page).strip() in text and page in program._PAPERS


def test_claims():
    text = (support.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    program = load("claims")
    assert program.table().strip() in text
    for claim in program.CLAIMS:
        assert program.compared(claim)
        assert (program._FIGURES / f"claim_{claim.name}.png").exists()
        for row in program.compared(claim):
            found = program.digits(row)
            assert found is None or len(found.points) == 8
            # The differences are those that the benchmark itself has kept.
            if found:
                kept = json.loads(
                    (support.ROOT / "benchmarks/results/paired_seeds.json").read_text()
                )["rows"]
                (less,) = (each["less"] for each in kept if each["method"] == row.digits[0])
                known = less[row.digits[1]]
                assert (found.mean, found.error) == pytest.approx(
                    (100 * known["mean"], 100 * known["error"])
                )


def _keep_run(root, name, seed, error, complete=None, samples=100):
    """A kept run with one bound, and a complete verification of so many images."""
    folder = root / name
    folder.mkdir(parents=True)
    facts = {"flags": {"model": "cnn", "learning_rate": 0.001}, "seed": seed}
    (folder / "run.json").write_text(json.dumps(facts))
    results = {"samples": 100, "clean_error": 0.1, "methods": {"ibp": {"error": error}}}
    (folder / "results.json").write_text(json.dumps(results))
    if complete is not None:
        found = {"samples": samples, "error": complete}
        (folder / "complete.json").write_text(json.dumps(found))


def test_both_sides_of_a_pair_are_judged_alike(tmp_path, monkeypatch):
    """Complete verification counts if both sides have it, over the whole set."""
    program = load("claims")
    monkeypatch.setattr(program, "_RUNS", tmp_path)
    (claim,) = (claim for claim in program.CLAIMS if claim.name == "beyond")
    assert program.compared(claim) == []  # There is no run yet.
    _keep_run(tmp_path, "mnist_0.1_ibp_fast@cnn-0", 0, 0.30, complete=0.25)
    _keep_run(tmp_path, "mnist_0.1_sabr@cnn-0", 0, 0.32, complete=0.20)
    _keep_run(tmp_path, "mnist_0.1_ibp_fast@cnn-1", 1, 0.30)
    _keep_run(tmp_path, "mnist_0.1_sabr@cnn-1", 1, 0.32, complete=0.20)
    _keep_run(tmp_path, "mnist_0.3_ibp_fast@cnn-0", 0, 0.30, complete=0.25, samples=50)
    _keep_run(tmp_path, "mnist_0.3_sabr@cnn-0", 0, 0.31, complete=0.20)
    _keep_run(tmp_path, "mnist_0.3_sabr@cnn-1", 1, 0.31)  # Without a base of its seed.
    (row,) = program.compared(claim)
    found = {
        eps: [p for pairs in known for p in pairs.points]
        for eps, known in program.mnist(row).items()
    }
    assert found == {"0.1": pytest.approx([-5.0, 2.0]), "0.3": pytest.approx([1.0])}
    clean = program.mnist(row, program.Run.clean_less)
    assert clean["0.1"][0].points == [0.0, 0.0]
    assert "| 1 of 2, −1.50 | 0 of 1, +1.00 |" in program.table()
    panels = program.draw(claim).axes
    assert [panel.get_title() for panel in panels] == [
        "MNIST, clean error",
        "MNIST, verified error",
    ]


@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        ([-1.0, -1.2, -0.8], "better"),
        ([1.0, 1.2, 0.8], "worse"),
        ([-1.0, 1.0, 0.1], "level"),
        ([-1.0], "level"),
    ],
)
def test_a_claim_holds_beyond_two_standard_errors(points, verdict):
    assert load("claims").Pairs("a", points).verdict == verdict


def test_results_of_smoothing():
    text = (support.ROOT / "docs" / "paper_consistency.md").read_text(encoding="utf-8")
    assert load("smoothing_table").tables().strip() in text


def test_methods_of_smoothing_are_compared_at_every_sigma():
    """By equal epochs and samples; consistency and its base with more samples besides."""
    logs = load("smoothing_table").read_logs()
    methods = {"gaussian", "stability", "smoothadv", "macer", "consistency"}
    for sigma in (0.25, 0.5, 1.0):
        assert methods <= set(logs[sigma, 10_000, 20])
        many = [set(known) for (s, n, _), known in logs.items() if (s, n) == (sigma, 100_000)]
        assert {"gaussian", "consistency"} in many


def test_logs_of_another_model_are_not_mixed_in():
    check = load("smoothing_table")._check_model
    target = support.ROOT / "docs" / "results" / "mnist_sigma0.5_gaussian"
    facts = json.loads((target / "n10000.tsv.json").read_text())
    check(target, facts)
    with pytest.raises(ValueError, match="of another model than the new logs"):
        check(target, {"hashes": {"model": "0"}})


def test_results_of_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(support.ROOT / "benchmarks")  # As for a program that lies there.
    tables = load("tables")
    texts = [path.read_text(encoding="utf-8") for path in tables.PAGES]
    assert [tables.page(text) for text in texts] == texts
    for name in tables.TABLES:
        assert sum(f"<!-- table: {name} -->" in text for text in texts) == 1


@pytest.mark.slow
def test_results_of_adaptive_sampling():
    """They need no machine, only the kept logs: computed anew here."""
    program = load("adaptive_sampling")
    report = json.loads((support.ROOT / "benchmarks/results/adaptive_sampling.json").read_text())
    runs = support.ROOT / "docs" / "results"
    logs = sorted(path.parent.name for path in runs.glob("mnist_sigma*/n100000.tsv"))
    assert [row["run"] for row in report["rows"]] == logs
    row = report["rows"][-1]
    known = program.row_of(runs / row["run"] / "n100000.tsv", list(row["adaptive"]), 0)
    assert known["adaptive"].keys() == row["adaptive"].keys()
    for precision, found in row["adaptive"].items():
        assert known["adaptive"][precision] == pytest.approx(found, rel=1e-9)
        assert found["acr_lost"] < float(precision)


def test_no_run_tells_where_it_was():
    runs = support.ROOT / "docs" / "results"
    for path in runs.rglob("run.json"):
        text = path.read_text(encoding="utf-8")
        assert "uncommitted" not in text
        assert '"data_dir": "data"' in text
    for path in runs.rglob("complete.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert "uncommitted" not in found["commit"]
        assert "--runs=runs --data_dir=data" in found["command"]
        assert found["error"] == pytest.approx(found["attack_error"] + found["undecided"])
