"""Data sets of the user: npz files, folders of images, TensorFlow Datasets."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from tfcert import datasets


def _write(path, value, mode="L", size=(4, 3)):
    """An image in which every pixel has one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = value if mode in ("L", "P", "1", "I;16") else (value,) * len(mode)
    Image.new(mode, size, color).save(path)


def test_files(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (7, 5, 4, 3)).astype("uint8")
    y = np.array([0, 3, 1, 12, 2, 5, 5])
    np.savez(tmp_path / "mine.npz", x_train=x[:5], y_train=y[:5], x_test=x[5:], y_test=y[5:])
    for name in (tmp_path / "mine.npz", str(tmp_path / "mine.npz")):
        (x_train, y_train), (x_test, y_test) = datasets.load(name)
        np.testing.assert_array_equal(x_train, x[:5] / np.float32(255))
        np.testing.assert_array_equal(x_test, x[5:] / np.float32(255))
        assert (y_train.tolist(), y_test.tolist()) == (y[:5].tolist(), y[5:].tolist())
        assert (x_train.dtype, y_train.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("stored", "loaded"), [((6,), (6,)), ((5, 4), (5, 4, 1)), ((5, 4, 3), (5, 4, 3))]
)
def test_shapes_of_inputs(stored, loaded, tmp_path):
    x, y = np.full((3, *stored), 0.5), np.arange(3)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (x_train, _), (x_test, _) = datasets.load(tmp_path / "mine.npz")
    assert x_train.shape == x_test.shape == (3, *loaded)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": np.full((3, 5, 4), 7.0)}, r"x_train of .*mine.npz must lie in \[0, 1\]"),
        ({"x_test": np.zeros((3, 5, 5))}, r"of one shape. Received: \(5, 4, 1\) and \(5, 5, 1\)"),
        ({"x_test": np.zeros(3)}, "one input per row"),
        ({"y_test": np.arange(4)}, "3 images and 4 labels"),
        ({"y_train": -np.arange(3)}, "y_train .* must be at least 0. Received: -2 to 0"),
        ({"y_train": None}, r"lacks \['y_train'\]"),
    ],
)
def test_files_that_hold_something_else(changed, message, tmp_path):
    arrays = {"x_train": np.zeros((3, 5, 4)), "y_train": np.arange(3)}
    arrays |= {"x_test": np.zeros((3, 5, 4)), "y_test": np.arange(3), **changed}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        datasets.load(tmp_path / "mine.npz")


def test_a_folder_that_is_split(tmp_path):
    for half, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(["daisy", "tulip"]):
            for i in range(count):
                _write(tmp_path / half / name / f"{i}.png", 100 * label + i)
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "daisy" / ".DS_Store").touch()
    (x_train, y_train), (x_test, y_test) = datasets.load(tmp_path)
    assert x_train.shape == (6, 3, 4, 1) and x_train.dtype == np.float32
    assert y_train.tolist() == [0, 0, 0, 1, 1, 1] and y_test.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(
        x_train[:, 0, 0, 0], np.float32([0, 1, 2, 100, 101, 102]) / np.float32(255)
    )
    np.testing.assert_array_equal(
        x_test[:, 2, 3, 0], np.float32([0, 1, 100, 101]) / np.float32(255)
    )


def test_a_folder_that_is_not_split_gives_every_fifth_image_to_testing(tmp_path):
    for label, name in enumerate(["a", "b"]):
        for i in range(6 + label * 4):
            _write(tmp_path / name / f"{i:02d}.bmp", 10 * i + label, "RGB")
    (x_train, y_train), (x_test, y_test) = datasets.load(tmp_path)
    assert x_train.shape == (13, 3, 4, 3)
    assert y_train.tolist() == [0] * 5 + [1] * 8 and y_test.tolist() == [0, 1, 1]
    assert np.round(255 * x_test[:, 0, 0, 1]).tolist() == [40, 41, 91]
    assert not set(np.round(255 * x_train[:, 0, 0, 1])) & {40, 41, 91}


