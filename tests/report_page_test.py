"""What a report writes: the page, its tables and figures, and what it does with hostile texts."""

import csv
import html.parser
import io
import json
import math
import re
import sys

import hypothesis as hp
import hypothesis.strategies as hps
import numpy as np
import pytest

from tests import report_support
from tests.report_support import HOSTILE
from tfcert import logs, reporting
from tfcert.reporting import examples, images, report

_VOID = {"meta", "img", "br"}


class Page(html.parser.HTMLParser):
    """Checks that tags close in their order, and collects what a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check(text: str) -> Page:
    """What every page must be: well formed, with nothing that runs or is loaded."""
    found = Page(text)
    assert not {"script", "iframe", "object", "embed", "link", "form", "base"} & set(found.tags)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for tag, name, value in found.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href"):
            target = value.startswith(("#", "data:image/png;base64,", "https://doi.org/"))
            assert target, (tag, name, value)
            if value.startswith("#"):
                assert value[1:] in ids
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    return found


def _write(tmp_path, *paths, names=None, **options):
    sources = report.load([str(path) for path in paths], names)
    written = report.write(sources, tmp_path / "out", **options)
    assert written[0] == tmp_path / "out/index.html"
    return written[0].read_text(encoding="utf-8"), {path.name for path in written}


def _rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


# The page.


def test_smoothing_logs(tmp_path):
    first = report_support.smoothing_log(tmp_path / "gaussian.tsv", 0)
    second = report_support.smoothing_log(tmp_path / "consistency.tsv", 1, better=0.1)
    text, files = _write(tmp_path, first, second, radii_shown=[0.0, 0.25, 0.5])
    found = check(text)
    assert {"smoothing_curves.png", "smoothing_radii.csv", "smoothing_radii.tex"} <= files
    # The numbers of the files are those of the statistics, to all digits.
    for row, path in zip(_rows(tmp_path / "out/smoothing_radii.csv"), (first, second), strict=True):
        entries = reporting.read(path)
        acr = reporting.average_certified_radius(entries)
        assert row["Log"] == path.stem and int(row["Inputs"]) == 60
        assert (float(row["ACR"]), float(row["ACR, standard error"])) == acr
        half = reporting.certified_accuracy(entries, [0.5])[0]
        assert (float(row["r = 0.5"]), float(row["r = 0.5, standard error"])) == half
        assert f"{acr.value:.3f} ± {acr.error:.3f}" in found.text
        assert f"{100 * half.value:.1f} ± {100 * half.error:.1f}%" in found.text
    (pair,) = _rows(tmp_path / "out/smoothing_pairs.csv")
    wanted = reporting.paired_difference(reporting.read(first), reporting.read(second))
    assert float(pair["ACR"]) == wanted.value < 0
    assert float(pair["ACR, standard error"]) == wanted.error
    by_class = _rows(tmp_path / "out/smoothing_classes.csv")
    assert [row["Class"] for row in by_class] == list("0011223344")
    chosen = reporting.read(second).select(reporting.read(second).label == 2)
    assert float(by_class[5]["ACR"]) == reporting.average_certified_radius(chosen).value
    assert "Pictures need the data" in found.text


def test_verdicts(tmp_path):
    x, y = report_support.images()
    path = report_support.certify_log(tmp_path / "run.tsv", x, y)
    text, files = _write(tmp_path, path, inputs=examples.Inputs(x, y), gallery=3)
    found = check(text)
    entries = reporting.read(path)
    counts = {name: int(entries.verdicts(name).sum()) for name in ("verified", "falsified")}
    (row,) = _rows(tmp_path / "out/verdicts.csv")
    assert float(row["Verified"]) == counts["verified"] / 30
    assert float(row["Attacked"]) == pytest.approx(
        entries.correct.mean() - counts["falsified"] / 30
    )
    assert float(row["Clean"]) == entries.correct.mean() and float(row["ε"]) == 0.1
    methods = {row["Decided by"]: row for row in _rows(tmp_path / "out/methods.csv")}
    assert list(methods) == ["none", "pgd", "ibp", "crown"]  # As the cascade goes.
    assert int(methods["ibp"]["Verified"]) == counts["verified"]
    assert int(methods["pgd"]["Falsified"]) == counts["falsified"]
    per_class = _rows(tmp_path / "out/classes.csv")
    assert sum(int(row["Inputs"]) for row in per_class) == 30
    assert sum(int(row["Inputs"]) * float(row["Verified"]) for row in per_class) == pytest.approx(
        counts["verified"]
    )
    # Three of each: most robust, least robust, and three pictures of each counterexample.
    assert found.tags.count("img") == 3 + 3 + 3 * 3
    assert f"{counts['falsified']} inputs have a counterexample" in found.text
    assert "misread when changed" in found.text
    assert "Changes of an inputε = 0.1 in the ℓ∞ norm, values from 0 to 1" in found.text
    assert "eps_curves.png" in files
    left_out = int(np.sum(entries.correct & ~np.isfinite(entries.margin)))
    assert f"Without {left_out} that have no finite bound." in found.text
    for fact in ("c0ffee", entries.sha256, "hashes model"):
        assert fact in found.text


def test_the_head_says_what_a_page_is_about(tmp_path):
    x, y = report_support.images()
    facts = {"flags": {"dataset": "digits", "split": "test", "model_path": "run/model.keras"}}
    path = report_support.certify_log(tmp_path / "a.tsv", x, y, facts=facts)
    found = check(_write(tmp_path, path)[0])
    for row in ("Data setdigits, test part", "Modelrun/model.keras", "Changes of an inputε = 0.1"):
        assert row in found.text
    assert "<h1>Certification report</h1>" in (tmp_path / "out/index.html").read_text()
    # What a log does not name is taken from the caller.
    other = report_support.certify_log(tmp_path / "b.tsv", x, y)
    found = check(_write(tmp_path, other, dataset="mine", overwrite=True)[0])
    assert "Data setmine" in found.text and "Modelhash m" in found.text


def test_two_points_are_no_curve(tmp_path):
    x, y = report_support.images()
    one, more = (report_support.certify_log(tmp_path / f"{e}.tsv", x, y, e) for e in (0.1, 0.2))
    other = report_support.certify_log(tmp_path / "other.tsv", x, y, 0.1, model="another")
    marks, lines = "Empty marks: attacked", "Lines join what was measured."
    text, files = _write(tmp_path, one)
    assert marks not in text and "verdicts_curves.png" not in files
    text, _ = _write(tmp_path, one, other, overwrite=True)
    assert marks in text and lines not in text
    text, _ = _write(tmp_path, one, more, overwrite=True)
    assert marks in text and lines in text


def test_captions_name_the_class_of_a_counterexample(tmp_path):
    x, y = report_support.images()
    path = report_support.certify_log(tmp_path / "a.tsv", x, y)
    asked = []

    def classify(points):
        asked.append(points)
        return np.array([7])

    text, _ = _write(tmp_path, path, inputs=examples.Inputs(x, y), gallery=99, classify=classify)
    entries = reporting.read(path)
    broken = np.flatnonzero(entries.verdicts("falsified"))
    for place, points in zip(broken, asked, strict=True):
        label = int(entries.label[place])
        assert f"{entries.idx[place]}: class {label} becomes class 7" in text
        stored = logs.read_counterexample(path, int(entries.idx[place]))
        np.testing.assert_array_equal(points, stored[None])


def test_training_runs(tmp_path):
    folders = [report_support.run_folder(tmp_path / name) for name in ("ibp", "maar")]
    text, _ = _write(tmp_path, *folders)
    found = check(text)
    assert found.tags.count("svg") == 3
    row, _ = _rows(tmp_path / "out/training.csv")
    assert float(row["Clean"]) == 0.98 and float(row["Verified, crown"]) == pytest.approx(0.9125)
    assert float(row["Minutes"]) == 5 and row["Epochs"] == "5"
    assert "<h1>Training report</h1>" in text
    assert "94.75%" in found.text and "flags objective" in found.text


def test_everything_on_one_page(tmp_path):
    x, y = report_support.images()
    paths = [report_support.certify_log(tmp_path / f"{e}.tsv", x, y, e) for e in (0.1, 0.2)]
    paths += [report_support.smoothing_log(tmp_path / f"s{i}.tsv", i) for i in range(2)]
    paths.append(report_support.run_folder(tmp_path / "run"))
    text, files = _write(tmp_path, *paths)
    found = check(text)
    titles = ["Verdicts", "Largest verified ε", "Certified radii", "Training", "Inputs"]
    for title in [*titles, "How these numbers came about"]:
        assert title in found.text
    assert len(files) == len(set(files)) == len(list((tmp_path / "out").iterdir()))
    assert "<h1>Training and certification report</h1>" in text
    assert "ε = 0.1 in the ℓ∞ norm, values from 0 to 1; ε = 0.2 in the" in found.text
    # Provenance is folded away: a part for each source, and one for the page.
    assert found.tags.count("details") == len(paths) + 1
    # Different eps are not compared as if they were one.
    assert "verdicts_pairs.csv" not in files and "eps_pairs.csv" in files


def test_a_cut_log_says_so(tmp_path):
    path = report_support.smoothing_log(tmp_path / "a.tsv", 0)
    path.write_bytes(path.read_bytes()[:-4])
    logs.facts_path(path).write_text('{"settings": {"sigma": 0.25, "n": 10000}}')
    text, _ = _write(tmp_path, path)
    assert "<dt>Noise</dt><dd>σ = 0.25, samples = 10,000</dd>" in text
    assert "a ends in the middle of a line" in text
    assert "<dd>59</dd>" in text


def test_pairs_about_other_data_are_left_out_and_said(tmp_path):
    x, y = report_support.images()
    paths = [
        report_support.certify_log(tmp_path / "a.tsv", x, y),
        report_support.certify_log(tmp_path / "b.tsv", x, (y + 1) % 4),
    ]
    text, files = _write(tmp_path, *paths)
    assert "Not compared:" in text and "are not about the same data" in text
    assert "verdicts_pairs.csv" not in files


# Writing.


def test_files_are_overwritten_on_wish_alone(tmp_path):
    path = report_support.smoothing_log(tmp_path / "a.tsv", 0)
    text, files = _write(tmp_path, path)
    (tmp_path / "out/index.html").write_text("mine")
    with pytest.raises(ValueError, match="out has index.html, .* already"):
        _write(tmp_path, path)
    (tmp_path / "out/smoothing_radii.csv").unlink()
    assert (tmp_path / "out/index.html").read_text() == "mine"
    again, _ = _write(tmp_path, path, overwrite=True)
    assert again == text  # The same input gives the same page, to the byte.
    assert {path.name for path in (tmp_path / "out").iterdir()} == files  # No parts are left.


def test_a_full_disk_leaves_the_old_page(tmp_path, monkeypatch):
    path = report_support.smoothing_log(tmp_path / "a.tsv", 0)
    text, _ = _write(tmp_path, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfcert.logs.writing.os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        _write(tmp_path, path, title="another", overwrite=True)
    assert (tmp_path / "out/index.html").read_text(encoding="utf-8") == text
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.parametrize(
    ("paths", "names", "message"),
    [
        ([], None, "Received: none"),
        (["a.tsv", "./a.tsv"], None, "Each log is wanted once"),
        (["a.tsv", "b.tsv"], ["x"], "2 different names"),
        (["a.tsv", "b.tsv"], ["x", "x"], "2 different names"),
        (["."], None, "no run.json"),
    ],
)
def test_what_is_no_list_of_sources_is_refused(paths, names, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.tsv", "b.tsv"):
        report_support.smoothing_log(tmp_path / name, 0)
    with pytest.raises(ValueError, match=message):
        report.load(paths, names)


def test_names_are_as_long_as_they_must_be(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        report_support.smoothing_log(tmp_path / folder / "log.tsv", 0)
    report_support.smoothing_log(tmp_path / "other.tsv", 0)
    found = report.load([str(tmp_path / name) for name in ("x/log.tsv", "other.tsv")])
    assert [entries.name for entries in found.logs] == ["log", "other"]
    found = report.load([str(tmp_path / name) for name in ("x/log.tsv", "y/log.tsv")])
    assert [entries.name for entries in found.logs] == ["x/log", "y/log"]
    # What looks like an ending of a folder is a part of its name.
    folders = [str(report_support.run_folder(tmp_path / name)) for name in ("ibp_0.1", "ibp_0.3")]
    assert [run.name for run in report.load(folders).runs] == ["ibp_0.1", "ibp_0.3"]


# Hostile content.


def test_hostile_texts_are_shown_and_nothing_else(tmp_path):
    x, y = report_support.images()
    facts = {HOSTILE: HOSTILE, "nested": [{"<b>": [HOSTILE]}], "/etc/passwd": "../../etc/passwd"}
    name = HOSTILE.replace("/", "").replace("\x07", "")
    log = report_support.certify_log(tmp_path / f"{name}.tsv", x, y, facts=facts)
    lines = log.read_text(encoding="utf-8").replace("\tibp\t", f"\t{name}\t")
    log.write_text(lines, encoding="utf-8")
    folder = report_support.run_folder(tmp_path / "r", facts={"flags": {HOSTILE: "<script>"}})
    for file in ("history.json", "results.json"):
        text = (folder / file).read_text()
        text = text.replace('"natural"', json.dumps(name)).replace('"crown"', json.dumps(HOSTILE))
        (folder / file).write_text(text)
    text, files = _write(
        tmp_path, log, folder, title=HOSTILE, inputs=examples.Inputs(x, y), names=[name, HOSTILE]
    )
    found = check(text)
    assert "<img src=x onerror=alert(1)>" in found.text  # Shown as text ...
    assert "<img src=x" not in text  # ... because it is escaped.
    assert "\u202e" not in text and "\x07" not in text and "\u200b" not in text
    assert all(re.fullmatch(r"[\w.]+", file) for file in files)
    sheet = (tmp_path / "out/methods.csv").read_text(encoding="utf-8")
    assert "<img" in sheet and "\u202e" not in sheet


def test_paths_in_files_are_never_opened(tmp_path, monkeypatch):
    """A log that names files, and facts that do, lead to no access but to the log's own files."""
    x, y = report_support.images()
    bait = tmp_path / "bait.npy"
    np.save(bait, x[0])
    log = report_support.certify_log(tmp_path / "a.tsv", x, y, facts={"counterexamples": str(bait)})
    text = log.read_text().replace("\tpgd\t", f"\t{bait}\t")
    log.write_text(text)
    opened = []
    hook_on = [True]

    def hook(event, arguments):
        if hook_on[0] and event == "open" and str(tmp_path) in str(arguments[0]):
            opened.append(str(arguments[0]))

    sys.addaudithook(hook)
    try:
        _write(tmp_path, log, inputs=examples.Inputs(x, y))
    finally:
        hook_on[0] = False
    assert opened and str(bait) not in opened
    own = (str(log), str(tmp_path / "out"), str(tmp_path / "a.tsv.counterexamples"))
    assert all(path.startswith(own) for path in opened)


