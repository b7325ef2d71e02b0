"""Readers are given nonsense: they raise the errors they document, and nothing else happens."""

import io
import re

import hypothesis as hp
import hypothesis.strategies as hps
import numpy as np
import pytest
from absl import flags
from onnx import TensorProto

from tests import onnx_cases, train_program_test
from tfcert import datasets, interchange
from tfcert.cli import train_run

# What readers may raise.
_CLEAR = (ValueError, NotImplementedError)


def fuzzed(examples):
    return hp.settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=examples,
        suppress_health_check=[hp.HealthCheck.too_slow, hp.HealthCheck.function_scoped_fixture],
    )


def _changed(data, whole):
    """Bytes with some of them changed, left out, repeated or cut off."""
    content = bytearray(whole)
    for _ in range(data.draw(hps.integers(1, 4))):
        place = data.draw(hps.integers(0, max(len(content) - 1, 0)))
        length = data.draw(hps.integers(1, 8))
        kind = data.draw(hps.sampled_from(["set", "flip", "drop", "repeat", "cut"]))
        if kind == "set":
            content[place : place + length] = data.draw(hps.binary(min_size=1, max_size=8))
        elif kind == "flip" and content:
            content[place] ^= 1 << data.draw(hps.integers(0, 7))
        elif kind == "drop":
            del content[place : place + length]
        elif kind == "repeat":
            content[place:place] = content[place : place + length]
        elif data.draw(hps.booleans()):
            del content[place:]
    return bytes(content)


_NETWORKS = {
    name: onnx_cases.CASES[name].SerializeToString()
    for name in ("Conv pads", "Gemm", "Shape", "Slice steps", "AveragePool pads", "Pad", "Clip")
}


@fuzzed(150)
@hp.given(data=hps.data())
def test_changed_networks(tmp_path, data):
    path = tmp_path / "network.onnx"
    name = data.draw(hps.sampled_from(sorted(_NETWORKS)))
    path.write_bytes(_changed(data, _NETWORKS[name]))
    try:
        model = interchange.load_onnx(path)
    except _CLEAR as error:
        assert "network.onnx" in str(error)
    else:
        assert model.count_params() < 10_000


@fuzzed(100)
@hp.given(data=hps.data())
def test_networks_of_odd_numbers(tmp_path, data):
    """Attributes, shapes and integers in all ranges, in a network that is otherwise valid."""
    proto = onnx_cases.CASES[data.draw(hps.sampled_from(sorted(onnx_cases.CASES)))]
    proto = type(proto).FromString(proto.SerializeToString())
    integers = hps.sampled_from([-(1 << 62), -2, -1, 0, 1, 2, 3, 7, 1 << 31, 1 << 62])
    node = proto.graph.node[data.draw(hps.integers(0, len(proto.graph.node) - 1))]
    if node.attribute and data.draw(hps.booleans()):
        attribute = node.attribute[data.draw(hps.integers(0, len(node.attribute) - 1))]
        if attribute.ints:
            place = data.draw(hps.integers(0, len(attribute.ints) - 1))
            attribute.ints[place] = data.draw(integers)
        else:
            attribute.i = data.draw(integers)
    whole = [t for t in proto.graph.initializer if t.data_type == TensorProto.INT64]
    if whole:
        array = np.frombuffer(whole[0].raw_data, "<i8").copy()
        if len(array):
            array[data.draw(hps.integers(0, len(array) - 1))] = data.draw(integers)
            whole[0].raw_data = array.tobytes()
    if data.draw(hps.booleans()):
        dims = proto.graph.input[0].type.tensor_type.shape.dim
        dims[data.draw(hps.integers(0, len(dims) - 1))].dim_value = data.draw(
            hps.sampled_from([-1, 0, 1, 2, 7, 1 << 20])
        )
    path = tmp_path / "network.onnx"
    path.write_bytes(proto.SerializeToString())
    try:
        interchange.load_onnx(path)
    except _CLEAR as error:
        assert "network.onnx" in str(error)


