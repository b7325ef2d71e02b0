"""What the programs do with half files, unreadable ones, and a disk that is full."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import zipfile

import hypothesis as hp
import hypothesis.strategies as hps
import keras
import numpy as np
import pytest

import tfcert
from tests import soundness, support, train_program_test
from tfcert import files

_FUZZ = hp.settings(derandomize=True, deadline=None, database=None, max_examples=60)


def small():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu")])


def limited(code, folder, size):
    """Runs code in a process whose files cannot grow beyond a size, as on a full disk."""
    return subprocess.run(
        [sys.executable, *code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(support.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
        check=False,
    )


@contextlib.contextmanager
def small_files(size):
    """Files of this process cannot grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_there(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(20_000)])
    small().save(tmp_path / "model.keras")
    files.write_json(tmp_path / "facts.json", {"a": 1})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with small_files(100_000):
        with pytest.raises(OSError, match=r"could not be written.*model\.keras"):
            files.save(tmp_path / "model.keras", model.save)
        with pytest.raises(OSError, match=r"could not be written \(File too large\).*facts\.json"):
            files.write_json(tmp_path / "facts.json", list(range(100_000)))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_training_on_a_full_disk_goes_on_later(tmp_path):
    # Not even the backup of an epoch fits.
    changes = {"model": "mlp_1x400", "epochs": "2", "ramp": "0,1"}
    changes |= {"objective": "ibp", "verify": "ibp", "attack_steps": "1"}
    command = train_program_test.command(tmp_path / "run", **changes)
    full = limited(command[1:], support.ROOT, 60_000)
    assert full.returncode != 0 and "Traceback" not in full.stderr, full.stderr
    assert "could not be written" in full.stderr or "File too large" in full.stderr
    assert not (tmp_path / "run" / "model.keras").exists()
    assert (tmp_path / "run" / "run.json").exists()
    with soundness.eagerly():
        train_program_test.run_here(tmp_path / "run", resume="true", **changes)
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())["loss"]) == 2


def test_files_of_a_run_that_are_no_json(tmp_path):
    with soundness.eagerly():
        train_program_test.run_here(tmp_path / "run", epochs="1", ramp="0,1", verify="ibp")
    for name in ("history.json", "run.json"):
        content = (tmp_path / "run" / name).read_text()
        for broken in (content[: len(content) // 2], "", "[1]", "\x00"):
            (tmp_path / "run" / name).write_text(broken)
            arguments = ["--resume", f"--out={tmp_path / 'run'}"]
            given = {**train_program_test.SMALL, "epochs": "1", "ramp": "0,1", "verify": "ibp"}
            arguments += [f"--{k}={v}" for k, v in given.items()]
            config = train_program_test.config_of(arguments)
            with pytest.raises(ValueError, match=f"{name} must be a JSON object"):
                train_program_test.train_run.prepare(config)
        (tmp_path / "run" / name).write_text(content)


class TestModels:
    def test_a_trainer_is_read_as_its_model(self, tmp_path):
        trainer = tfcert.CertifiedTrainer(small(), tfcert.objectives.Standard())
        trainer.compile("sgd")
        trainer.save(tmp_path / "trainer.keras")
        found = files.load_model(tmp_path / "trainer.keras")
        assert type(found) is keras.Sequential
        for a, b in zip(found.get_weights(), trainer.model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_cut_and_changed_files(self, tmp_path):
        small().save(tmp_path / "model.keras")
        whole = (tmp_path / "model.keras").read_bytes()
        path = tmp_path / "broken.keras"
        for end in (0, 1, 10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:end])
            with pytest.raises(ValueError, match=r"broken\.keras must be a Keras model"):
                files.load_model(path)
        generator = np.random.default_rng(0)
        for _ in range(40):
            data = bytearray(whole)
            for place in generator.integers(len(whole), size=generator.integers(1, 6)):
                data[place] = generator.integers(256)
            path.write_bytes(data)
            try:
                files.load_model(path)
            except ValueError as error:
                assert "broken.keras" in str(error)

    @_FUZZ
    @hp.given(
        config=hps.recursive(
            hps.none() | hps.integers(-2, 5) | hps.sampled_from(["Dense", "keras", "os", "system"]),
            lambda inner: (
                hps.lists(inner, max_size=3)
                | hps.dictionaries(
                    hps.sampled_from(
                        ["class_name", "config", "module", "registered_name", "layers"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
        )
    )
    def test_configurations(self, tmp_path_factory, config):
        path = tmp_path_factory.mktemp("fuzz") / "model.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("metadata.json", "{}")
        with pytest.raises(ValueError, match=r"model\.keras must be a Keras model"):
            files.load_model(path)

    def test_code_is_not_run(self, tmp_path):
        marker = tmp_path / "ran"
        layer = keras.layers.Lambda(eval(f"lambda x: open({str(marker)!r}, 'w') and x"))
        wrapped = keras.Sequential([keras.Input((4,)), layer])
        wrapped.save(tmp_path / "lambda.keras")
        marker.unlink(missing_ok=True)
        with pytest.raises(ValueError, match="lambda.keras must be a Keras model.*unsafe"):
            files.load_model(tmp_path / "lambda.keras")
        assert not marker.exists()

    def test_other_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="none"):
            files.load_model(tmp_path / "none.keras")
        with pytest.raises(IsADirectoryError):
            files.load_model(tmp_path)
        (tmp_path / "text.txt").write_text("hello")
        with pytest.raises(ValueError, match="must be a Keras model"):
            files.load_model(tmp_path / "text.txt")


def test_unwritable_places_are_found_before_work_begins(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        files.check_writable(tmp_path / "file" / "out.json")
    files.check_writable(tmp_path / "new" / "out.json")
    assert list((tmp_path / "new").iterdir()) == []
