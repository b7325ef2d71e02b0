"""Small ONNX networks, at least one for every operator that is read."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

IMAGE = (1, 3, 6, 5)  # batch, channels, height, width
FLOATS = np.random.default_rng(0)


def weights(*shape, positive=False):
    values = FLOATS.normal(size=shape).astype("float32")
    return np.abs(values) + np.float32(0.5) if positive else values


def network(nodes, constants=(), shape=IMAGE, opset=18, outputs=("y",), kind=TensorProto.FLOAT):
    """A network of nodes from "x" to "y", or to several outputs.

    Args:
        nodes: Each ``(operator, inputs, outputs, attributes)``, of names parted by spaces.
        constants: Arrays by name.
        shape: That of x; a None is a variable batch axis.
        opset: The version of the operators.
        outputs: The names of outputs.
        kind: The type of x.
    """
    made = [
        helper.make_node(
            operator, given.split(" ") if given else [], result.split(" "), f"node_{i}", **settings
        )
        for i, (operator, given, result, settings) in enumerate(nodes)
    ]
    dims = ["n" if size is None else size for size in shape]
    graph = helper.make_graph(
        made,
        "network",
        [helper.make_tensor_value_info("x", kind, dims)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in dict(constants).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    # The format demands the shapes of outputs.
    x = np.zeros([size or 1 for size in shape], helper.tensor_dtype_to_np_dtype(kind))
    for output, value in zip(
        graph.output, ReferenceEvaluator(proto).run(None, {"x": x}), strict=True
    ):
        dims = [*dims[:1], *value.shape[1:]]
        output.CopyFrom(helper.make_tensor_value_info(output.name, kind, dims))
    return helper.make_model(graph, opset_imports=proto.opset_import, ir_version=8)


def one(operator, constants=(), shape=IMAGE, opset=18, image=False, **settings):
    """A network of one operator; with `image` behind a convolution, whose channels are moved."""
    constants = dict(constants)
    names = " ".join(["x", *constants])
    if not image:
        return network([(operator, names, "y", settings)], constants, shape, opset)
    nodes = [("Conv", "x kernel", "h", {}), (operator, f"h{names[1:]}", "y", settings)]
    return network(nodes, {**constants, "kernel": weights(4, 3, 1, 1)}, shape, opset)


def _entrywise():
    names = ["Abs", "Erf", "Exp", "HardSwish", "Mish", "Neg", "Relu", "Sigmoid", "Softplus"]
    found = {name: one(name) for name in [*names, "Softsign", "Tanh", "Identity", "Dropout"]}
    found |= {f"{name} image": one(name, image=True) for name in ("Relu", "Tanh")}
    found |= {name: one(name, opset=20) for name in ("Gelu",)}
    found["Gelu tanh"] = one("Gelu", opset=20, approximate="tanh")
    for name in ("Log", "Sqrt", "Reciprocal"):
        nodes = [("Abs", "x", "a", {}), ("Add", "a one", "b", {}), (name, "b", "y", {})]
        found[name] = network(nodes, {"one": np.float32(1)})
    for name, settings in (
        ("LeakyRelu", {"alpha": 0.3}),
        ("Elu", {"alpha": 1.5}),
        ("Celu", {"alpha": 0.7}),
        ("Selu", {}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ):
        found[name] = one(name, **settings)
        found[f"{name} default"] = one(name)
    found["PRelu"] = one("PRelu", {"slope": weights(3, 1, 1)})
    found["PRelu image"] = one("PRelu", {"slope": weights(4, 1, 1)}, image=True)
    found["PRelu each"] = one("PRelu", {"slope": weights(3, 6, 5)})
    low, high = np.float32(-0.25), np.float32(0.5)
    found["Clip"] = one("Clip", {"low": low, "high": high})
    found["Clip low"] = one("Clip", {"low": low})
    found["Clip 0"] = one("Clip", {"low": np.float32(0)})
    found["Clip high"] = network([("Clip", "x  high", "y", {})], {"high": high})
    found["Clip old"] = one("Clip", opset=7, min=-0.5, max=0.5)
    found["Clip none"] = one("Clip", opset=7)
    for name in ("Softmax", "LogSoftmax"):
        found[name] = one(name)
        found[f"{name} image"] = one(name, image=True, axis=1)
        found[f"{name} old"] = one(name, shape=(1, 7), opset=9)
    found["Cast"] = one("Cast", to=TensorProto.FLOAT)
    return found


def _arithmetic():
    found = {}
    for name in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        channel = weights(4, 1, 1, positive=True)
        found[f"{name} constant"] = one(name, {"c": weights(6, 5, positive=True)})
        found[f"{name} channel"] = one(name, {"c": channel}, image=True)
        nodes = [("Exp", "x", "a", {}), ("Relu", "x", "b", {}), (name, "b a", "y", {})]
        found[name] = network(nodes)
        nodes = [("Exp", "x", "a", {}), (name, "c a", "y", {})]
        found[f"{name} from the left"] = network(nodes, {"c": weights(3, 1, 1)})
    nodes = [("Conv", "x k", "h", {}), ("Relu", "x", "b", {}), ("Add", "h b", "y", {})]
    found["Add of two layouts"] = network(nodes, {"k": weights(3, 3, 1, 1)})
    nodes = [("ReduceMean", "x axes", "m", {"keepdims": 0}), ("Add", "x m", "y", {})]
    found["Add of two ranks"] = network(nodes, {"axes": np.array([1])})
    for name in ("Sum", "Mean", "Max", "Min"):
        nodes = [("Exp", "x", "a", {}), (name, "x c a", "y", {})]
        found[f"{name} of three"] = network(nodes, {"c": weights(5)})
    for exponent in (2, 3):
        found[f"Pow {exponent}"] = one("Pow", {"c": np.float32(exponent)})
    found["Pow int"] = one("Pow", {"c": np.array([2])})
    return found


def _products():
    flat = (1, 7)
    kernel, turned, bias = weights(7, 4), weights(4, 7), weights(4)
    found = {
        "Gemm": one("Gemm", {"k": kernel, "b": bias}, flat),
        "Gemm turned": one("Gemm", {"k": turned, "b": weights(1, 4)}, flat, transB=1),
        "Gemm factors": one("Gemm", {"k": kernel, "b": bias}, flat, alpha=0.5, beta=0.25),
        "Gemm alone": one("Gemm", {"k": kernel}, flat, alpha=2.0),
        "Gemm one bias": one("Gemm", {"k": kernel, "b": weights(1)}, flat),
        "MatMul": one("MatMul", {"k": kernel}, flat),
        "MatMul image": one("MatMul", {"k": weights(5, 4)}, image=True),
        "MatMul variable batch": one("MatMul", {"k": kernel}, (None, 7)),
        "MatMul bias twice": network(
            [("MatMul", "x k", "a", {}), ("Add", "b a", "c", {}), ("Add", "c b", "y", {})],
            {"k": kernel, "b": bias},
            flat,
        ),
        "MatMul read twice": network(
            [("MatMul", "x k", "a", {}), ("Add", "a b", "c", {}), ("Mul", "a c", "y", {})],
            {"k": kernel, "b": bias},
            flat,
        ),
        "MatMul number": network(
            [("MatMul", "x k", "a", {}), ("Add", "a b", "y", {})],
            {"k": kernel, "b": bias[:1]},
            flat,
        ),
        "MatMul from the left": network(
            [("MatMul", "k x", "y", {})], {"k": weights(2, 7)}, (1, 7, 1)
        ),
    }
    for name, shape, image in (("flat", (1, 3), False), ("image", IMAGE, True)):
        size = 4 if image else 3
        numbers = [weights(size, positive=True) for _ in range(4)]
        constants = dict(zip("sbmv", numbers, strict=True))
        settings = {"epsilon": 1e-3, "momentum": 0.8}
        found[f"BatchNormalization {name}"] = one(
            "BatchNormalization", constants, shape, image=image, **settings
        )
    constants = dict(zip("sbmv", [weights(3, positive=True) for _ in range(4)], strict=True))
    found["BatchNormalization first"] = one("BatchNormalization", constants)
    return found


def _windows():
    def conv(name, filters, channels, kernel, shape=IMAGE, bias=True, **settings):
        constants = {"k": weights(filters, channels, *kernel)}
        if bias:
            constants["b"] = weights(filters)
        return {f"Conv {name}": one("Conv", constants, shape, **settings)}

    same, lower = {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}
    found = {
        **conv("plain", 4, 3, (3, 2)),
        **conv("no bias", 4, 3, (3, 3), bias=False, kernel_shape=[3, 3]),
        **conv("pads", 4, 3, (3, 3), pads=[1, 2, 0, 1], strides=[2, 1]),
        **conv("pads as same", 4, 3, (3, 3), pads=[1, 1, 1, 1]),
        **conv("same", 4, 3, (3, 2), strides=[2, 2], **same),
        **conv("same lower", 4, 3, (3, 2), strides=[2, 2], **lower),
        **conv("valid", 4, 3, (2, 2), auto_pad="VALID"),
        **conv("dilated", 4, 3, (2, 2), dilations=[2, 3], pads=[1, 1, 1, 1]),
        **conv("groups", 6, 2, (2, 2), (1, 4, 5, 5), group=2),
        **conv("depthwise", 6, 1, (2, 2), group=3),
        **conv("depthwise strides", 3, 1, (2, 2), group=3, strides=[2, 1]),
        **conv("1D", 4, 3, (3,), (1, 3, 8), pads=[2, 0], strides=[2]),
        **conv("1D depthwise", 3, 1, (3,), (1, 3, 8), group=3),
        **conv("3D", 2, 2, (2, 2, 2), (1, 2, 4, 4, 3), pads=[1, 0, 0, 0, 0, 1]),
    }
    square = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pads = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    for name in ("AveragePool", "MaxPool"):
        found[name] = one(name, **square)
        found[f"{name} rectangle"] = one(name, kernel_shape=[3, 2])
        found[f"{name} same"] = one(name, **square, **same)
        found[f"{name} image"] = one(name, image=True, **square)
        found[f"{name} 1D"] = one(name, shape=(1, 3, 8), kernel_shape=[2], strides=[2])
        found[f"{name} exact"] = one(name, shape=(1, 3, 6, 6), **square, ceil_mode=1)
    found["AveragePool pads"] = one("AveragePool", **pads, count_include_pad=1)
    found["AveragePool uncounted"] = one("AveragePool", shape=(1, 3, 5, 5), **pads)
    found["MaxPool pads"] = one("MaxPool", shape=(1, 3, 5, 5), **pads)
    for name in ("GlobalAveragePool", "GlobalMaxPool"):
        found[name] = one(name)
        found[f"{name} image"] = one(name, image=True)
    return found


def _shapes():
    found = {
        "Flatten": one("Flatten"),
        "Flatten image": one("Flatten", image=True),
        "Flatten later": one("Flatten", shape=(1, 1, 1, 5), axis=3),
        "Reshape": one("Reshape", {"s": np.array([1, 5, -1])}),
        "Reshape image": one("Reshape", {"s": np.array([0, -1])}, image=True),
        "Reshape as it is": one("Reshape", {"s": np.array([1, 3, 6, 5])}),
        "Squeeze": one("Squeeze", {"a": np.array([2, -1])}, (1, 3, 1, 4, 1)),
        "Squeeze old": one("Squeeze", shape=(1, 3, 1), opset=11, axes=[2]),
        "Unsqueeze": one("Unsqueeze", {"a": np.array([1, -1])}),
        "Unsqueeze old": one("Unsqueeze", opset=11, axes=[2]),
        "Transpose": one("Transpose", perm=[0, 3, 1, 2]),
        "Transpose image": one("Transpose", perm=[0, 2, 3, 1], image=True),
        "Slice": one(
            "Slice", {"s": np.array([1, -3]), "e": np.array([3, 99]), "a": np.array([1, -1])}
        ),
        "Slice image": one(
            "Slice", {"s": np.array([0]), "e": np.array([-1]), "a": np.array([2])}, image=True
        ),
        "Slice steps": network(
            [("Slice", "x s e a p", "y", {})],
            {n: np.array([v]) for n, v in (("s", 1), ("e", 6), ("a", 2), ("p", 2))},
        ),
        "Slice old": one("Slice", opset=9, starts=[1], ends=[3], axes=[3]),
        "Pad": one("Pad", {"p": np.array([0, 0, 1, 2, 0, 0, 3, 0])}),
        "Pad image": one("Pad", {"p": np.array([0, 1, 1, 0, 0, 0, 0, 2])}, image=True),
        "Pad axes": network(
            [("Pad", "x p  a", "y", {})], {"p": np.array([1, 2]), "a": np.array([-1])}
        ),
        "Pad old": one("Pad", opset=9, pads=[0, 0, 1, 1, 0, 0, 1, 1]),
    }
    nodes = [("Conv", "x k", "h", {}), ("Tanh", "h", "t", {}), ("Concat", "h t", "y", {"axis": 1})]
    found["Concat images"] = network(nodes, {"k": weights(4, 3, 1, 1)})
    nodes = [("Conv", "x k", "h", {}), ("Concat", "h x h", "y", {"axis": -1})]
    found["Concat"] = network(nodes, {"k": weights(3, 3, 1, 1)})
    for name in ("ReduceMean", "ReduceSum", "ReduceMax"):
        axes = {"a": np.array([2, 3])}
        if name == "ReduceSum":
            found[name] = one(name, axes, opset=13, keepdims=0)
        else:
            found[name] = one(name, axes, keepdims=0)
            found[f"{name} old"] = one(name, opset=11, axes=[-1])
        found[f"{name} image"] = one(name, axes, image=True)
        found[f"{name} all"] = one(name)
    # The shape of x, as PyTorch writes x.view(x.size(0), -1).
    nodes = [
        ("Shape", "x", "s", {}),
        ("Gather", "s zero", "n", {"axis": 0}),
        ("Unsqueeze", "n axes", "u", {}),
        ("Concat", "u rest", "target", {"axis": 0}),
        ("Reshape", "x target", "y", {}),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    found["Shape"] = network(nodes, constants, (None, 3, 6, 5))
    value = numpy_helper.from_array(np.float32(2.5))
    nodes = [("Constant", "", "c", {"value": value}), ("Mul", "x c", "y", {})]
    found["Constant"] = network(nodes)
    return found


CASES: dict[str, onnx.ModelProto] = {
    **_entrywise(),
    **_arithmetic(),
    **_products(),
    **_windows(),
    **_shapes(),
}
