"""Shards of data sets: written, read back in pieces, refused where they are something else."""

import pathlib

import hypothesis as hp
import hypothesis.strategies as hps
import keras
import numpy as np
import pytest

from tfcert import scaling

ENDINGS = [
    ".npz",
    pytest.param(
        ".tfrecord",
        marks=pytest.mark.skipif(
            keras.backend.backend() != "tensorflow", reason="TFRecords need TensorFlow"
        ),
    ),
]


def arrays(count=23):
    generator = np.random.default_rng(0)
    x = generator.random((count, 3, 2, 1)).astype("float32")
    return x, generator.integers(0, 10, size=count)


def together(paths, size=4):
    pieces = [piece for path in paths for piece in scaling.read_shard(path, size)]
    assert max(len(piece.y) for piece in pieces) <= size
    return scaling.Shard(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))


@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip(tmp_path, ending):
    x, y = arrays()
    paths = scaling.write_shards(x, y, tmp_path / "new", 4, ending)
    assert [path.name for path in paths] == [f"part-0000{i}-of-00004{ending}" for i in range(4)]
    assert sorted((tmp_path / "new").iterdir()) == paths  # Nothing else is left.
    found = together(paths)
    np.testing.assert_array_equal(found.idx, np.arange(23))
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, y)
    assert [array.dtype.name for array in found] == ["int64", "float32", "int64"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"idx": None}, "lacks .'idx'."),
        ({"idx": np.arange(4)}, "idx must be integers of shape"),
        ({"idx": np.arange(-1, 22)}, "idx must not be negative"),
        ({"y": np.zeros(23)}, "y must be integers"),
        ({"x": np.zeros((23, 4), "uint8")}, "x must be floats"),
        ({"x": np.zeros(23)}, "x must be floats of shape"),
        ({"y": np.array([None] * 23)}, "allow_pickle"),
    ],
)
def test_refuses_other_arrays(tmp_path, changed, message):
    x, y = arrays()
    held = {"idx": np.arange(23), "x": x, "y": y, **changed}
    path = tmp_path / "part.npz"
    np.savez(path, **{name: array for name, array in held.items() if array is not None})
    with pytest.raises(ValueError, match=f"part.npz must be .*{message}"):
        list(scaling.read_shard(path, 8))


@pytest.mark.parametrize("ending", ENDINGS)
def test_refuses_cut_and_changed_files(tmp_path, ending):
    (path,) = scaling.write_shards(*arrays(), tmp_path, 1, ending)
    whole = path.read_bytes()
    generator = np.random.default_rng(1)
    contents = [whole[:end] for end in (1, 11, 50, len(whole) // 2, len(whole) - 1)]
    for _ in range(30):
        data = bytearray(whole)
        for place in generator.integers(len(whole), size=3):
            data[place] ^= int(generator.integers(1, 256))
        contents.append(bytes(data))
    refused = 0
    for content in contents:
        path.write_bytes(content)
        try:
            list(scaling.read_shard(path, 8))
        except ValueError as error:
            assert path.name in str(error)
            refused += 1
    assert refused >= 30  # A checksum notices all but bytes that say nothing.


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TFRecords need TensorFlow")
@hp.settings(derandomize=True, deadline=None, database=None, max_examples=40)
@hp.given(
    record=hps.binary(max_size=40),
    index=hps.lists(hps.integers(-3, 3), max_size=2),
    shape=hps.lists(hps.integers(-1, 1 << 40), max_size=3),
    data=hps.binary(max_size=20),
)
def test_refuses_other_records(tmp_path_factory, record, index, shape, data):
    import tensorflow as tf

    example = tf.train.Example()
    for name, values in (("idx", index), ("label", [1]), ("shape", shape)):
        example.features.feature[name].int64_list.value.extend(values)
    example.features.feature["x"].bytes_list.value.append(data)
    path = tmp_path_factory.mktemp("fuzz") / "part.tfrecord"
    for content in (record, example.SerializeToString()):
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(content)
        try:
            (piece,) = scaling.read_shard(path, 8)
        except ValueError as error:
            assert "part.tfrecord" in str(error)
        else:
            assert piece.x.shape == (1, *shape) and piece.x.nbytes == len(data)


def test_refuses_wrong_arguments(tmp_path):
    x, y = arrays()
    for shards in (0, 24, 1.5):
        with pytest.raises(ValueError, match=f"Received: shards={shards}"):
            scaling.write_shards(x, y, tmp_path, shards)
    with pytest.raises(ValueError, match="ending='.csv'"):
        scaling.write_shards(x, y, tmp_path, 1, ".csv")
    with pytest.raises(ValueError, match="y must be integers of shape"):
        scaling.write_shards(x, y[:5], tmp_path, 1)
    with pytest.raises(ValueError, match=r"must end in \.npz or \.tfrecord"):
        list(scaling.read_shard("part.csv", 8))
    with pytest.raises(FileNotFoundError):
        list(scaling.read_shard(tmp_path / "missing.npz", 8))
    assert list(pathlib.Path(tmp_path).iterdir()) == []
