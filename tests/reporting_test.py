"""Reading logs and folders for reports, and the statistics of what they hold."""

import json
import math
import os
import pathlib

import hypothesis as hp
import hypothesis.strategies as hps
import numpy as np
import pytest
import scipy.stats

from tests import report_support
from tfcert import logs, reporting
from tfcert.reporting import examples, report, runs, values

# Statistics.


def _scores(entries):
    """radius * correct of a log by pandas-free means: line by line."""
    return np.array([r if c else 0.0 for r, c in zip(entries.radius, entries.correct, strict=True)])


def test_acr_and_its_error_are_those_of_scipy(tmp_path):
    entries = reporting.read(report_support.smoothing_log(tmp_path / "a.tsv", 0))
    found = reporting.average_certified_radius(entries)
    scores = _scores(entries)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-12)
    assert found.error == pytest.approx(scipy.stats.sem(scores), rel=1e-12)
    # By hand: ACR is a mean over all inputs, those that are wrong included.
    rows = [
        (0, 1, 1, 0.5, 1, "0:00:01"),
        (1, 1, 2, 0.9, 0, "0:00:01"),
        (2, 1, -1, 0.0, 0, "0:00:01"),
    ]
    small = reporting.read(report_support.write_lines(tmp_path / "b.tsv", logs.SMOOTHING, rows))
    found = reporting.average_certified_radius(small)
    assert found.value == pytest.approx(0.5 / 3)
    assert found.error == pytest.approx(math.sqrt((2 * (1 / 6) ** 2 + (1 / 3) ** 2) / 2 / 3))


def test_certified_accuracy_counts_correct_inputs_with_at_least_the_radius(tmp_path):
    rows = [
        (0, 1, 1, 0.25, 1, "0:00:01"),
        (1, 1, 1, 0.5, 1, "0:00:01"),
        (2, 1, 2, 0.9, 0, "0:00:01"),  # certified, but wrong
        (3, 1, -1, 0.0, 0, "0:00:01"),  # abstained
    ]
    entries = reporting.read(report_support.write_lines(tmp_path / "a.tsv", logs.SMOOTHING, rows))
    found = reporting.certified_accuracy(entries, [0.0, 0.25, 0.26, 0.5, 0.51])
    assert [each.value for each in found] == [0.5, 0.5, 0.25, 0.25, 0.0]
    assert found[1].error == pytest.approx(scipy.stats.sem([1, 1, 0, 0]))
    assert found[4].error == 0.0


def test_paired_difference_is_that_of_scipy(tmp_path):
    """On the common inputs alone, whatever the order of the lines."""
    first = reporting.read(report_support.smoothing_log(tmp_path / "a.tsv", 0, better=0.1))
    second = reporting.read(report_support.smoothing_log(tmp_path / "b.tsv", 1))
    order = np.random.default_rng(0).permutation(len(second))
    shuffled = second.select(np.ones(len(second), bool))
    shuffled = type(second)(
        **{
            name: value[order] if isinstance(value, np.ndarray) else value
            for name, value in vars(second).items()
        }
    )
    part = shuffled.select(shuffled.idx >= 30)
    common = first.idx >= 30
    for other in (part, second.select(second.idx >= 30)):
        found = reporting.paired_difference(first, other)
        wanted = scipy.stats.ttest_rel(_scores(first)[common], _scores(second)[common])
        assert found.inputs == common.sum() == 50
        assert found.value / found.error == pytest.approx(wanted.statistic, rel=1e-9)
    # Paired errors are smaller than those of two samples: that is what they are for.
    errors = [reporting.average_certified_radius(each).error for each in (first, second)]
    assert 0 < found.error < 0.5 * math.hypot(*errors)
    accuracy = reporting.paired_difference(first, second, lambda entries: entries.certified(0.5))
    both = [entries.certified(0.5).astype(float) for entries in (first, second)]
    assert accuracy.value == pytest.approx(both[0].mean() - both[1].mean())
    assert accuracy.error == pytest.approx(scipy.stats.sem(both[0] - both[1]))
    swapped = reporting.paired_difference(second, first)
    assert swapped.value == -reporting.paired_difference(first, second).value


