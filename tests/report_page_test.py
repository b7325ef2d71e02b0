"""What a report writes: the page, its tables and figures, and what it does with hostile texts."""

import re

import numpy as np
import pytest

from tests import report_support
from tests.page_support import check, rows_of, write_page
from tfcert import logs, reporting
from tfcert.reporting import examples, images, report

# The page.


def test_smoothing_logs(tmp_path):
    first = report_support.smoothing_log(tmp_path / "gaussian.tsv", 0)
    second = report_support.smoothing_log(tmp_path / "consistency.tsv", 1, better=0.1)
    text, files = write_page(tmp_path, first, second, radii_shown=[0.0, 0.25, 0.5])
    found = check(text)
    assert {"smoothing_curves.png", "smoothing_radii.csv", "smoothing_radii.tex"} <= files
    # The numbers of the files are those of the statistics, to all digits.
    for row, path in zip(
        rows_of(tmp_path / "out/smoothing_radii.csv"), (first, second), strict=True
    ):
        entries = reporting.read(path)
        acr = reporting.average_certified_radius(entries)
        assert row["Log"] == path.stem and int(row["Inputs"]) == 60
        assert (float(row["ACR"]), float(row["ACR, standard error"])) == acr
        half = reporting.certified_accuracy(entries, [0.5])[0]
        assert (float(row["r = 0.5"]), float(row["r = 0.5, standard error"])) == half
        assert f"{acr.value:.3f} ± {acr.error:.3f}" in found.text
        assert f"{100 * half.value:.1f} ± {100 * half.error:.1f}%" in found.text
    (pair,) = rows_of(tmp_path / "out/smoothing_pairs.csv")
    wanted = reporting.paired_difference(reporting.read(first), reporting.read(second))
    assert float(pair["ACR"]) == wanted.value < 0
    assert float(pair["ACR, standard error"]) == wanted.error
    by_class = rows_of(tmp_path / "out/smoothing_classes.csv")
    assert [row["Class"] for row in by_class] == list("0011223344")
    chosen = reporting.read(second).select(reporting.read(second).label == 2)
    assert float(by_class[5]["ACR"]) == reporting.average_certified_radius(chosen).value
    assert "Pictures need the data" in found.text


def test_verdicts(tmp_path):
    x, y = report_support.images()
    path = report_support.certify_log(tmp_path / "run.tsv", x, y)
    text, files = write_page(tmp_path, path, inputs=examples.Inputs(x, y), gallery=3)
    found = check(text)
    entries = reporting.read(path)
    counts = {name: int(entries.verdicts(name).sum()) for name in ("verified", "falsified")}
    (row,) = rows_of(tmp_path / "out/verdicts.csv")
    assert float(row["Verified"]) == counts["verified"] / 30
    assert float(row["Attacked"]) == pytest.approx(
        entries.correct.mean() - counts["falsified"] / 30
    )
    assert float(row["Clean"]) == entries.correct.mean() and float(row["ε"]) == 0.1
    methods = {row["Decided by"]: row for row in rows_of(tmp_path / "out/methods.csv")}
    assert list(methods) == ["none", "pgd", "ibp", "crown"]  # As the cascade goes.
    assert int(methods["ibp"]["Verified"]) == counts["verified"]
    assert int(methods["pgd"]["Falsified"]) == counts["falsified"]
    per_class = rows_of(tmp_path / "out/classes.csv")
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
    assert f"Without {left_out} inputs without a finite bound." in found.text
    for fact in ("c0ffee", entries.sha256, "hashes model"):
        assert fact in found.text


def test_the_head_says_what_a_page_is_about(tmp_path):
    x, y = report_support.images()
    facts = {"flags": {"dataset": "digits", "split": "test", "model_path": "run/model.keras"}}
    path = report_support.certify_log(tmp_path / "a.tsv", x, y, facts=facts)
    found = check(write_page(tmp_path, path)[0])
    for row in ("Data setdigits, test part", "Modelrun/model.keras", "Changes of an inputε = 0.1"):
        assert row in found.text
    assert "<h1>Certification report</h1>" in (tmp_path / "out/index.html").read_text()
    # What a log does not name is taken from the caller.
    other = report_support.certify_log(tmp_path / "b.tsv", x, y)
    found = check(write_page(tmp_path, other, dataset="mine", overwrite=True)[0])
    assert "Data setmine" in found.text and "Modelhash m" in found.text


def test_two_points_are_no_curve(tmp_path):
    x, y = report_support.images()
    one, more = (report_support.certify_log(tmp_path / f"{e}.tsv", x, y, e) for e in (0.1, 0.2))
    other = report_support.certify_log(tmp_path / "other.tsv", x, y, 0.1, model="another")
    marks, lines = "empty marks attacked", "Lines join the measured points."
    text, files = write_page(tmp_path, one)
    assert marks not in text and "verdicts_curves.png" not in files
    text, _ = write_page(tmp_path, one, other, overwrite=True)
    assert marks in text and lines not in text
    text, _ = write_page(tmp_path, one, more, overwrite=True)
    assert marks in text and lines in text


