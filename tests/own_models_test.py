"""Models that a new user brings: each is bounded, attacked and certified, or refused with advice.

A row of ``WORKS`` or ``REFUSED`` is one model. Add a row for every kind of model that should work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import soundness
from tfcert import properties
from tfcert.branching import find_counterexample
from tfcert.regions import WordSubstitutions

IMAGE, TABLE, SERIES, TEXT = (8, 8, 3), (6,), (4, 3), (5,)
WORDS = WordSubstitutions({word: [19 - word, word // 2] for word in range(1, 20)}, 2)


class Integers(NamedTuple):
    """What an input of integers takes: its shape, and below which number all of them lie."""

    shape: tuple[int, ...]
    below: int


class Row(NamedTuple):
    """A model, what it takes, and which answers it is asked for.

    Attributes:
        make: Makes the model.
        shapes: The shape of its input, or of each of its inputs by name.
        region: The region, or one for each input.
        classifies: Whether its outputs decide a class; else they are numbers.
        methods: How it is bounded.
        attack: Makes the attack that is called by itself.
    """

    make: Callable[[], keras.Model]
    shapes: Any = TABLE
    region: Any = tfcert.LpBall(0.02)
    classifies: bool = True
    methods: tuple[str, ...] = ("ibp", "crown-ibp")
    attack: Callable[..., tfcert.attacks.Attack] = tfcert.attacks.FGSM


def _functional(shape: tuple[int, ...], build: Callable[[Any], Any]) -> keras.Model:
    entry = keras.Input(shape)
    return keras.Model(entry, build(entry))


def _resnet() -> keras.Model:
    """Residual blocks with batch normalisation, and a projection beside."""

    def block(x: Any, filters: int, stride: int) -> Any:
        y = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(y))
        if stride > 1:
            x = layers.Conv2D(filters, 1, stride)(x)
        return ops.relu(x + y)

    def build(x: Any) -> Any:
        x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
        x = block(block(x, 4, 1), 8, 2)
        return layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(x))

    return _functional(IMAGE, build)


def _mobile() -> keras.Model:
    """Inverted bottlenecks with depthwise convolutions, ReLU6 and squeeze-and-excite."""

    def build(x: Any) -> Any:
        x = layers.Conv2D(4, 3, 2, padding="same", use_bias=False)(layers.Rescaling(2.0, -1.0)(x))
        x = layers.ReLU(max_value=6)(layers.BatchNormalization()(x))
        y = layers.Conv2D(8, 1, activation="silu")(x)
        y = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(y)
        squeezed = layers.GlobalAveragePooling2D(keepdims=True)(y)
        y = layers.Multiply()([y, layers.Conv2D(8, 1, activation="sigmoid")(squeezed)])
        x = layers.Add()([layers.Conv2D(4, 1)(y), x])
        return layers.Dense(3)(layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x)))

    return _functional(IMAGE, build)


def _tabular(last: int = 3, activation: str | None = None) -> keras.Model:
    """Normalised columns, dense layers, batch normalisation."""
    scaling = layers.Normalization(mean=np.zeros(6), variance=np.full(6, 4.0))
    parts = [scaling, layers.Dense(8, "gelu"), layers.BatchNormalization(), layers.Dense(8, "elu")]
    return keras.Sequential([keras.Input(TABLE), *parts, layers.Dense(last, activation)])


class _Block(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = layers.Dense(6, "relu"), layers.Dense(6)

    def call(self, x: Any) -> Any:
        return x + self.outer(self.inner(x))


class _Written(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.drop = [_Block(), _Block()], layers.Dropout(0.5)
        self.last = layers.Dense(3, "softmax")

    def call(self, x: Any, training: bool | None = None) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.last(self.drop(x, training=training))


def _two_inputs() -> keras.Model:
    image, meta = keras.Input(IMAGE, name="image"), keras.Input(TABLE, name="meta")
    seen = layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3, activation="relu")(image))
    both = layers.Concatenate()([seen, layers.Dense(4, "tanh")(meta)])
    return keras.Model({"image": image, "meta": meta}, layers.Dense(3)(both))


def _mixed_types() -> keras.Model:
    """A category in int32 and a number in float64 beside columns that may move."""
    table, level = (
        keras.Input(TABLE, name="table"),
        keras.Input((2,), dtype="float64", name="level"),
    )
    kind = keras.Input((1,), dtype="int32", name="kind")
    known = layers.Flatten()(layers.Embedding(5, 3)(kind))
    both = layers.Concatenate()([layers.Dense(6, "relu")(table), known, layers.Dense(2)(level)])
    return keras.Model({"table": table, "level": level, "kind": kind}, layers.Dense(3)(both))


def _vision_transformer() -> keras.Model:
    """Patches, a class token, learned positions, and a block of attention and GELU."""

    def build(x: Any) -> Any:
        x = layers.Reshape((4, 6))(layers.Conv2D(6, 4, 4)(x))
        x = layers.ZeroPadding1D((1, 0))(x) + np.linspace(-1, 1, 30).reshape(5, 6).astype("float32")
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 3)(y, y)
        y = layers.Dense(8, "gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dropout(0.1)(layers.Dense(6)(y))
        return layers.Dense(3)(layers.LayerNormalization()(x)[:, 0])

    return _functional(IMAGE, build)


def _text() -> keras.Model:
    parts = [layers.Embedding(20, 4), layers.GRU(3), layers.Dense(3)]
    return keras.Sequential([keras.Input(TEXT, dtype="int32"), *parts])


def _text_and_numbers() -> keras.Model:
    words, table = keras.Input(TEXT, dtype="int32", name="words"), keras.Input(TABLE, name="table")
    read = layers.Conv1D(4, 2, activation="relu")(layers.Embedding(20, 4)(words))
    both = layers.Concatenate()([layers.GlobalMaxPooling1D()(read), table])
    return keras.Model({"words": words, "table": table}, layers.Dense(3)(both))


def _mixed_precision() -> keras.Model:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return _tabular()
    finally:
        keras.config.set_dtype_policy(policy)


WORKS = {
    "resnet": Row(_resnet, IMAGE),
    "mobile_net": Row(_mobile, IMAGE, tfcert.LpBall(0.01)),
    "tabular": Row(_tabular),
    "tabular_in_a_box": Row(_tabular, region=tfcert.Box(np.zeros(6), np.full(6, 1.0))),
    "subclassed": Row(_Written),
    "lambda": Row(
        lambda: _functional(
            TABLE, lambda x: layers.Dense(3)(layers.Lambda(lambda t: ops.tanh(2.0 * t))(x))
        )
    ),
    "mixed_precision": Row(_mixed_precision),
    "two_inputs": Row(
        _two_inputs,
        {"image": IMAGE, "meta": TABLE},
        {"image": tfcert.LpBall(0.02), "meta": "fixed"},
    ),
    "mixed_types": Row(
        _mixed_types,
        {"table": TABLE, "level": (2,), "kind": Integers((1,), 5)},
        {"table": tfcert.LpBall(0.1), "level": "fixed", "kind": "fixed"},
    ),
    "vision_transformer": Row(_vision_transformer, IMAGE, tfcert.LpBall(0.001)),
    "lstm": Row(lambda: _functional(SERIES, lambda x: layers.Dense(3)(layers.LSTM(4)(x))), SERIES),
    "gru": Row(
        lambda: _functional(
            SERIES, lambda x: layers.Dense(3)(layers.Bidirectional(layers.GRU(2))(x))
        ),
        SERIES,
    ),
    "text": Row(_text, Integers(TEXT, 20), WORDS, attack=tfcert.attacks.Substitutions),
    "text_and_numbers": Row(
        _text_and_numbers,
        {"words": Integers(TEXT, 20), "table": TABLE},
        {"words": WORDS, "table": tfcert.LpBall(0.05)},
    ),
    "binary_sigmoid": Row(lambda: _tabular(1, "sigmoid")),
    "binary_logit": Row(lambda: _tabular(1)),
    "regression": Row(lambda: _tabular(2), classifies=False),
}


def _inputs(shapes: Any, count: int = 2) -> Any:
    rng = np.random.default_rng(0)
    if isinstance(shapes, dict):
        return {name: _inputs(shape, count) for name, shape in shapes.items()}
    if isinstance(shapes, Integers):
        return rng.integers(0, shapes.below, size=(count, *shapes.shape))
    return rng.uniform(size=(count, *shapes)).astype("float32")


def _sampled(x: Any, region: Any, count: int) -> Any:
    """Points of the region around each input, as inputs of the model; half of them corners."""
    if isinstance(x, dict):
        return {name: _sampled(x[name], region[name], count) for name in x}
    if isinstance(region, str):
        return np.repeat(x, count, axis=0)
    if isinstance(region, WordSubstitutions):
        return _replaced(np.repeat(x, count, axis=0), region)
    halves = [np.asarray(region.sample(x, count // 2, seed=3, corners=c)) for c in (False, True)]
    return np.concatenate(halves, axis=1).reshape(-1, *x.shape[1:])


def _replaced(words: np.ndarray, region: WordSubstitutions) -> np.ndarray:
    """Random words in at most two places."""
    rng, found = np.random.default_rng(4), words.copy()
    for sequence in found:
        for place in rng.choice(len(sequence), 2, replace=False):
            sequence[place] = rng.choice(region.table.get(int(sequence[place]), [sequence[place]]))
    return found


@pytest.fixture(autouse=True)
def _eager():
    with soundness.eagerly():
        yield


@pytest.mark.filterwarnings("ignore:.*do not cover rounding")
@pytest.mark.parametrize("name", WORKS)
def test_a_model_is_bounded_attacked_and_certified(name):
    row = WORKS[name]
    keras.utils.set_random_seed(0)
    model, x = row.make(), _inputs(row.shapes)
    clean = np.asarray(ops.cast(model(x), "float32"))
    outputs = np.asarray(ops.cast(model(_sampled(x, row.region, 60)), "float32"))
    outputs = outputs.reshape(2, 60, -1)
    # bfloat16 keeps 8 bits: what rounding does is not covered, and larger than elsewhere.
    slack = (0.05 if name == "mixed_precision" else 1e-4) * np.abs(outputs).max()
    for method in row.methods:
        lower, upper = (np.asarray(t)[:, None] for t in tfcert.bound(model, x, row.region, method))
        assert (lower - slack <= outputs).all() and (outputs <= upper + slack).all(), method
    if not row.classifies:
        asked = properties.OutputRange(clean.min() - 100.0, clean.max() + 100.0)
        assert tfcert.verify(model, asked, x, row.region, 30).verdict == "holds"
        tight = properties.OutputRange(upper=clean[0])
        assert tfcert.verify(model, tight, x[:1], row.region, 30).verdict == "violated"
        return
    y = (clean[:, 0] > (name == "binary_sigmoid") * 0.5).astype(int)
    y = clean.argmax(axis=1) if clean.shape[1] > 1 else y
    margins = np.asarray(tfcert.bound_margins(model, x, y, row.region, "crown-ibp"))
    assert margins.shape == (2, max(2, clean.shape[1])) and np.isfinite(margins).all()
    result = tfcert.certify(
        model, x, y, row.region, ["ibp", "crown-ibp"], attack=None, self_check=0
    )
    assert set(result.verdict) <= {"verified", "falsified", "unknown"}
    least = np.where(np.arange(margins.shape[1]) == y[:, None], np.inf, margins).min(axis=1)
    assert (result.verdict[least > 1e-4] == "verified").all()
    points = row.attack(row.region)(model, x, y)
    shapes = [keras.tree.map_structure(np.shape, inputs) for inputs in (points, x)]
    assert shapes[0] == shapes[1]
    assert np.isfinite(np.asarray(ops.cast(model(points), "float32"))).all()
    if "text" in name:  # Branch and bound is for boxes.
        return
    # With a wrong label every input is its own counterexample.
    found = find_counterexample(
        model, properties.ClassStays((y + 1) % margins.shape[1]), x, row.region, 2, 4
    )
    assert found is not None


@pytest.mark.filterwarnings("ignore:.*ends in")
@pytest.mark.parametrize(
    "name",
    [
        "two_inputs",
        "mixed_types",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet", "binary_sigmoid", "vision_transformer", "lstm")
        ),
    ],
)
def test_a_model_is_trained_and_exported(name, tmp_path):
    tf = pytest.importorskip("tensorflow", reason="exports are SavedModels of TensorFlow")
    row = WORKS[name]
    keras.utils.set_random_seed(0)
    model, x = row.make(), _inputs(row.shapes, 8)
    y = np.arange(8) % 2
    trainer = tfcert.CertifiedTrainer(model, tfcert.objectives.IBP(row.region))
    trainer.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    before = trainer.evaluate(x, y, verbose=0, return_dict=True)
    trainer.fit(x, y, batch_size=8, epochs=5, verbose=0)
    after = trainer.evaluate(x, y, verbose=0, return_dict=True)
    assert after["loss"] < before["loss"]
    path = tfcert.export_certified(model, tmp_path / "1", row.region, "ibp")
    serve = tf.saved_model.load(path).signatures["serving_default"]
    parts = x if isinstance(x, dict) else {"x": x}
    specs = serve.structured_input_signature[1]
    answer = serve(**{key: tf.constant(part, specs[key].dtype) for key, part in parts.items()})
    label = answer["label"].numpy()
    least = np.asarray(tfcert.least_margins(model, x, label, row.region, "ibp"))
    np.testing.assert_allclose(answer["margin"].numpy(), least, atol=1e-3)


class _Decides(keras.Model):
    def call(self, x: Any) -> Any:
        return x if ops.max(x) > 0 else -x


# Models that are refused: what they take, and what the message says.
REFUSED = {
    "decides_by_values": (
        _Decides,
        TABLE,
        r"The reading stops at .*own_models_test.py:\d+, `return",
    ),
    "resizing": (
        lambda: _functional(IMAGE, lambda x: layers.Flatten()(layers.Resizing(4, 4)(x))),
        IMAGE,
        "Apply this layer to the data before the model",
    ),
    "spectral_normalization": (
        lambda: _functional(TABLE, layers.SpectralNormalization(layers.Dense(3))),
        TABLE,
        "copy the normalised kernel into a plain layer",
    ),
    "half_precision": (
        lambda: keras.Sequential([keras.Input(TABLE), layers.Dense(3, dtype="float16")]),
        TABLE,
        "has the type float16. Supported types: float32, float64",
    ),
    "sine": (
        lambda: _functional(TABLE, lambda x: layers.Dense(3)(ops.sin(x))),
        TABLE,
        "lists the functions of keras.ops that have a rule",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_is_refused_with_advice(name):
    make, shape, text = REFUSED[name]
    model, x = make(), _inputs(shape)
    with pytest.raises((NotImplementedError, ValueError), match=text):
        tfcert.bound(model, x, tfcert.LpBall(0.01))
