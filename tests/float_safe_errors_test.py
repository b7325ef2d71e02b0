"""float_safe: settings and layers that are refused."""

import os
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcert
from tests import soundness
from tests.float_safe_support import CROWN, IBP, dense
from tfcert import methods, relaxations


@pytest.fixture(scope="module", autouse=True)
def _float64():
    soundness.needs_float64()


def _small_call(method=IBP, **options):
    model = keras.Sequential([keras.Input((2,)), dense(np.eye(2), [0, 0])])
    return tfcert.bound(model, np.ones((1, 2)), tfcert.LpBall(0.1), method, **options)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="settings of TensorFlow")
def test_reduced_precision_of_tensorflow_is_refused():
    import tensorflow as tf

    with mock.patch.object(tf.config, "get_visible_devices", return_value=["GPU:0"]):
        _small_call()  # TF32 is off in the tests.
        tf.config.experimental.enable_tensor_float_32_execution(True)
        try:
            with pytest.raises(ValueError, match="TF32 enabled on a GPU"):
                _small_call()
            _small_call(methods.IBP())
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision": True})
    try:
        with pytest.raises(ValueError, match="auto_mixed_precision"):
            _small_call()
    finally:
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision": False})


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="settings of JAX")
def test_reduced_precision_of_jax_is_refused():
    import jax

    with mock.patch.object(jax, "default_backend", return_value="gpu"):
        with jax.default_matmul_precision("highest"):
            _small_call()
        with (
            jax.default_matmul_precision("default"),
            pytest.raises(ValueError, match="jax_default_matmul_precision"),
        ):
            _small_call()


def test_reduced_precision_of_onednn_is_refused():
    with (
        mock.patch.dict(os.environ, {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}),
        pytest.raises(ValueError, match="ONEDNN_DEFAULT_FPMATH_MODE=BF16"),
    ):
        _small_call()
    with mock.patch.dict(os.environ, {"ONEDNN_DEFAULT_FPMATH_MODE": "strict"}):
        _small_call()


def test_training_statistics_and_other_types_are_refused():
    with pytest.raises(ValueError, match="float_safe covers models at inference"):
        _small_call(statistics="batch")
    model = keras.Sequential([keras.Input((2,), dtype="float64"), layers.Dense(2, dtype="float64")])
    with pytest.raises(ValueError, match="float_safe covers execution in float32"):
        tfcert.bound(model, np.ones((1, 2)), tfcert.LpBall(0.1), IBP)


class _Doubled(layers.Layer):
    def call(self, x):
        return 3.0 * x - x


class _Thirds(layers.Layer):
    def call(self, x):
        return x / 3.0


def _positive(x):
    return (x + ops.abs(x)) / 2.0


tfcert.register_affine(_Doubled, radius=lambda layer, r: 2.0 * r)
tfcert.register_rule(_Thirds, lambda layer, x: tfcert.rules.scale(x, 1 / 3))
tfcert.register_activation(_positive, relaxations.CURVES["relu"])

_REFUSED = {
    "softmax": lambda name: layers.Softmax(name=name),
    "sigmoid": lambda name: layers.Activation("sigmoid", name=name),
    "dense tanh": lambda name: layers.Dense(2, activation="tanh", name=name),
    "layer normalization": lambda name: layers.LayerNormalization(name=name),
    "registered affine": lambda name: _Doubled(name=name),
    "registered rule": lambda name: _Thirds(name=name),
    "registered activation": lambda name: layers.Activation(_positive, name=name),
    "square": lambda name: layers.Activation(keras.activations.silu, name=name),
}


@pytest.mark.parametrize("kind", _REFUSED)
def test_what_has_no_analysis_is_refused_by_name(kind):
    model = keras.Sequential([keras.Input((2,)), _REFUSED[kind]("culprit"), layers.Dense(2)])
    x = np.ones((1, 2), "float32")
    tfcert.bound(model, x, tfcert.LpBall(0.1), "crown")
    for method in (IBP, CROWN):
        with pytest.raises(NotImplementedError, match="'culprit'.*float_safe"):
            tfcert.bound(model, x, tfcert.LpBall(0.1), method)


def test_attention_is_refused_by_name():
    entry = keras.Input((3, 2))
    model = keras.Model(entry, layers.MultiHeadAttention(1, 2, name="culprit")(entry, entry))
    with pytest.raises(NotImplementedError, match="'culprit'.*float_safe"):
        tfcert.bound(model, np.ones((1, 3, 2), "float32"), tfcert.LpBall(0.1), IBP)


def test_lora_is_refused_by_name():
    layer = layers.Dense(3, name="adapted")
    model = keras.Sequential([keras.Input((4,)), layer])
    layer.enable_lora(2)
    with pytest.raises(NotImplementedError, match="'adapted'.*LoRA"):
        tfcert.bound(model, np.ones((1, 4)), tfcert.LpBall(0.1), IBP)


def test_recurrent_layers_that_are_refused():
    hard = {"activation": "hard_tanh", "recurrent_activation": "hard_sigmoid"}
    for layer, text in (
        (layers.GRU(2, **hard), r"Layer 'steps'.* mixes two states by a gate"),
        (layers.LSTM(2), r"Layer 'steps'.* has no rounding analysis"),
    ):
        layer.name = "steps"
        model = keras.Sequential([keras.Input((2, 3)), layer])
        with soundness.eagerly(), pytest.raises(NotImplementedError, match=text):
            tfcert.bound(model, np.zeros((1, 2, 3)), tfcert.LpBall(0.1), IBP)
