"""Networks of integers for tests: converted from Keras, executed by TensorFlow's interpreter."""

import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import tfcert
from tfcert.interchange import litert_files, litert_networks
from tfcert.interchange.litert_values import Value
from tfcert.layers import Requantize

# The kernels that TensorFlow executes: the optimised ones with XNNPACK, and the reference.
KERNELS = {
    "optimized": tf.lite.experimental.OpResolverType.AUTO,
    "reference": tf.lite.experimental.OpResolverType.BUILTIN_REF,
}


def randomize(model, seed=0):
    """Gives a model random weights, statistics and biases."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if len(variable.shape) > 1:
            spread = 1.5 / np.sqrt(np.prod(variable.shape[:-1]))
            variable.assign(random.normal(0, spread, variable.shape))
        else:
            variable.assign(random.uniform(0.1, 0.6, variable.shape))
    return model


def inputs(model, count=20, seed=1, low=0.0, high=1.0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).uniform(low, high, shape).astype("float32")


def convert(model, path, ends=None, calibration=None):
    """Writes a network of int8 operators, with ends of floats or of another type."""
    given = inputs(model) if calibration is None else calibration
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in given)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if ends is not None:
        converter.inference_input_type = converter.inference_output_type = ends
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(converter.convert())
    return path


def interpreter(path, kernels="optimized", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tf.lite.Interpreter(
            str(path), experimental_op_resolver_type=KERNELS[kernels], **options
        )


def execute(path, x, kernels="optimized", **options):
    """The interpreter after a run on a batch."""
    running = interpreter(path, kernels, **options)
    (entry,) = running.get_input_details()
    running.resize_tensor_input(entry["index"], x.shape)
    running.allocate_tensors()
    if entry["dtype"] != np.float32:
        scale, zero_point = entry["quantization"]
        ends = np.iinfo(entry["dtype"])
        x = np.clip(np.round(x / np.float32(scale)) + zero_point, ends.min, ends.max)
    running.set_tensor(entry["index"], x.astype(entry["dtype"]))
    running.invoke()
    return running


def outputs(path, x, kernels="optimized"):
    """Outputs of the interpreter, in real numbers."""
    running = execute(path, np.asarray(x, "float32"), kernels)
    (end,) = running.get_output_details()
    result = running.get_tensor(end["index"])
    if end["dtype"] == np.float32:
        return result
    scale, zero_point = end["quantization"]
    return (result.astype("float32") - zero_point) * np.float32(scale)


def rounded(path, x, kernels):
    """For each operator that rounds: its name, its radius, and how far results were off, in steps.

    The exact result is that of the integers which the interpreter computed for the operands.
    """
    graph = litert_files.read_graph(path)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        reader = litert_networks._Reader(graph, "float64", None)
        reader.model("network")
    finally:
        keras.config.set_dtype_policy(policy)
    running = execute(path, x, kernels, experimental_preserve_all_tensors=True)

    def steps(index):
        found, grid = running.get_tensor(index), graph.tensors[index].grid()
        return found if grid is None else found.astype("float64") - grid.zero_point

    for operator in graph.operators:
        value = reader.values[operator.outputs[0]]
        layer = value.tensor._keras_history[0] if isinstance(value, Value) else None
        taken = [i for i in operator.inputs if isinstance(reader.values.get(i), Value)]
        before = [reader.values[i].tensor for i in taken]
        if isinstance(layer, Requantize) and all(value.tensor is not t for t in before):
            given = [steps(i) for i in taken]
            if layer.input is not before[0]:  # Otherwise the operator rescales only.
                given = [np.asarray(keras.Model(before, layer.input)(given))]
            exact = given[0] * np.asarray(layer.multiplier)
            off = steps(operator.outputs[0]) - np.clip(exact, *layer.limits)
            yield operator.kind, layer.radius, np.abs(off).max()


# What holds of every file.

EPS = 0.02


def load(path, **options):
    return tfcert.interchange.load_litert(path, **options)


def step(path):
    """The step of the outputs."""
    graph = litert_files.read_graph(path)
    (end,) = graph.outputs
    grid = graph.tensors[end].grid() or graph.tensors[graph.operators[-1].inputs[0]].grid()
    return grid.scale


def check_outputs(path, equal=1.0, most=0):
    """The model computes what the optimised kernels compute, also where values saturate.

    Args:
        path: The file.
        equal: The least share of outputs that are the same.
        most: How many steps the others may be off.
    """
    model = load(path)
    x = inputs(model, 40, low=-0.3, high=1.3)
    off = np.abs(outputs(path, x) - np.asarray(model(x))) / step(path)
    assert off.max() < most + 0.01
    assert (off < 0.01).mean() >= equal


def attacked(model, x, region, places):
    """Points where single outputs are as small and as large as an attack makes them."""
    count = model.output_shape[-1]
    for place in range(places):
        for sign in (1.0, -1.0):
            asked = tfcert.properties.Linear(sign * np.eye(count)[[place]], 1000.0)
            yield tfcert.attacks.PGD(region, steps=8, loss="margin")(model, x, asked)[:, None]


def check_bounds(path, methods=("ibp", "crown"), eps=EPS, places=0):
    """Points of a region, executed by all kernels, stay within the bounds; attacked ones too."""
    model = load(path)
    x, region = inputs(model, 4), tfcert.LpBall(eps)
    points = [region.sample(x, 60, 0), region.sample(x, 60, 1, corners=True)]
    points += attacked(model, x, region, places)
    points = np.concatenate([np.asarray(p) for p in points], axis=1).astype("float32")
    flat = points.reshape(-1, *points.shape[2:])
    bounds = {method: tfcert.bound(model, x, region, method) for method in methods}
    for kernels in KERNELS:
        found = outputs(path, flat, kernels).reshape(*points.shape[:2], -1)
        slack = 1e-3 * step(path)
        for method, ends in bounds.items():
            lower, upper = (np.asarray(end)[:, None] for end in ends)
            assert (found >= lower - slack).all(), (kernels, method)
            assert (found <= upper + slack).all(), (kernels, method)


def check_radii(path, kernels):
    x = inputs(load(path), 100, low=-0.1, high=1.1)
    found = list(rounded(path, x, kernels))
    assert len(found) > 3
    for kind, radius, off in found:
        assert off <= radius, kind
        assert radius < (1.6 if kind == "MEAN" else 1.1), kind


# Networks of every kind.


def dense(seed=0):
    """Two dense layers."""
    stack = [keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(3)]
    return randomize(keras.Sequential(stack), seed)


def images(seed=0):
    """Convolutions, a residual, all poolings, padding and parallel branches."""
    x = keras.Input((6, 6, 2))
    start = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    value = layers.Add()([start, layers.Conv2D(4, 3, padding="same")(start)])
    value = layers.MaxPooling2D()(layers.ReLU()(value))
    value = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(value)
    value = layers.AveragePooling2D(2)(layers.ZeroPadding2D(((1, 0), (0, 1)))(value))
    mean, flat = layers.GlobalAveragePooling2D()(value), layers.Flatten()(value)
    return randomize(keras.Model(x, layers.Dense(3)(layers.Concatenate()([mean, flat]))), seed)


def _stack(*stack, shape=(6, 6, 2)):
    return randomize(keras.Sequential([keras.Input(shape), *stack]))


def _arithmetic():
    x = keras.Input((6, 6, 2))
    first = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    second = layers.Activation("tanh")(first)
    value = layers.Subtract()([layers.Multiply()([first, second]), first])
    return randomize(keras.Model(x, layers.Dense(3)(layers.Flatten()(value))))


def _joined():
    x = keras.Input((6, 6, 2))
    parts = [layers.Conv2D(3, 3)(x), layers.Conv2D(3, 3, activation="tanh")(x)]
    value = layers.Conv2D(2, 2)(layers.Concatenate()(parts))
    return randomize(keras.Model(x, layers.Dense(3)(layers.Flatten()(value))))


# Beside those above: model, and the type at its ends.
OTHERS = {
    "leaky": lambda: (
        _stack(
            layers.Conv2D(4, 3),
            layers.LeakyReLU(0.2),
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Conv2D(3, 1),
            layers.Flatten(),
        ),
        tf.uint8,
    ),
    "sigmoid": lambda: (
        _stack(
            layers.Conv2D(4, 3, strides=2, padding="same", activation="tanh"),
            layers.Flatten(),
            layers.Dense(3, activation="sigmoid"),
        ),
        tf.int8,
    ),
    "softmax": lambda: (
        _stack(
            layers.Conv2D(6, 3, groups=2),
            layers.MaxPooling2D(3, 2, padding="same"),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ),
        None,
    ),
    "normalized": lambda: (
        _stack(
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.AveragePooling2D(3, 2, padding="same"),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(2, depth_multiplier=2),
            layers.Flatten(),
            layers.Dense(3),
        ),
        None,
    ),
    "steps": lambda: (
        _stack(
            layers.Conv1D(4, 3, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
            shape=(9, 3),
        ),
        None,
    ),
    "joined": lambda: (_joined(), None),
    "arithmetic": lambda: (_arithmetic(), None),
}