# Without shrinking, which would take a page for each of its many steps.
@hp.settings(
    deadline=None,
    database=None,
    derandomize=True,
    max_examples=3,
    phases=[hp.Phase.explicit, hp.Phase.generate],
)
@hp.example([(-1.7e308, 1.7e308), (1.7e308, 5e-324)], [math.nan, math.inf, -1e308, 1e308], "a$")
@hp.example([(-math.inf, 0.0)], [0.0], "_")
@hp.example([(1e9, 1.0), (1e9, 1.0)], [1.0], "loss")
@hp.given(
    hps.lists(
        hps.tuples(
            hps.floats(allow_nan=False, max_value=1e308), hps.floats(0, allow_infinity=False)
        ),
        min_size=1,
        max_size=4,
    ),
    hps.lists(hps.floats(), min_size=1, max_size=4),
    hps.text(max_size=10),
)
def test_any_numbers_make_a_page(tmp_path_factory, numbers, history, key):
    """The largest numbers, denormals, NaN and infinity in a history: a page, no crash."""
    folder = tmp_path_factory.mktemp("any")
    rows = [(i, 1, 1, "verified", m, "ibp", 0.1, r) for i, (m, r) in enumerate(numbers)]
    columns = ("idx", "label", "predict", "verdict", "margin", "method", "seconds", "radius")
    log = report_support.write_lines(folder / "a.tsv", columns, rows)
    run = report_support.run_folder(folder / "r")
    values = {"loss": history, "val_accuracy": history, "eps": history, key: history}
    (run / "history.json").write_text(json.dumps(values))
    text, _ = _write(folder, log, run)
    check(text)


