"""Cases of the rules' tests: recurrent layers and layers that act on every step of a sequence."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.rule_cases_support import CHAIN, Cases
from tfcert import layers as linf
from tfcert import rules

CASES = Cases()
_add, _layer = CASES.add, CASES.layer
_SHAPE = (2, 2)


class MinimalCell(keras.layers.Layer):
    """A cell of one's own: a gate that forgets, with a start that is trained."""

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.state_size = self.units = units

    def build(self, input_shape: Any) -> None:
        size = int(input_shape[-1]) + self.units
        self.kernel = self.add_weight(shape=(size, self.units), name="kernel")
        self.gate_kernel = self.add_weight(shape=(size, self.units), name="gate_kernel")
        self.start = self.add_weight(shape=(self.units,), name="start")

    def get_initial_state(self, batch_size: Any = None) -> Any:
        return ops.broadcast_to(self.start, (batch_size, self.units))

    def call(self, x: Any, states: Any) -> Any:
        both = ops.concatenate([x, states[0]], axis=-1)
        gate = ops.sigmoid(both @ self.gate_kernel)
        state = states[0] * gate + ops.tanh(both @ self.kernel)
        return state, [state]


def _minimal_cell(cell: MinimalCell, x: rules.Node, states: Any) -> Any:
    both = rules.rearrange(lambda *parts: ops.concatenate(parts, axis=-1), x, states[0])
    gate = rules.activation("sigmoid", rules.dense(both, cell.gate_kernel))
    change = rules.activation("tanh", rules.dense(both, cell.kernel))
    state = rules.add(rules.multiply(states[0], gate), change)
    return state, [state]


rules.register_rule(MinimalCell, _minimal_cell)


for _kind in (layers.SimpleRNN, layers.GRU, layers.LSTM):
    _name = _kind.__name__.lower()
    _layer(_name, lambda k=_kind: k(2), _SHAPE)
    for _option, _settings in {
        "sequences": {"return_sequences": True},
        "backwards": {"go_backwards": True, "return_sequences": True},
        "states": {"return_state": True},
        "bare": {"use_bias": False, "unroll": True},
        "relu": {"activation": "relu", "dropout": 0.5, "recurrent_dropout": 0.5},
    }.items():
        _layer(f"{_name}_{_option}", lambda k=_kind, s=_settings: k(2, **s), _SHAPE)
for _option, _settings in {
    "reset_before": {"reset_after": False},
    "reset_before_bare": {"reset_after": False, "use_bias": False},
    "hard": {"recurrent_activation": "hard_sigmoid", "activation": "hard_tanh"},
    "softmax": {"recurrent_activation": "softmax"},
    "ungated": {"recurrent_activation": "linear"},
}.items():
    _layer(f"gru_{_option}", lambda s=_settings: layers.GRU(2, **s), _SHAPE)
for _option, _settings in {
    "hard": {"recurrent_activation": "hard_sigmoid", "activation": "hard_tanh"},
    "softmax": {"recurrent_activation": "softmax"},
}.items():
    _layer(f"lstm_{_option}", lambda s=_settings: layers.LSTM(2, **s), _SHAPE)
_layer("lstm_of_one_step", lambda: layers.LSTM(3), (1, 2))
_add(
    "lstm_two_layers",
    lambda x: layers.LSTM(2)(layers.LSTM(2, return_sequences=True)(x)),
    _SHAPE,
)
_add(
    "simplernn_affine",
    lambda x: layers.SimpleRNN(2, activation=None, return_sequences=True)(x),
    _SHAPE,
    affine=True,
)
_add(
    "gru_of_bounded_state",
    lambda x: layers.GRU(3)(x, initial_state=layers.Dense(3)(layers.Flatten()(x))),
    _SHAPE,
)
_add(
    "lstm_of_constant_state",
    lambda x: layers.LSTM(2)(x, initial_state=[np.full((1, 2), v, "float32") for v in (0.5, -2.0)]),
    _SHAPE,
    places=(CHAIN,),
)