def test_captions_name_the_class_of_a_counterexample(tmp_path):
    x, y = report_support.images()
    path = report_support.certify_log(tmp_path / "a.tsv", x, y)
    asked = []

    def classify(points):
        asked.append(points)
        return np.array([7])

    text, _ = write_page(
        tmp_path, path, inputs=examples.Inputs(x, y), gallery=99, classify=classify
    )
    entries = reporting.read(path)
    broken = np.flatnonzero(entries.verdicts("falsified"))
    for place, points in zip(broken, asked, strict=True):
        label = int(entries.label[place])
        assert f"{entries.idx[place]}: class {label} becomes class 7" in text
        stored = logs.read_counterexample(path, int(entries.idx[place]))
        np.testing.assert_array_equal(points, stored[None])


def test_training_runs(tmp_path):
    folders = [report_support.run_folder(tmp_path / name) for name in ("ibp", "maar")]
    text, _ = write_page(tmp_path, *folders)
    found = check(text)
    assert found.tags.count("svg") == 3
    row, _ = rows_of(tmp_path / "out/training.csv")
    assert float(row["Clean"]) == 0.98 and float(row["Verified, crown"]) == pytest.approx(0.9125)
    assert float(row["Minutes"]) == 5 and row["Epochs"] == "5"
    assert "<h1>Training report</h1>" in text
    assert "94.75%" in found.text and "flags objective" in found.text


def test_everything_on_one_page(tmp_path):
    x, y = report_support.images()
    paths = [report_support.certify_log(tmp_path / f"{e}.tsv", x, y, e) for e in (0.1, 0.2)]
    paths += [report_support.smoothing_log(tmp_path / f"s{i}.tsv", i) for i in range(2)]
    paths.append(report_support.run_folder(tmp_path / "run"))
    text, files = write_page(tmp_path, *paths)
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
    text, _ = write_page(tmp_path, path)
    assert "<dt>Noise</dt><dd>σ = 0.25, samples = 10,000</dd>" in text
    assert "a ends in the middle of a line" in text
    assert "<dd>59</dd>" in text


def test_pairs_about_other_data_are_left_out_and_said(tmp_path):
    x, y = report_support.images()
    paths = [
        report_support.certify_log(tmp_path / "a.tsv", x, y),
        report_support.certify_log(tmp_path / "b.tsv", x, (y + 1) % 4),
    ]
    text, files = write_page(tmp_path, *paths)
    assert "Not compared:" in text and "are not about the same data" in text
    assert "verdicts_pairs.csv" not in files


# Writing.


def test_files_are_overwritten_on_wish_alone(tmp_path):
    path = report_support.smoothing_log(tmp_path / "a.tsv", 0)
    text, files = write_page(tmp_path, path)
    (tmp_path / "out/index.html").write_text("mine")
    with pytest.raises(ValueError, match="out already has index.html, "):
        write_page(tmp_path, path)
    (tmp_path / "out/smoothing_radii.csv").unlink()
    assert (tmp_path / "out/index.html").read_text() == "mine"
    again, _ = write_page(tmp_path, path, overwrite=True)
    assert again == text  # The same input gives the same page, to the byte.
    assert {path.name for path in (tmp_path / "out").iterdir()} == files  # No parts are left.


def test_a_full_disk_leaves_the_old_page(tmp_path, monkeypatch):
    path = report_support.smoothing_log(tmp_path / "a.tsv", 0)
    text, _ = write_page(tmp_path, path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfcert.logs.writing.os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_page(tmp_path, path, title="another", overwrite=True)
    assert (tmp_path / "out/index.html").read_text(encoding="utf-8") == text
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.parametrize(
    ("paths", "names", "message"),
    [
        ([], None, "Received: none"),
        (["a.tsv", "./a.tsv"], None, "must name each log once"),
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
        write_page(tmp_path, path, inputs=examples.Inputs(x, (y + 1) % 4))
    assert not (tmp_path / "out").exists()
    text, _ = write_page(tmp_path, path, inputs=examples.Inputs(x.reshape(30, -1), y))
    assert "No pictures: inputs of shape (30,) are not images." in text


def test_pictures_are_those_that_idx_names(tmp_path):
    """Not those at the line's place in the log."""
    x, y = report_support.images()
    whole = report_support.certify_log(tmp_path / "a.tsv", x, y)
    head, *lines = whole.read_text().splitlines()
    order = np.random.default_rng(2).permutation(30)[:12]
    whole.write_text("\n".join([head, *(lines[place] for place in order)]) + "\n")
    entries = reporting.read(whole)
    assert entries.idx.tolist() == order.tolist()
    text, _ = write_page(tmp_path, whole, inputs=examples.Inputs(x, y), gallery=99)
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
    text, _ = write_page(tmp_path, path, inputs=examples.Inputs(x, y), gallery=99)
    assert "1 counterexamples are not stored beside the log." in text
    # Labels are right, so the pictures that are there are those of their inputs.
    assert text.count("counterexample of input") == len(stored) - 1
