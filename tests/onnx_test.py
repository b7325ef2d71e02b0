"""Networks that are read from ONNX compute what ONNX's own evaluator computes."""

import gzip
import pathlib
import re

import keras
import numpy as np
import onnx
import pytest
from keras import ops
from onnx import TensorProto, external_data_helper
from onnx.reference import ReferenceEvaluator

import tfcert
from tests import onnx_cases, support
from tests.onnx_cases import network, one, weights
from tfcert import interchange
from tfcert.interchange import onnx_operators


def write(folder, proto):
    path = folder / "network.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def load(folder, proto, **options):
    return interchange.load_onnx(write(folder, proto), **options)


def _input(proto):
    weights = {tensor.name for tensor in proto.graph.initializer}
    (given,) = (value for value in proto.graph.input if value.name not in weights)
    return given


def inputs(proto, count=3):
    shape = [dim.dim_value or 1 for dim in _input(proto).type.tensor_type.shape.dim]
    return np.random.default_rng(1).normal(size=(count, *shape[1:])).astype("float32")


def expected(proto, x):
    """What the network gives for each input alone."""
    evaluator = ReferenceEvaluator(proto)
    name = _input(proto).name
    runs = [evaluator.run(None, {name: x[i : i + 1]}) for i in range(len(x))]
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


@pytest.mark.parametrize("name", onnx_cases.CASES)
def test_computes_what_the_network_does(tmp_path, name):
    proto = onnx_cases.CASES[name]
    model = load(tmp_path, proto)
    x = inputs(proto)
    (wanted,) = expected(proto, x)
    found = ops.convert_to_numpy(model(x))
    assert found.shape == wanted.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def test_every_operator_has_a_case():
    used = {node.op_type for proto in onnx_cases.CASES.values() for node in proto.graph.node}
    assert set(onnx_operators.OPERATORS) <= used


def test_the_page_lists_the_operators():
    text = (support.ROOT / "docs" / "interchange.md").read_text(encoding="utf-8")
    listed = re.search(r"tfcert reads these operators.*?\n\n(.*?)\n\n", text, re.S)[1]
    known = {*onnx_operators.OPERATORS, "Constant", "Shape"}
    assert re.findall(r"\w+", listed) == sorted(known)


