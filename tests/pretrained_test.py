"""Published networks: loading with a checksum, cards, and certificates that come out again."""

import doctest
import importlib.util
import json
import shutil
import sys

import keras
import numpy as np
import pytest

import tfcert
from tests import support
from tfcert import datasets, models
from tfcert.cli import train_config
from tfcert.models import published

FOLDER = support.ROOT / "pretrained"
NAMES = sorted(json.loads((FOLDER / "index.json").read_text(encoding="utf-8")))


def read(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture
def program(monkeypatch, tmp_path):
    """benchmarks/publish.py, which is no package, with a folder of its own."""
    from absl import flags

    path = support.ROOT / "benchmarks" / "publish.py"
    spec = importlib.util.spec_from_file_location("publish", path)
    module = importlib.util.module_from_spec(spec)
    before = set(flags.FLAGS)
    monkeypatch.setitem(sys.modules, "publish", module)
    spec.loader.exec_module(module)
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "published")
    return module


@pytest.fixture
def run(tmp_path):
    """A finished run with a network of one layer, whose certificates can be told by hand."""
    folder = tmp_path / "digits_0.1_ibp"
    folder.mkdir()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    model.layers[0].set_weights([np.eye(2, dtype="float32")])
    model.compile(keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    model.save(folder / "model.keras")
    facts = {"objective": "ibp", "option": ["a=1", "b=(1,2)"], "dataset": "digits", "eps": 0.1}
    facts |= {"norm": "inf", "model": "own", "attack_steps": 9, "drops": ["1", "2"], "mean": None}
    facts |= {"data_dir": "/home/somebody", "resume": True, "population_statistics": True}
    about = {"flags": facts, "parameters": 4, "commit": "a" * 40, "versions": {}}
    (folder / "run.json").write_text(json.dumps(about))
    results = {"eps": 0.1, "samples": 3, "clean_error": 0.25, "attack": {"error": 0.5}}
    results["methods"] = {"ibp": {"error": 0.75}, "crown": {"error": 0.625}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


X = np.array([[0.9, 0.1], [0.5, 0.4], [0.2, 0.6]], "float32")


def test_publishes_file_card_certificates_and_checksum(program, run):
    program.publish(run, "digits_0.1", X, np.array([0, 0, 0]))
    program.publish(run, "another", X, np.array([0, 0, 0]))
    model = models.pretrained("digits_0.1", program.FOLDER)
    np.testing.assert_array_equal(model.layers[0].get_weights()[0], np.eye(2))
    size = (run / "model.keras").stat().st_size
    assert program.cards()[1]["bytes"] < size - 2000  # Without the state of the optimizer.
    found = json.loads((program.FOLDER / "digits_0.1.certificates.json").read_text())
    # Margins at the radius 0.1: 0.8 - 0.2, 0.1 - 0.2, and a wrong class.
    assert (found["verified"], found["unknown"], found["misclassified"]) == ([0], [1], [2])
    about = program.cards()[1]
    assert about["name"] == "digits_0.1" and about["clean_accuracy"] == 0.75
    assert about["certified_accuracy"] == {"ibp": 0.25, "crown": 0.375}
    assert "| 75.00 % | 50.00 % | 37.50 % | CROWN | " in program.tables()


def test_a_card_counts_complete_verification_of_the_whole_set_only(program, run):
    for samples, by in ((2, ["ibp", "crown"]), (3, ["ibp", "crown", "complete"])):
        found = {"samples": samples, "error": 0.5, "undecided": 0.0}
        (run / "complete.json").write_text(json.dumps(found))
        about = program.card(run, run / "model.keras")
        assert list(about["certified_accuracy"]) == by
        assert about["undecided"] == (0.0 if "complete" in by else None)


def test_the_command_of_a_run_has_no_places_of_its_machine(program, run):
    about = program.card(run, run / "model.keras")
    assert about["command"] == (
        "python trainers/train.py --objective=ibp --option=a=1 '--option=b=(1,2)' "
        "--dataset=digits --eps=0.1 --norm=inf --model=own --attack_steps=9 --drops=1,2 "
        "--data_dir=data --population_statistics --out=runs/digits_0.1_ibp"
    )


def test_margins_close_to_zero_are_not_published(program, run):
    edge = np.array([[0.50002, 0.3]], "float32")
    with pytest.raises(ValueError, match="must not lie within 0.0001 of 0.*Received: {0: "):
        program.publish(run, "edge", edge, np.array([0]))
    assert not program.FOLDER.exists()


def test_large_files_are_not_published(program, run, monkeypatch):
    monkeypatch.setattr(program, "LARGEST", 1000)
    with pytest.raises(ValueError, match="may have 1000 bytes. Received: .* bytes for"):
        program.publish(run, "large", X, np.array([0, 0, 0]))
    assert not program.FOLDER.exists()


def test_a_changed_file_is_refused(tmp_path):
    name = NAMES[0]
    shutil.copytree(FOLDER, tmp_path / "copy")
    path = tmp_path / "copy" / f"{name}.keras"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must have the SHA-256 .* Received: a file with"):
        models.pretrained(name, tmp_path / "copy")


def test_the_example_of_the_docstring_runs(monkeypatch):
    monkeypatch.delenv("TFCERT_PRETRAINED", raising=False)
    result = doctest.testmod(published, extraglobs={"tfcert": tfcert})
    assert result.failed == 0 and result.attempted == 2


def test_an_unknown_name_lists_the_names(monkeypatch):
    monkeypatch.delenv("TFCERT_PRETRAINED", raising=False)
    with pytest.raises(ValueError, match=f"must be one of {NAMES[0]}.*Received: name='vgg'"):
        models.pretrained("vgg")


def test_where_the_networks_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TFCERT_PRETRAINED", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="checkout.*TFCERT_PRETRAINED.*nowhere"):
        models.pretrained(NAMES[0])
    assert models.pretrained(NAMES[0], FOLDER).output_shape == (None, 10)  # The argument is first.
    monkeypatch.setenv("TFCERT_PRETRAINED", str(FOLDER))
    assert models.pretrained(NAMES[0]).count_params() == read(f"{NAMES[0]}.json")["parameters"]


def test_cards_fit_their_files_and_the_page(program, monkeypatch):
    monkeypatch.setattr(program, "FOLDER", FOLDER)
    index, cards = read("index.json"), program.cards()
    assert [card["name"] for card in cards] == list(index) == NAMES
    page = (support.ROOT / "docs" / "pretrained.md").read_text(encoding="utf-8")
    assert program.tables().strip() in page
    for card in cards:
        assert index[card["name"]] == card["sha256"]
        size = (FOLDER / f"{card['name']}.keras").stat().st_size
        assert card["bytes"] == size <= program.LARGEST
        assert "uncommitted" not in card["commit"]
        for word in card["command"].split():
            if word.startswith("--"):
                assert word[2:].partition("=")[0] in train_config.SETTINGS
    files = {f"{name}{end}" for name in NAMES for end in (".keras", ".json", ".certificates.json")}
    assert {path.name for path in FOLDER.iterdir()} == {"index.json", *files}


@pytest.mark.parametrize("name", NAMES)
def test_certificates_come_out_again(name):
    """As a user would compute them, with the self-check."""
    card, known = read(f"{name}.json"), read(f"{name}.certificates.json")
    file = support.shared_path("data", f"{card['data']}.npz")
    _, (x, y) = datasets.load(card["data"], file.parent)
    count = known["images"]
    assert (count, known["eps"]) == (100, card["eps"])
    region = tfcert.LpBall(known["eps"], card["norm"], clip=(0.0, 1.0))
    found = tfcert.certify(
        models.pretrained(name, FOLDER),
        *(x[:count], y[:count], region, known["method"]),
        attack=None,
        batch_size=count,
        verbose=0,
    )
    for verdict in ("verified", "unknown", "misclassified"):
        assert np.flatnonzero(found.verdict == verdict).tolist() == known[verdict]
    assert len(known["verified"]) > count * (card["certified_accuracy"]["crown"] - 0.1)