_WORDS = hps.sampled_from(
    ["(", ")", "assert", "<=", ">=", "and", "or", "+", "-", "*", "X_0", "Y_0", "Y_1", "X_9", "1"]
    + [
        "-1.5e3",
        "1e400",
        "nan",
        "declare-const",
        "Real",
        "Int",
        "not",
        ";",
        "\n",
        "\x00",
        "é",
        "Y_",
    ]
)
_EXPRESSION = hps.recursive(
    hps.sampled_from(["X_0", "Y_0", "Y_1", "1", "-2.5", "x", ""]),
    lambda inner: hps.builds(
        lambda word, parts: f"({word} {' '.join(parts)})",
        hps.sampled_from(["and", "or", "<=", ">=", "+", "-", "*", "assert"]),
        hps.lists(inner, max_size=3),
    ),
    max_leaves=12,
)


@fuzzed(300)
@hp.given(
    head=hps.booleans(),
    words=hps.lists(_WORDS, max_size=25),
    expressions=hps.lists(_EXPRESSION, max_size=3),
    raw=hps.binary(max_size=20),
)
def test_texts_that_are_no_properties(tmp_path, head, words, expressions, raw):
    text = "(declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)\n"
    text += "(assert (>= X_0 0)) (assert (<= X_0 1))\n"
    text = text * head + " ".join(words) + "".join(f"(assert {e})" for e in expressions)
    path = tmp_path / "some.vnnlib"
    for content in (text.encode(), raw, text.encode() + raw):
        path.write_bytes(content)
        try:
            asked = interchange.read_vnnlib(path)
        except _CLEAR as error:
            assert "some.vnnlib" in str(error)
        else:
            assert all(case.rows.shape[1] == asked.outputs + 1 for case in asked.cases)


def _archive():
    buffer = io.BytesIO()
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, size=(3, 28, 28)).astype("uint8")
    np.savez(buffer, x_train=x, x_test=x, y_train=np.arange(3), y_test=np.arange(3))
    return buffer.getvalue()


_ARCHIVE = _archive()


@fuzzed(150)
@hp.given(data=hps.data())
def test_changed_data_sets(tmp_path, data):
    (tmp_path / "mnist.npz").write_bytes(_changed(data, _ARCHIVE))
    try:
        (x, _), _ = datasets.load("mnist", data_dir=tmp_path)
    except _CLEAR as error:
        assert "mnist.npz" in str(error)
    else:
        assert x.min() >= 0 and x.max() <= 1


_TEXT = hps.text(max_size=12) | hps.sampled_from(
    ["1,2", "1,", "a,b", "-1", "nan", "inf", "1e9", "weight=", "=1", "linear(", "linear(1,2,3,4)"]
    + ["[1]*3", "__import__('os')", "cosine(1)", "ibp", "mlp_0x0", "mlp_-1x3", "piecewise([],[])"]
)
_FLAGS = ["ramp", "drops", "mean", "std", "option", "verify", "model", "norm", "eps", "train_eps"]
_FLAGS += ["sigma", "momentum", "epochs", "limit", "init", "objective", "dataset", "no_such_flag"]


@fuzzed(120)
@hp.given(values=hps.dictionaries(hps.sampled_from(_FLAGS), _TEXT, min_size=1, max_size=3))
def test_flag_files(tmp_path, values):
    path = tmp_path / "some.flags"
    known = {"eps": "0.1", "model": "mlp_1x3", "limit": "5", "epochs": "1"}
    lines = [f"--{name}={value}" for name, value in {**known, **values}.items()]
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    try:
        config = train_program_test.config_of([f"--flagfile={path}", f"--out={tmp_path / 'run'}"])
        train_run.prepare(config)
    except flags.Error:
        pass  # absl says which flag it is.
    except (*_CLEAR, OSError) as error:
        # Some name of a flag or an argument stands in what the user is told.
        assert re.search(r"--\w+|`\w+`", str(error)), error


@pytest.mark.parametrize("content", [b"--eps=\xff\xfe", b"\x00\x01", b"--flagfile=some.flags"])
def test_flag_files_that_are_no_text(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.flags").write_bytes(content)
    with pytest.raises((flags.Error, ValueError)):
        train_program_test.config_of(["--flagfile=some.flags", "--no_such_flag=1"])
