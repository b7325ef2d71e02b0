"""Tests of tfcert.datasets: contents, scaling, and the message for every kind of bad input."""

import hashlib
import pathlib
from unittest import mock

import keras
import numpy as np
import pytest
from absl.testing import parameterized

from tests import support
from tfcert import datasets


def _arrays(shape=(28, 28), scale=255, n=12) -> dict[str, np.ndarray]:
    """Small arrays of the right kind, every pixel value from 0 to `scale` equally likely."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, scale + 1, (n, *shape), dtype=np.uint8),
        "y_train": (np.arange(n) % 10).astype(np.uint8),
        "x_test": rng.integers(0, scale + 1, (3, *shape), dtype=np.uint8),
        "y_test": np.arange(3, dtype=np.uint8),
    }


class LoadTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)

    def _write(self, name="mnist", **changed):
        arrays = {key: value for key, value in (_arrays() | changed).items() if value is not None}
        np.savez(self.folder / f"{name}.npz", **arrays)

    def test_digits_are_the_uci_images(self):
        (x_train, y_train), (x_test, y_test) = datasets.load("digits")
        self.assertEqual((x_train.shape, x_test.shape), ((1437, 8, 8, 1), (360, 8, 8, 1)))
        self.assertEqual((x_train.dtype, y_train.dtype), (np.float32, np.int64))
        np.testing.assert_array_equal(np.bincount(y_test), np.full(10, 36))
        # The class sizes that the data set's own description gives.
        np.testing.assert_array_equal(
            np.bincount(np.concatenate([y_train, y_test])),
            [178, 182, 177, 183, 181, 182, 181, 179, 174, 180],
        )
        x = np.concatenate([x_train, x_test])
        np.testing.assert_array_equal(np.unique(x * 16), np.arange(17))
        self.assertLen({image.tobytes() for image in x}, 1797)

    def test_digits_have_the_checksum_of_scikit_learn_s_copy(self):
        # sha256 of load_digits(): each image's 64 pixels (0 to 16) and its label, sorted.
        x, y = (np.concatenate(parts) for parts in zip(*datasets.load("digits"), strict=True))
        records = np.concatenate([(x * 16).reshape(-1, 64), y[:, None]], axis=1).astype(np.uint8)
        self.assertEqual(
            hashlib.sha256(b"".join(sorted(record.tobytes() for record in records))).hexdigest(),
            "f67d6a29d0e1f70e7f0cd9dcf25816b694881f4b8f27f5cc1db59551f0499fb8",
        )

    @parameterized.parameters(
        ("mnist", (28, 28), (28, 28, 1)),
        ("fashion_mnist", (28, 28, 1), (28, 28, 1)),
        ("cifar10", (32, 32, 3), (32, 32, 3)),
    )
    def test_reads_data_dir(self, name, stored, loaded):
        arrays = _arrays(stored)
        self._write(name, **arrays | {"y_train": arrays["y_train"][:, None]})
        (x_train, y_train), (x_test, y_test) = datasets.load(name, data_dir=self.folder)
        self.assertEqual((x_train.shape, x_test.shape), ((12, *loaded), (3, *loaded)))
        self.assertEqual((x_train.dtype, y_test.dtype), (np.float32, np.int64))
        np.testing.assert_array_equal(
            x_train, arrays["x_train"].reshape(12, *loaded) / np.float32(255)
        )
        np.testing.assert_array_equal(y_train, arrays["y_train"])
        np.testing.assert_array_equal(y_test, arrays["y_test"])

    def test_floats_are_taken_as_they_are(self):
        x = np.linspace(0, 1, 3 * 28 * 28).reshape(3, 28, 28)
        self._write(x_test=x)
        (_, _), (x_test, _) = datasets.load("mnist", data_dir=str(self.folder))
        np.testing.assert_array_equal(x_test[..., 0], x.astype(np.float32))

    @parameterized.named_parameters(
        ("lacks_key", {"y_test": None}, r"lacks \['y_test'\]"),
        ("shape", {"x_train": np.zeros((12, 28, 27), np.uint8)}, r"x_train .*shape=\(12, 28, 27\)"),
        ("scalar", {"x_test": np.float32(1)}, r"x_test .*shape=\(\)"),
        ("not_scaled", {"x_test": np.full((3, 28, 28), 255.0)}, r"\[0, 1\].*255\.0 to 255\.0"),
        ("nan", {"x_test": np.full((3, 28, 28), np.nan)}, r"\[0, 1\].*nan to nan"),
        ("negative", {"x_test": np.full((3, 28, 28), -1)}, r"\[0, 255\].*-1 to -1"),
        ("empty", {"x_test": np.zeros((0, 28, 28), np.uint8)}, "x_test .*is empty"),
        ("scaled", {"x_test": np.ones((3, 28, 28), np.int64)}, "none above 1.*as floats"),
        ("kind", {"x_test": np.zeros((3, 28, 28), bool)}, "integers or floats.*dtype=bool"),
        ("one_hot", {"y_train": np.eye(12, dtype=int)}, r"y_train .*shape=\(12, 12\)"),
        ("float_labels", {"y_train": np.zeros(12)}, "y_train .*dtype=float64"),
        ("high_label", {"y_test": np.array([0, 1, 10])}, "0 to 9.*0 to 10"),
        ("lengths", {"y_test": np.arange(4)}, "3 images and 4 labels"),
        ("pickled", {"y_test": np.array([0, 1, None])}, "allow_pickle"),
    )
    def test_refuses_files_that_hold_something_else(self, changed, message):
        self._write(**changed)
        with self.assertRaisesRegex(ValueError, message):
            datasets.load("mnist", data_dir=self.folder)

    @parameterized.parameters(b"", b"no archive", b"PK\x03\x04 cut short")
    def test_refuses_broken_files(self, content):
        (self.folder / "mnist.npz").write_bytes(content)
        with self.assertRaisesRegex(ValueError, "mnist.npz must be an npz file"):
            datasets.load("mnist", data_dir=self.folder)

    def test_refuses_a_single_array(self):
        with open(self.folder / "mnist.npz", "wb") as handle:
            np.save(handle, np.zeros(3))
        with self.assertRaisesRegex(ValueError, "it holds a single array"):
            datasets.load("mnist", data_dir=self.folder)

    def test_names_the_missing_file(self):
        with self.assertRaisesRegex(FileNotFoundError, "must hold cifar10.npz with the arrays"):
            datasets.load("cifar10", data_dir=self.folder)

    @parameterized.parameters("MNIST", "svhn", "", None)
    def test_refuses_unknown_names(self, name):
        with self.assertRaisesRegex(ValueError, f"digits, mnist, .*Received: name={name!r}"):
            datasets.load(name)

    def test_downloads_through_keras(self):
        arrays = _arrays((32, 32, 3))
        pairs = (
            (arrays["x_train"], arrays["y_train"][:, None]),
            (arrays["x_test"], arrays["y_test"][:, None]),
        )
        with mock.patch.object(keras.datasets.cifar10, "load_data", return_value=pairs):
            (x_train, y_train), _ = datasets.load("cifar10")
        np.testing.assert_array_equal(x_train, arrays["x_train"] / np.float32(255))
        np.testing.assert_array_equal(y_train, arrays["y_train"])

    def test_offline_says_which_file_to_put_where(self):
        failure = Exception("URL fetch failure on https://example.org: None -- no route")
        with (
            mock.patch.object(keras.datasets.mnist, "load_data", side_effect=failure),
            self.assertRaisesRegex(ConnectionError, "no route.*mnist.npz.*data_dir=<that folder>"),
        ):
            datasets.load("mnist")


def test_reads_the_shared_mnist():
    (x_train, y_train), (x_test, y_test) = datasets.load(
        "mnist", data_dir=support.shared_path("data", "mnist.npz").parent
    )
    assert (x_train.shape, x_test.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    assert (x_train.min(), x_train.max()) == (0.0, 1.0)
    # The first labels of the original files.
    np.testing.assert_array_equal(y_train[:8], [5, 0, 4, 1, 9, 2, 1, 3])
    np.testing.assert_array_equal(y_test[:8], [7, 2, 1, 0, 4, 1, 4, 9])
    assert x_train.mean() == pytest.approx(0.1307, abs=1e-4)