# Pictures.


def test_pictures_need_the_right_data(tmp_path):
    x, y = report_support.images()
    path = report_support.certify_log(tmp_path / "a.tsv", x, y)
    entries = [reporting.read(path)]
    for inputs, message in (
        (examples.Inputs(x, (y + 1) % 4), "a.tsv:2: the label must be that of the given data, 1"),
        (examples.Inputs(x[:7], y[:7]), "of 7 inputs. Received: idx 7"),
        (examples.Inputs(x[:, :, :4], y), r"must hold finite numbers of shape \(6, 4, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            examples.examples_part(entries, inputs, 3)
    with pytest.raises(ValueError, match="the label must be"):
        _write(tmp_path, path, inputs=examples.Inputs(x, (y + 1) % 4))
    assert not (tmp_path / "out").exists()
    text, _ = _write(tmp_path, path, inputs=examples.Inputs(x.reshape(30, -1), y))
    assert "No pictures: inputs of shape (30,) are no images." in text


def test_pictures_are_those_that_idx_names(tmp_path):
    """Not those at the line's place in the log."""
    x, y = report_support.images()
    whole = report_support.certify_log(tmp_path / "a.tsv", x, y)
    head, *lines = whole.read_text().splitlines()
    order = np.random.default_rng(2).permutation(30)[:12]
    whole.write_text("\n".join([head, *(lines[place] for place in order)]) + "\n")
    entries = reporting.read(whole)
    assert entries.idx.tolist() == order.tolist()
    text, _ = _write(tmp_path, whole, inputs=examples.Inputs(x, y), gallery=99)
    for place, idx in enumerate(entries.idx):
        plain = images.picture(x[idx], f"input {idx}, of class {y[idx]}")
        assert (plain in text) == entries.correct[place]
        if entries.verdict[place] == "falsified":
            point = logs.read_counterexample(whole, idx)
            card = f'counterexample of input {idx}">changed</span><span>'
            change, largest = images.difference(point, x[idx])
            assert (
                card + change in text
                and images.picture(point, f"counterexample of input {idx}") in text
            )
            assert largest == pytest.approx(0.1)
    radius = entries.radius[entries.correct]
    shown = [float(r) for r in re.findall(r"radius ([0-9.]+)</figcaption>", text)]
    # Most robust first, then from the least robust one on.
    wanted = [float(f"{r:.3g}") for r in sorted(radius, reverse=True)]
    assert shown == wanted + wanted[::-1]


def test_missing_counterexamples_are_said(tmp_path):
    x, y = report_support.images()
    path = report_support.certify_log(tmp_path / "a.tsv", x, y)
    stored = sorted((tmp_path / "a.tsv.counterexamples").iterdir())
    stored[0].unlink()
    text, _ = _write(tmp_path, path, inputs=examples.Inputs(x, y), gallery=99)
    assert "1 counterexamples are not stored beside the log." in text
    # Labels are right, so the pictures that are there are those of their inputs.
    assert text.count("counterexample of input") == len(stored) - 1