def test_a_class_may_lack_test_images(tmp_path):
    for name in ("a", "b"):
        _write(tmp_path / "train" / name / "0.png", 7)
    for i, name in enumerate("bc"):
        (tmp_path / "test" / name).mkdir(parents=True)
        _write(tmp_path / "train" / name / "1.png", 8 + i)
    _write(tmp_path / "test/c/1.png", 9)
    (_, y_train), (_, y_test) = datasets.load(tmp_path)
    assert y_train.tolist() == [0, 1, 1, 2] and y_test.tolist() == [2]


def _cut_short(folder):
    path = folder / "a/5.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4), "uint8")).save(path)
    path.write_bytes(path.read_bytes()[:45])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "a/notes.txt").touch(), "notes.txt is no image. Images end in .png"),
        (lambda f: (f / "a/5.png").touch(), "5.png cannot be read as an image"),
        (_cut_short, "5.png cannot be read as an image"),
        (lambda f: _write(f / "a/5.png", 1, size=(5, 3)), r"one size.*\(3, 4, 1\).*\(3, 5, 1\)"),
        (lambda f: _write(f / "a/5.png", 1, "RGB"), r"one size.*\(3, 4, 1\).*\(3, 4, 3\)"),
        (lambda f: _write(f / "a/5.png", 1, "RGBA"), "without transparency. .* mode RGBA"),
        (lambda f: _write(f / "a/5.png", 1, "I;16"), "of 8 bits"),
        (lambda f: (f / "test").mkdir(), "must hold train/ and test/, or one folder per class"),
        (lambda f: [(f / "train").mkdir(), (f / "test").mkdir()], "one folder of images per class"),
        (lambda f: [p.unlink() for p in f.glob("?/4.png")], "a class needs 5 images"),
    ],
)
def test_folders_that_hold_something_else(change, message, tmp_path):
    for name in "ab":
        for i in range(5):
            _write(tmp_path / name / f"{i}.png", i)
    datasets.load(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        datasets.load(tmp_path)


def test_classes_of_the_test_part_are_those_of_training(tmp_path):
    for half, names in (("train", "ab"), ("test", "bc")):
        for name in names:
            _write(tmp_path / half / name / "0.png", 1)
    with pytest.raises(ValueError, match=r"must hold classes of train/. Received: \['c'\]"):
        datasets.load(tmp_path)


def test_tensorflow_datasets(monkeypatch):
    x, y = np.full((4, 5, 6, 3), 51, "uint8"), np.array([0, 1, 2, 1])
    asked = {}

    def load(name, **options):
        asked.update(options, name=name)
        return [(x, y), (x[:2], y[:2])]

    package = types.SimpleNamespace(load=load, as_numpy=lambda parts: parts)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", package)
    (x_train, y_train), (x_test, _) = datasets.load("tfds:svhn_cropped", "somewhere")
    assert (asked["name"], asked["data_dir"]) == ("svhn_cropped", "somewhere")
    assert asked["split"] == ["train", "test"]
    assert x_train.shape == (4, 5, 6, 3) and x_test.shape == (2, 5, 6, 3)
    assert x_train.max() == np.float32(51) / np.float32(255) and y_train.tolist() == [0, 1, 2, 1]


def test_tensorflow_datasets_without_such_a_data_set(monkeypatch):
    def load(name, **options):
        raise ValueError(f"Dataset {name} not found. Available datasets:\n\t- a\n\t- b")

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", types.SimpleNamespace(load=load))
    with pytest.raises(ValueError, match=r"tfds:no must be .* not found. Available datasets:$"):
        datasets.load("tfds:no")


def test_tensorflow_datasets_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match="tfds:mnist needs .* pip install tensorflow-datasets"):
        datasets.load("tfds:mnist")


def test_paths_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"the path of an npz file.* Received: name=.*none.npz"):
        datasets.load(tmp_path / "none.npz")