def test_standard_errors_cover(tmp_path):
    """Over many samples of inputs, the mean lies within two errors as often as it should."""
    draw = np.random.default_rng(3)
    hits = []
    for _ in range(400):
        chosen = draw.uniform(size=300) < 0.7
        found = reporting.share(chosen)
        hits.append(abs(found.value - 0.7) <= 1.96 * found.error)
    assert scipy.stats.binomtest(sum(hits), 400, 0.95).pvalue > 1e-3


def test_logs_about_other_data_are_not_paired(tmp_path):
    first = reporting.read(report_support.smoothing_log(tmp_path / "a.tsv", 0))
    shifted = type(first)(**{**vars(first), "label": (first.label + 1) % 5})
    with pytest.raises(ValueError, match=r"idx 0 has label 0 and 1; 60 of 60 differ"):
        reporting.paired_difference(first, shifted)
    apart = type(first)(**{**vars(first), "idx": first.idx + 1})
    with pytest.raises(ValueError, match="no idx in common"):
        reporting.paired_difference(first, apart)


def test_one_input_has_no_standard_error(tmp_path):
    rows = [(0, 1, 1, 0.25, 1, "0:00:01")]
    entries = reporting.read(report_support.write_lines(tmp_path / "a.tsv", logs.SMOOTHING, rows))
    assert math.isnan(reporting.average_certified_radius(entries).error)


# Reading.


def test_reads_verdicts(tmp_path):
    x, y = report_support.images()
    entries = reporting.read(report_support.certify_log(tmp_path / "a.tsv", x, y))
    assert entries.kind == "certify" and entries.name == "a" and len(entries) == 30
    assert entries.correct.sum() == 30 - entries.verdicts("misclassified").sum()
    assert entries.verdicts("verified").sum() > 5
    assert entries.facts["hashes"]["model"] == "m"
    assert not entries.cut
    without = reporting.read(report_support.certify_log(tmp_path / "b.tsv", x, y, radius=False))
    with pytest.raises(ValueError, match="has no column named radius"):
        reporting.average_certified_radius(without)
    smoothing = reporting.read(report_support.smoothing_log(tmp_path / "c.tsv", 0))
    with pytest.raises(ValueError, match="has no column named verdict"):
        smoothing.verdicts("verified")


@pytest.mark.parametrize(
    ("columns", "row", "said"),
    [
        (logs.SMOOTHING, (1, 2, 3, 0.5, 1, "0:00:01"), "correct contradicts predict and label"),
        (
            logs.SMOOTHING,
            (1, 2, 2, 0.5, 0, "0:00:01"),
            "Received: correct=False, predict=2, label=2",
        ),
        (logs.SMOOTHING, (1, -1, -1, 0.0, 1, "0:00:01"), "correct=True, predict=-1"),
        (logs.CERTIFY, (1, 2, 3, "verified", 1.0, "ibp", 0.1), "verdict=verified, predict=3"),
        (logs.CERTIFY, (1, 2, 2, "misclassified", 1.0, "ibp", 0.1), "verdict=misclassified"),
    ],
)
def test_contradictions_are_named_with_file_and_line(columns, row, said, tmp_path):
    good = (0, 2, 2, 0.5, 1, "0:00:01")
    if columns == logs.CERTIFY:
        good = (0, 2, 2, "verified", 1.0, "ibp", 0.1)
    path = report_support.write_lines(tmp_path / "a.tsv", columns, [good, row])
    with pytest.raises(ValueError, match=r"a\.tsv:3: ") as error:
        reporting.read(path)
    assert said in str(error.value)


def test_malformed_lines_are_named_with_file_and_line(tmp_path):
    path = report_support.smoothing_log(tmp_path / "a.tsv", 0)
    path.write_text(path.read_text() + "x\t1\t1\t0.5\t1\t0:00:01\n")
    with pytest.raises(ValueError, match=r"a\.tsv:62: idx must be an integer"):
        reporting.read(path)
    path.write_text("\t".join(logs.SMOOTHING) + "\n")
    with pytest.raises(ValueError, match="no complete line"):
        reporting.read(path)


_FIELDS = hps.one_of(
    hps.integers(-3, 3).map(str),
    hps.floats(width=32).map(str),
    hps.sampled_from(["verified", "0:00:01", "1 day, 0:00:01.5", "", "../x", "\x00", "é", "-1"]),
    hps.text(max_size=5),
)