def residual():
    """A small residual network: images, both layouts, a sum, a classifier."""
    nodes = [
        ("Conv", "x k1 b1", "a", {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", "a s t m v", "n", {}),
        ("Relu", "n", "h", {}),
        ("Conv", "h k2", "c", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("AveragePool", "h", "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Add", "c p", "r", {}),
        ("Relu", "r", "q", {}),
        ("Flatten", "q", "f", {}),
        ("MatMul", "f w", "z", {}),
        ("Add", "z u", "y", {}),
    ]
    constants = {"k1": weights(4, 3, 3, 3), "b1": weights(4), "k2": weights(4, 4, 3, 3)}
    constants |= {name: weights(4, positive=True) for name in "stmv"}
    constants |= {"w": weights(36, 5), "u": weights(5)}
    return network(nodes, constants, (1, 3, 6, 6))


class TestModels:
    def test_is_a_plain_model(self, tmp_path):
        proto = residual()
        model = load(tmp_path, proto)
        x = inputs(proto)
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(again(x), model(x))
        # The product and the sum after it are one layer.
        (last,) = (layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
        np.testing.assert_array_equal(
            last.bias, onnx.numpy_helper.to_array(proto.graph.initializer[-1])
        )
        # Images are turned once, and back before they are flattened.
        assert sum(isinstance(layer, keras.layers.Permute) for layer in model.layers) == 2

    def test_constants_are_saved(self, tmp_path):
        proto = onnx_cases.CASES["Div channel"]
        model = load(tmp_path, proto)
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(again(inputs(proto)), model(inputs(proto)))

    def test_has_bounds(self, tmp_path):
        proto = residual()
        model = load(tmp_path, proto)
        x = inputs(proto)
        region = tfcert.LpBall(0.1)
        points = np.asarray(region.sample(x, count=200, seed=0, corners=True))
        for method in ("ibp", "crown"):
            lower, upper = tfcert.bound(model, x, region, method)
            for i in range(len(x)):
                scores = np.asarray(model(points[i]))
                assert (np.asarray(lower[i]) <= scores + 1e-4).all()
                assert (scores <= np.asarray(upper[i]) + 1e-4).all()

    def test_channels_last(self, tmp_path):
        proto = residual()
        model = load(tmp_path, proto, channels_last=True)
        x = inputs(proto)
        assert model.input_shape == (None, 6, 6, 3)
        np.testing.assert_allclose(model(np.moveaxis(x, 1, -1)), expected(proto, x)[0], atol=1e-4)
        with pytest.raises(ValueError, match="for networks that take images"):
            load(tmp_path, onnx_cases.CASES["Gemm"], channels_last=True)

    def test_types(self, tmp_path):
        proto = residual()
        x = inputs(proto)
        wide = load(tmp_path, proto, dtype="float64")
        assert wide.compute_dtype == wide.output.dtype == "float64"
        np.testing.assert_allclose(wide(x.astype("float64")), expected(proto, x)[0], atol=1e-4)
        assert keras.config.dtype_policy().name == "float32"
        nodes = [("Mul", "x c", "y", {})]
        double = network(nodes, {"c": np.array(1 / 3)}, (1, 2), kind=TensorProto.DOUBLE)
        assert float(load(tmp_path, double)(np.ones((1, 2)))[0, 0]) == 1 / 3
        assert load(tmp_path, double, dtype="float32").output.dtype == "float32"
        with pytest.raises(ValueError, match="dtype='float16'"):
            load(tmp_path, proto, dtype="float16")

    def test_several_outputs(self, tmp_path):
        nodes = [("Relu", "x", "a", {}), ("Neg", "a", "b", {})]
        proto = network(nodes, outputs=("b", "a"))
        x = inputs(proto)
        for found, wanted in zip(load(tmp_path, proto)(x), expected(proto, x), strict=True):
            np.testing.assert_array_equal(found, wanted)

    def test_gzip(self, tmp_path):
        proto = residual()
        path = tmp_path / "network.onnx.gz"
        path.write_bytes(gzip.compress(proto.SerializeToString()))
        x = inputs(proto)
        np.testing.assert_allclose(interchange.load_onnx(path)(x), expected(proto, x)[0], atol=1e-4)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match="network.onnx.gz must be a whole gzip file"):
            interchange.load_onnx(path)


class TestExternalData:
    def stored(self, folder, **changes):
        """A network whose weights lie in another file; changes what it says about them."""
        proto = one("Gemm", {"k": weights(7, 4), "b": weights(4)}, (1, 7))
        inside = proto.SerializeToString()
        external_data_helper.convert_model_to_external_data(
            proto, location="weights.bin", size_threshold=0
        )
        onnx.save(proto, folder / "network.onnx")
        proto = onnx.load(folder / "network.onnx", load_external_data=False)
        for entry in proto.graph.initializer[0].external_data:
            entry.value = changes.get(entry.key, entry.value)
        return onnx.load_model_from_string(inside), proto

    def test_is_read_from_the_folder(self, tmp_path):
        inside, proto = self.stored(tmp_path)
        assert len(proto.SerializeToString()) < len(inside.SerializeToString())
        x = inputs(inside)
        np.testing.assert_allclose(load(tmp_path, proto)(x), expected(inside, x)[0], atol=1e-5)

    @pytest.mark.parametrize(
        "where", ["../weights.bin", "/etc/passwd", "link.bin", "", "no.bin", "."]
    )
    def test_is_not_read_from_elsewhere(self, tmp_path, where):
        folder = tmp_path / "folder"
        folder.mkdir()
        (tmp_path / "weights.bin").write_bytes(bytes(1000))
        (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
        _, proto = self.stored(folder, location=where)
        with pytest.raises(ValueError, match="must lie in the network's folder"):
            load(folder, proto)

    @pytest.mark.parametrize("change", [{"offset": "-1"}, {"length": "x"}, {"offset": "1e3"}])
    def test_has_a_place_in_the_file(self, tmp_path, change):
        with pytest.raises(ValueError, match="must have an offset and a length"):
            load(tmp_path, self.stored(tmp_path, **change)[1])

    def test_is_long_enough(self, tmp_path):
        for change in ({"offset": "100000"}, {"length": "4"}):
            with pytest.raises(ValueError, match="network.onnx"):
                load(tmp_path, self.stored(tmp_path, **change)[1])


REFUSED = {
    "unknown operator": (
        one("Det", shape=(1, 3, 3)),
        r"Det 'node_0': the operator Det is not supported. Supported are: Abs, .*Unsqueeze",
    ),
    "attribute": (
        one("AveragePool", kernel_shape=[2, 2], dilations=[2, 2], opset=19),
        "dilations=.* not supported",
    ),
    "batch of two": (
        network([("MatMul", "x x", "y", {})], shape=(2, 2)),
        "batch axis, of size 1 or variable",
    ),
    "no batch": (one("Relu", shape=(5,)), "batch axis"),
    "batch": (one("Relu", shape=(4, 5)), r"Received: 'x' of shape \[4, 5\]"),
    "adds to the batch": (one("Add", {"c": weights(2, 1)}, (1, 5)), "would change the batch axis"),
    "adds axes": (one("Add", {"c": weights(2, 1, 1)}, (1, 5)), "would add axes"),
    "product of values": (
        network([("Relu", "x", "a", {}), ("MatMul", "x a", "y", {})], shape=(1, 1)),
        "one constant matrix",
    ),
    "product over the batch": (
        network([("MatMul", "c x", "y", {})], {"c": weights(2, 1)}, (1, 5)),
        "mix inputs of a batch",
    ),
    "no batch left": (one("Reshape", {"s": np.array([-1])}), "no batch axis"),
    "batch moved": (one("Transpose", perm=[1, 0, 2, 3]), "batch axis must stay the first"),
    "batch reduced": (one("ReduceMean", keepdims=0), "no batch axis"),
    "batch squeezed": (one("Squeeze", {"a": np.array([0])}), "cannot be left out"),
    "batch lengthened": (network([("Concat", "x x", "y", {"axis": 0})]), "cannot be lengthened"),
    "batch padded": (one("Pad", {"p": np.array([0, 0, 0, 0, 1, 0, 0, 0])}), "cannot be padded"),
    "padding with ones": (
        one("Pad", {"p": np.array([0, 0, 1, 0, 0, 0, 0, 0]), "v": np.float32(1)}),
        "padding with zeros",
    ),
    "padding of a pool": (
        one("MaxPool", kernel_shape=[2, 2], pads=[1, 1, 0, 0]),
        "no such padding for a pooling",
    ),
    "cut windows": (one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), "ceil_mode"),
    "cast": (one("Cast", to=TensorProto.INT64), "to=int64"),
    "softmax of old": (one("Softmax", opset=9), "axis=1 of 4"),
    "transposed": (
        network([("Gemm", "x c", "y", {"transA": 1})], {"c": weights(1, 2)}, (1, 5)),
        "transA=0",
    ),
    "old operators": (one("Relu", opset=6), "version 7 or later"),
    "type": (
        network([("Relu", "x", "y", {})], kind=TensorProto.FLOAT16),
        "of type float or double. Received: float16",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_by_name(tmp_path, name):
    proto, message = REFUSED[name]
    with pytest.raises(NotImplementedError, match=f"network.onnx.*{message}"):
        load(tmp_path, proto)


def _two_inputs(graph):
    graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [1, 3]))


def _domain(graph):
    graph.node[2].domain = "com.example"


def _unknown_attribute(graph):
    graph.node[0].attribute.append(onnx.helper.make_attribute("alpha", 2.0))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (_two_inputs, NotImplementedError, "one input. Received: 2"),
        (_domain, (NotImplementedError, ValueError), "com.example|No opset import"),
        (_unknown_attribute, (NotImplementedError, ValueError), "alpha"),
        (lambda graph: graph.initializer[0].dims.append(2), ValueError, "k1|network.onnx"),
        (lambda graph: graph.node.pop(2), ValueError, "network.onnx"),
        (lambda graph: graph.initializer.pop(0), (ValueError, NotImplementedError), "network.onnx"),
    ],
)
def test_refuses_changed_networks(tmp_path, change, kind, message):
    proto = residual()
    change(proto.graph)
    with pytest.raises(kind, match=message):
        load(tmp_path, proto)


def test_refuses_contradictions(tmp_path):
    proto = one("Gemm", {"k": weights(7, 4)}, (1, 7))
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 8
    with pytest.raises(ValueError, match="Gemm 'node_0' cannot be built"):
        load(tmp_path, proto)
    proto = one("Conv", {"k": weights(4, 3, 2, 2)}, opset=18)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 6
    with pytest.raises(ValueError, match="4 filters in 1 groups of 3 channels do not fit 6"):
        load(tmp_path, proto)
    proto = network([("Neg", "c", "y", {})], {"c": weights(2)})
    with pytest.raises(ValueError, match="'y' does not depend on the input"):
        load(tmp_path, proto)


@pytest.mark.parametrize("content", [b"", b"no network", bytes(50), b"\x08\x07", b"\x80\x04pickle"])
def test_refuses_other_files(tmp_path, content):
    with pytest.raises(ValueError, match="network.onnx must be a"):
        load(tmp_path, content)


def test_missing_files_and_package(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"missing\.onnx"):
        interchange.load_onnx(tmp_path / "missing.onnx")
    path = write(tmp_path, residual())
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install onnx"):
        interchange.load_onnx(path)


def test_files_are_not_unpacked_beyond_a_size(tmp_path):
    from tfcert.properties import files

    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(2_000_000)))
    assert len(files.read(path, 2_000_000)) == 2_000_000
    with pytest.raises(ValueError, match="must not hold more than 1999999 bytes"):
        files.read(path, 1_999_999)


def test_networks_of_the_competition(tmp_path):
    folder = support.shared_path("vnncomp")
    paths = sorted(folder.glob("*/onnx/*.onnx.gz"))
    assert len(paths) == 7
    for path in paths:
        proto = onnx.load_model_from_string(gzip.decompress(pathlib.Path(path).read_bytes()))
        model = interchange.load_onnx(path)
        x = inputs(proto, count=2)
        np.testing.assert_allclose(model(x), expected(proto, x)[0], rtol=1e-4, atol=1e-4)
