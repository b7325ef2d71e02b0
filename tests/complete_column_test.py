"""The program that verifies kept runs completely: what it counts, and how it resumes."""

import importlib.util
import json

import keras
import numpy as np
import pytest

from tests import support
from tfcert import logs

IMAGES = 8


@pytest.fixture(scope="module")
def program():
    """benchmarks/complete_column.py, which is no package, without its flags."""
    from absl import flags

    path = support.ROOT / "benchmarks" / "complete_column.py"
    spec = importlib.util.spec_from_file_location("complete_column", path)
    module = importlib.util.module_from_spec(spec)
    before = set(flags.FLAGS)
    spec.loader.exec_module(module)
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    return module


def run_folder(root):
    """A finished run with a small network."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(12, "relu"), keras.layers.Dense(12, "relu")]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(3)])
    root.mkdir()
    model.save(root / "model.keras")
    (root / "run.json").write_text(json.dumps({"flags": {"eps": 0.15, "norm": "inf"}}))
    (root / "results.json").write_text(json.dumps({"methods": {}}))
    x = np.random.default_rng(2).uniform(size=(IMAGES, 4)).astype("float32")
    y = np.argmax(model.predict(x, verbose=0), axis=-1)
    y[0] = (y[0] + 1) % 3  # One that is misclassified.
    return model, x, y


def test_counts_what_the_search_decides_and_resumes(program, tmp_path):
    folder = tmp_path / "run"
    _, x, y = run_folder(folder)
    half = program.verify(folder, x[:4], y[:4], 20.0, part=4, verbose=0)
    first = (folder / "complete_00000.tsv").read_text()
    whole = program.verify(folder, x, y, 20.0, part=4, verbose=0)
    assert (half["samples"], whole["samples"]) == (4, IMAGES)
    assert (folder / "complete_00000.tsv").read_text() == first  # Nothing is verified again.
    assert whole["seconds"] >= half["seconds"] > 0
    # A search without a time limit decides everything, and some images need it.
    assert whole["undecided"] == 0.0 and whole["error"] == whole["attack_error"]
    assert 1 / IMAGES < whole["error"] < 1.0
    assert 0 < whole["searched"] < IMAGES


def test_images_without_time_stay_undecided(program, tmp_path):
    folder = tmp_path / "run"
    _, x, y = run_folder(folder)
    found = program.verify(folder, x, y, 1e-9, part=IMAGES, verbose=0)
    assert found["undecided"] > 0
    assert found["error"] == pytest.approx(found["attack_error"] + found["undecided"])
    assert found["searched"] >= found["undecided"] * IMAGES
    log = (folder / "complete_00000.tsv").read_text()
    # A second search takes those images alone, and keeps their numbers.
    longer = program.verify(folder, x, y, 1e-9, 20.0, part=IMAGES, verbose=0)
    assert longer["undecided"] == 0.0 and longer["seconds"] > found["seconds"]
    assert longer["attack_error"] >= found["attack_error"]
    assert (folder / "complete_00000.tsv").read_text() == log
    again = logs.read(folder / "complete_again_20.tsv")
    first = logs.read(folder / "complete_00000.tsv")
    open_before = first.column("idx")[first.column("verdict") == "unknown"]
    assert sorted(again.column("idx")) == sorted(open_before)


def test_only_finished_runs_with_bounds_are_verified(program, tmp_path):
    from absl import app

    folder = tmp_path / "run"
    run_folder(folder)
    for name, results in (("smoothed", {"sigma": 0.5}), ("mixed", {"methods": {}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    (tmp_path / "begun").mkdir()
    names = [found.name for found in program.finished(tmp_path, None)]
    assert names == ["mixed", "run"]
    assert program.finished(tmp_path, ["run"]) == [folder]
    with pytest.raises(app.UsageError, match=r"no finished runs .*\['begun'\]"):
        program.finished(tmp_path, ["run", "begun"])