@hp.settings(deadline=None, database=None, derandomize=True, max_examples=80)
@hp.given(
    hps.sampled_from([logs.SMOOTHING, logs.CERTIFY, (*logs.CERTIFY, "radius")]),
    hps.lists(hps.lists(_FIELDS, min_size=5, max_size=9), max_size=4),
    hps.binary(max_size=8),
)
def test_reader_gives_entries_or_a_clear_error(tmp_path_factory, columns, rows, tail):
    path = tmp_path_factory.mktemp("fuzz") / "a.tsv"
    lines = ["\t".join(columns), *("\t".join(row) for row in rows)]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + b"\n" + tail)
    try:
        entries = reporting.read(path)
    except ValueError as error:
        assert str(path) in str(error)
        return
    assert len(entries) == len(set(entries.idx.tolist())) > 0
    assert np.all(entries.correct <= ~entries.abstained)


_LINE = hps.tuples(
    hps.sampled_from(logs.VERDICTS),
    hps.floats(allow_nan=False, allow_infinity=False),
    hps.floats(0, allow_infinity=False),
    hps.text(
        hps.characters(blacklist_characters="\t\n\r", blacklist_categories=["Cs"]), max_size=9
    ),
)


@hp.settings(deadline=None, database=None, derandomize=True, max_examples=60)
@hp.given(hps.lists(_LINE, min_size=1, max_size=5))
def test_statistics_of_any_log_are_numbers(tmp_path_factory, lines):
    """Also of the largest floats there are."""
    rows = [
        (idx, 1, 2 if verdict == "misclassified" else 1, verdict, margin, method, 0.1, radius)
        for idx, (verdict, margin, radius, method) in enumerate(lines)
    ]
    path = tmp_path_factory.mktemp("any") / "a.tsv"
    entries = reporting.read(report_support.write_lines(path, (*logs.CERTIFY, "radius"), rows))
    (found,) = reporting.certified_accuracy(entries, [0.5])
    assert 0 <= found.value <= 1 and (found.error >= 0 or len(rows) == 1)
    assert found.value == np.mean([v != "misclassified" and r >= 0.5 for v, _, r, _ in lines])


# Parts of a log.


def _split(path, count):
    """Cuts a log into parts, as a run on several machines leaves them."""
    head, *lines = path.read_text().splitlines()
    facts = logs.read_facts(path)
    parts = []
    for number in range(count):
        part = path.with_name(f"{path.stem}-{number:05d}-of-{count:05d}.tsv")
        part.write_text("\n".join([head, *lines[number::count]]) + "\n")
        if facts:
            hashes = {**facts["hashes"], "data": str(number)}
            logs.facts_path(part).write_text(json.dumps({**facts, "hashes": hashes}))
            for idx in reporting.read(part).idx:
                point = logs.read_counterexample(path, idx)
                if point is not None:
                    logs.counterexample_path(part, idx).parent.mkdir(exist_ok=True)
                    np.save(logs.counterexample_path(part, idx), point)
        parts.append(str(part))
    return parts


@pytest.mark.parametrize("kind", ["certify", "smoothing"])
def test_parts_are_one_log(kind, tmp_path):
    if kind == "certify":
        whole = report_support.certify_log(tmp_path / "log.tsv", *report_support.images())
    else:
        whole = report_support.smoothing_log(tmp_path / "log.tsv", 0)
    parts = _split(whole, 3)
    sources = report.load([parts[2], parts[0], parts[1]])
    (found,) = sources.logs
    wanted = reporting.read(whole)
    assert found.name == "log" and len(found) == len(wanted)
    order = np.argsort(found.idx)
    for name in ("idx", "label", "correct", "radius", "seconds", "verdict", "margin", "method"):
        one, two = getattr(found, name), getattr(wanted, name)
        assert two is None or np.array_equal(one[order], two)
    # Each entry knows its own file.
    for place in range(len(found)):
        file, line = found.where(place).rsplit(":", 1)
        text = pathlib.Path(file).read_text().splitlines()[int(line) - 1]
        assert int(text.split("\t")[0]) == found.idx[place]
    exact = reporting.average_certified_radius(found)
    assert exact == pytest.approx(reporting.average_certified_radius(wanted))
    if kind == "certify":
        assert found.hashes == {**wanted.hashes, "data": "2 0 1"}
        inputs = examples.Inputs(*report_support.images())
        made = examples.examples_part([found], inputs, 99).section().body
        assert made.count("counterexample of input") == wanted.verdicts("falsified").sum()