# Cells in RNN: Keras's own, several, and one with a rule of the user's.
for _name, _cell in {
    "simplernncell": lambda: layers.SimpleRNNCell(2),
    "grucell": lambda: layers.GRUCell(2),
    "lstmcell": lambda: layers.LSTMCell(2),
    "minimalcell": lambda: MinimalCell(2),
}.items():
    _layer(f"rnn_of_{_name}", lambda c=_cell: layers.RNN(c(), return_sequences=True), _SHAPE)
_layer("rnn", lambda: layers.RNN(layers.GRUCell(2)), _SHAPE)


def _stack(*cells: Any, **options: Any) -> Any:
    return lambda: layers.RNN(layers.StackedRNNCells([cell(2) for cell in cells]), **options)


_layer("stacked", _stack(layers.LSTMCell, layers.GRUCell, return_sequences=True), _SHAPE)
_layer("stacked_states", _stack(MinimalCell, layers.LSTMCell, return_state=True), _SHAPE)
_layer("stacked_one", _stack(layers.GRUCell, return_state=True), _SHAPE)
_layer("cells_of_simple_rnn", _stack(layers.SimpleRNNCell, layers.SimpleRNNCell), _SHAPE)


# Both directions.

for _mode in ("concat", "sum", "ave", "mul", None):
    _layer(
        f"bidirectional_{_mode}",
        lambda m=_mode: layers.Bidirectional(layers.SimpleRNN(2), merge_mode=m),
        _SHAPE,
    )
_layer("bidirectional", lambda: layers.Bidirectional(layers.GRU(2)), _SHAPE)
for _mode in ("concat", None):
    _layer(
        f"bidirectional_states_{_mode}",
        lambda m=_mode: layers.Bidirectional(layers.LSTM(2, return_state=True), merge_mode=m),
        _SHAPE,
    )
_layer(
    "bidirectional_of_two",
    lambda: layers.Bidirectional(
        layers.SimpleRNN(2, activation="relu", return_sequences=True),
        backward_layer=layers.GRU(2, go_backwards=True, return_sequences=True),
    ),
    _SHAPE,
)
_add(
    "bidirectional_of_bounded_state",
    lambda x: layers.Bidirectional(layers.SimpleRNN(2))(
        x, initial_state=[layers.Dense(2)(layers.Flatten()(x)) for _ in range(2)]
    ),
    _SHAPE,
)


# A layer or a model on every step.


def _each(make: Any, shape: tuple[int, ...], **options: Any) -> None:
    name = f"time_distributed_{make.__name__.strip('_')}"
    _layer(name, lambda: layers.TimeDistributed(make()), shape, **options)


def _residual() -> Any:
    entry = keras.Input((3, 1))
    x = layers.Conv1D(2, 2, padding="same")(entry)
    x = layers.BatchNormalization()(layers.ReLU()(x)) * entry + np.float32([0.5, -0.25])
    return keras.Model(entry, layers.Dense(2)(layers.Flatten()(x)))


def _pooled() -> Any:
    return keras.Sequential([keras.Input((4, 1)), layers.MaxPooling1D(2), layers.PReLU()])


def _sorted() -> Any:
    return layers.LayerNormalization(epsilon=0.1)


def _softmax() -> Any:
    return layers.Dense(2, activation="softmax")


def _recurrent() -> Any:
    return layers.GRU(2)


def _distances() -> Any:
    return keras.Sequential([keras.Input((3,)), linf.LInfDistance(2), layers.ReLU()])


def _depthwise() -> Any:
    return layers.DepthwiseConv1D(2)


_layer("time_distributed", lambda: layers.TimeDistributed(layers.Dense(2)), (3, 2), affine=True)
_each(_depthwise, (2, 3, 2), affine=True)
for _make, _steps in (
    (_residual, (2, 3, 1)),
    (_pooled, (2, 4, 1)),
    (_sorted, (2, 3)),
    (_softmax, (2, 3)),
    (_recurrent, (2, 3, 1)),
    (_distances, (2, 3)),
):
    _each(_make, _steps)
_add(
    "time_distributed_of_values",
    lambda x: layers.TimeDistributed(layers.TimeDistributed(layers.Conv1D(2, 2)))(x),
    (2, 2, 3, 1),
    affine=True,
)