def test_parts_that_are_no_log_are_refused(tmp_path):
    parts = _split(report_support.certify_log(tmp_path / "a.tsv", *report_support.images()), 3)
    for given in (parts[:2], [*parts[:2], parts[2].replace("of-00003", "of-00004")]):
        with pytest.raises(ValueError, match="a.tsv has 3 parts, and all parts are required"):
            report.load(given)
    text = pathlib.Path(parts[0]).read_text()
    line = pathlib.Path(parts[1]).read_text().splitlines()[1]
    pathlib.Path(parts[0]).write_text(f"{text}{line}\n")
    with pytest.raises(
        ValueError, match=r"00001-of-00003.tsv:2: idx 1 is already in .*00000-of.*:12"
    ):
        report.load(parts)
    pathlib.Path(parts[0]).write_text(text)
    facts = logs.read_facts(parts[1])
    facts["hashes"]["model"] = "another"
    logs.facts_path(parts[1]).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="must have the hashes of .*another"):
        report.load(parts)
    columns = logs.CERTIFY
    report_support.write_lines(pathlib.Path(parts[1]), columns, [])
    with pytest.raises(ValueError, match="must have the columns of"):
        report.load(parts)


# Folders of runs.


def test_reads_a_run(tmp_path):
    run = runs.read_run(report_support.run_folder(tmp_path / "ibp"))
    assert run.name == "ibp" and run.facts["seed"] == 3
    assert run.error("attack", "error") == 0.0525
    assert run.error("methods", "crown", "error") == 0.0875
    assert run.error("methods", "ibp", "error") is None
    assert run.history["eps"].tolist() == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    os.remove(tmp_path / "ibp/results.json")  # As before the run has ended.
    os.remove(tmp_path / "ibp/history.json")
    assert runs.read_run(tmp_path / "ibp").error("clean_error") is None
    os.remove(tmp_path / "ibp/run.json")
    with pytest.raises(ValueError, match="no run.json"):
        runs.read_run(tmp_path / "ibp")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", "[1]", "run.json must be a JSON object. Received: it holds a list"),
        ("run.json", "{", "run.json must be a JSON object"),
        ("results.json", "\udcff", "results.json must be a JSON object"),
        ("results.json", '{"methods": 3}', "must hold an object for methods. Received: 3"),
        ("history.json", '{"loss": 3}', "must hold lists of numbers. Received: 3 for 'loss'"),
        ("history.json", '{"loss": ["a"]}', r"lists of numbers. Received: \['a'\]"),
        ("history.json", '{"loss": ' + "[" * 100_000, "must be a JSON object"),
    ],
    ids=range(7),
)
def test_odd_files_of_runs_are_refused(name, content, message, tmp_path):
    folder = report_support.run_folder(tmp_path / "run")
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        runs.read_run(folder)


_JSON = hps.recursive(
    hps.none() | hps.booleans() | hps.integers() | hps.floats() | hps.text(max_size=8),
    lambda inner: hps.lists(inner, max_size=3) | hps.dictionaries(hps.text(max_size=8), inner),
    max_leaves=12,
)


@hp.settings(deadline=None, database=None, derandomize=True, max_examples=100)
@hp.given(_JSON, hps.sampled_from(["run.json", "history.json", "results.json"]))
def test_any_json_is_a_run_or_a_clear_error(tmp_path_factory, value, name):
    folder = report_support.run_folder(tmp_path_factory.mktemp("any") / "run")
    (folder / name).write_text(json.dumps(value))
    try:
        run = runs.read_run(folder)
    except ValueError as error:
        assert name in str(error)
        return
    assert all(each.dtype == np.float64 for each in run.history.values())


def test_numbers_of_json():
    assert values.number(10**400) == math.inf and values.number(-(10**400)) == -math.inf
    assert values.number(True) is None and values.number("1") is None
    assert values.find({"a": {"eps": 1}, "eps": 2}, "eps") == 2
    assert values.find({"a": {"eps": 1}}, "eps") == 1
    assert values.find(None, "eps") is None
