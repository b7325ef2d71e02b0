"""Small models for every rule: each layer, activation and operation alone, and inside networks.

A case says how a value is continued by what is under test. It is placed

- *alone*: input -> rule -> output,
- in a *chain*: input -> dense -> rule -> dense, relu -> dense, where rows of single neurons pass
  backward through it,
- in a *map*: input -> convolution -> rule -> convolution, relu -> dense, where these rows are
  windows of a feature map.

Inputs have few dimensions, so that the corners of a box can all be visited.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from tfcert import layers as linf

__all__ = ["ALONE", "CASES", "CHAIN", "MAP", "Case", "build", "dtype_of_new_layers", "randomise"]

ALONE, CHAIN, MAP = "alone", "chain", "map"


class Case(NamedTuple):
    """One way to use what is under test.

    Attributes:
        apply: Continues a KerasTensor of ``shape``; returns a KerasTensor or a structure of them.
        shape: Shape of the value, without the batch axis.
        places: Where it is put.
        affine: Whether it is affine, so that bounds must be exact.
        radius: Size of the region around the input in the place "alone".
        coarse: Whether TensorFlow rounds to float32 inside, whatever the model's type.
    """

    apply: Callable[[Any], Any]
    shape: tuple[int, ...]
    places: tuple[str, ...] = (ALONE, CHAIN)
    affine: bool = False
    radius: float = 0.7
    coarse: bool = False


CASES: dict[str, Case] = {}


def _add(name: str, apply: Callable[[Any], Any], shape: Sequence[int], **options: Any) -> None:
    if name in CASES:
        raise ValueError(f"Two cases are called {name!r}.")
    CASES[name] = Case(apply, tuple(shape), **options)


def _layer(name: str, make: Callable[[], Any], shape: Sequence[int], **options: Any) -> None:
    """A case of one layer, made anew for every model."""
    _add(name, lambda x: make()(x), shape, **options)


_affine = functools.partial(_layer, affine=True)
_map = functools.partial(_layer, affine=True, places=(ALONE, MAP))


# Dense layers.

_affine("dense", lambda: layers.Dense(3), (5,))
_affine("dense_no_bias", lambda: layers.Dense(3, use_bias=False), (5,))
_affine("dense_on_matrix", lambda: layers.Dense(3), (3, 4))
_layer("dense_fused_activation", lambda: layers.Dense(3, activation="tanh"), (5,))
_layer("dense_activation_layer", lambda: layers.Dense(3, activation=layers.ReLU()), (5,))
_affine("einsum_dense", lambda: layers.EinsumDense("ab,bc->ac", 4, bias_axes="c"), (5,))
_affine(
    "einsum_dense_sequence",
    lambda: layers.EinsumDense("abc,cd->abd", (3, 4), bias_axes="bd"),
    (3, 4),
)
_affine("einsum_dense_transposes", lambda: layers.EinsumDense("abc,cd->adb", (4, 3)), (3, 4))
_affine(
    "einsum_dense_ellipsis",
    lambda: layers.EinsumDense("...x,xy->...y", 4, bias_axes="y"),
    (3, 4),
)
_affine(
    "einsum_dense_contracts_two",
    lambda: layers.EinsumDense("abc,bcd->ad", 3, bias_axes="d"),
    (3, 4),
)
_affine("einsum_dense_elementwise", lambda: layers.EinsumDense("abc,bc->abc", (3, 4)), (3, 4))
_layer(
    "einsum_dense_activation",
    lambda: layers.EinsumDense("ab,bc->ac", 4, bias_axes="c", activation="sigmoid"),
    (5,),
)


# Convolutions.

for _options in (
    {"padding": "valid"},
    {"padding": "same"},
    {"padding": "causal"},
    {"padding": "same", "strides": 2},
    {"padding": "valid", "strides": 2},
    {"padding": "causal", "strides": 3},
    {"padding": "same", "dilation_rate": 2},
    {"padding": "causal", "dilation_rate": 2},
    {"padding": "same", "use_bias": False},
):
    _label = "_".join(f"{k}_{v}" if k != "padding" else v for k, v in _options.items())
    _map(f"conv1d_{_label}", lambda o=_options: layers.Conv1D(2, 3, **o), (6, 2))
_map("conv1d_groups", lambda: layers.Conv1D(4, 2, groups=2), (4, 2))
_map(
    "conv1d_channels_first",
    lambda: layers.Conv1D(2, 3, padding="same", data_format="channels_first"),
    (2, 6),
)
_layer(
    "conv1d_activation", lambda: layers.Conv1D(2, 3, activation="relu"), (6, 2), places=(ALONE, MAP)
)

for _name, _options in {
    "valid": {"kernel_size": 2},
    "same": {"kernel_size": (2, 3), "padding": "same"},
    "same_strided": {"kernel_size": (3, 2), "strides": (2, 2), "padding": "same"},
    "same_wide_stride": {"kernel_size": 1, "strides": 2, "padding": "same"},
    "valid_strided": {"kernel_size": 2, "strides": (1, 2)},
    "dilated": {"kernel_size": (1, 2), "dilation_rate": (1, 2)},
    "same_dilated": {"kernel_size": 2, "dilation_rate": 2, "padding": "same"},
}.items():
    _map(f"conv2d_{_name}", lambda o=_options: layers.Conv2D(2, **o), (3, 4, 1))
_map("conv2d_groups", lambda: layers.Conv2D(4, 2, groups=2, padding="same"), (2, 3, 2))
_map(
    "conv2d_channels_first",
    lambda: layers.Conv2D(2, 2, padding="same", data_format="channels_first"),
    (1, 3, 4),
)
_map("conv3d", lambda: layers.Conv3D(2, 2, padding="same"), (2, 3, 2, 1))
_map("conv3d_strided", lambda: layers.Conv3D(2, (1, 2, 1), strides=(2, 1, 1)), (2, 3, 2, 1))
_map("conv3d_groups", lambda: layers.Conv3D(2, (1, 2, 1), groups=2), (1, 3, 2, 2))
_map(
    "conv3d_channels_first",
    lambda: layers.Conv3D(3, (1, 2, 1), data_format="channels_first"),
    (1, 2, 3, 2),
)

_map("depthwise_conv1d", lambda: layers.DepthwiseConv1D(3, padding="same"), (5, 2))
_map("depthwise_conv1d_strided", lambda: layers.DepthwiseConv1D(2, strides=2), (5, 2))
_map(
    "depthwise_conv2d",
    lambda: layers.DepthwiseConv2D(2, padding="same", depth_multiplier=2),
    (2, 3, 2),
)
_map("depthwise_conv2d_strided", lambda: layers.DepthwiseConv2D(2, strides=2), (3, 4, 1))
_map(
    "depthwise_conv2d_dilated",
    lambda: layers.DepthwiseConv2D((1, 2), dilation_rate=(1, 2), padding="same"),
    (2, 4, 1),
)
_map(
    "depthwise_conv2d_channels_first",
    lambda: layers.DepthwiseConv2D(2, padding="same", data_format="channels_first"),
    (2, 2, 3),
)
_layer(
    "depthwise_conv2d_activation",
    lambda: layers.DepthwiseConv2D(2, activation="relu"),
    (3, 4, 1),
    places=(MAP,),
)
_map("separable_conv1d", lambda: layers.SeparableConv1D(2, 3, padding="same"), (5, 2))
_map("separable_conv1d_strided", lambda: layers.SeparableConv1D(3, 2, strides=2), (6, 2))
_map(
    "separable_conv2d",
    lambda: layers.SeparableConv2D(3, 2, padding="same", depth_multiplier=2),
    (2, 3, 2),
)
_map("separable_conv2d_strided", lambda: layers.SeparableConv2D(2, 2, strides=2), (3, 4, 1))
_map(
    "separable_conv2d_channels_first",
    lambda: layers.SeparableConv2D(2, 2, data_format="channels_first"),
    (1, 3, 4),
)

_map("conv1d_transpose", lambda: layers.Conv1DTranspose(2, 3, strides=2), (3, 2))
_map("conv1d_transpose_same", lambda: layers.Conv1DTranspose(2, 3, 2, padding="same"), (3, 2))
_map("conv1d_transpose_dilated", lambda: layers.Conv1DTranspose(2, 2, dilation_rate=2), (3, 2))
_map("conv2d_transpose", lambda: layers.Conv2DTranspose(2, 2, padding="same"), (2, 3, 2))
_map("conv2d_transpose_strided", lambda: layers.Conv2DTranspose(2, 2, strides=2), (2, 3, 1))
_map(
    "conv2d_transpose_output_padding",
    lambda: layers.Conv2DTranspose(2, 3, strides=2, padding="same", output_padding=1),
    (2, 2, 1),
)
_map(
    "conv2d_transpose_channels_first",
    lambda: layers.Conv2DTranspose(2, 2, strides=2, data_format="channels_first"),
    (1, 2, 2),
)
_map("conv3d_transpose", lambda: layers.Conv3DTranspose(2, (1, 2, 1)), (1, 3, 2, 1))


# Pooling.

_pool = functools.partial(_layer, places=(ALONE, MAP))
_pool("max_pooling1d", lambda: layers.MaxPooling1D(2), (6, 1))
_pool("max_pooling1d_overlapping", lambda: layers.MaxPooling1D(3, strides=1), (6, 1))
_pool("max_pooling1d_same", lambda: layers.MaxPooling1D(3, 2, padding="same"), (6, 2))
_pool("max_pooling2d", lambda: layers.MaxPooling2D(2), (4, 4, 1))
_pool("max_pooling2d_overlapping", lambda: layers.MaxPooling2D(2, strides=1), (3, 4, 1))
_pool("max_pooling2d_same", lambda: layers.MaxPooling2D(2, strides=1, padding="same"), (3, 4, 1))
_pool("max_pooling2d_same_strided", lambda: layers.MaxPooling2D(3, 2, padding="same"), (3, 4, 1))
_pool("max_pooling2d_gaps", lambda: layers.MaxPooling2D((1, 2), strides=(2, 3)), (3, 5, 1))
_pool(
    "max_pooling2d_channels_first",
    lambda: layers.MaxPooling2D(2, 1, data_format="channels_first"),
    (1, 3, 3),
)
_pool("max_pooling3d", lambda: layers.MaxPooling3D((1, 2, 2)), (2, 2, 3, 1))
_map("average_pooling1d", lambda: layers.AveragePooling1D(2), (6, 2))
_map("average_pooling1d_same", lambda: layers.AveragePooling1D(3, 2, padding="same"), (6, 2))
_map("average_pooling2d", lambda: layers.AveragePooling2D(2), (4, 3, 1))
_map("average_pooling2d_overlapping", lambda: layers.AveragePooling2D(2, strides=1), (3, 4, 1))
_map("average_pooling2d_same", lambda: layers.AveragePooling2D(2, 1, padding="same"), (3, 4, 1))
_map("average_pooling2d_gaps", lambda: layers.AveragePooling2D(1, strides=2), (3, 4, 1))
_map(
    "average_pooling2d_channels_first",
    lambda: layers.AveragePooling2D(2, data_format="channels_first"),
    (1, 3, 4),
)
_map("average_pooling3d", lambda: layers.AveragePooling3D((1, 2, 2)), (2, 2, 3, 1))
for _rank, _shape in ((1, (4, 2)), (2, (2, 3, 2)), (3, (2, 1, 3, 2))):
    for _kind in ("Average", "Max"):
        _layer(
            f"global_{_kind.lower()}_pooling{_rank}d",
            getattr(layers, f"Global{_kind}Pooling{_rank}D"),
            _shape,
            affine=_kind == "Average",
        )
_layer("global_max_pooling2d_keepdims", lambda: layers.GlobalMaxPooling2D(keepdims=True), (2, 3, 2))
_affine(
    "global_average_pooling2d_keepdims",
    lambda: layers.GlobalAveragePooling2D(keepdims=True),
    (2, 3, 2),
)
_layer(
    "global_max_pooling2d_channels_first",
    lambda: layers.GlobalMaxPooling2D(data_format="channels_first"),
    (2, 2, 3),
)
_affine(
    "global_average_pooling2d_channels_first",
    lambda: layers.GlobalAveragePooling2D(data_format="channels_first"),
    (2, 2, 3),
)


# Normalisation.

_affine("batch_normalization", layers.BatchNormalization, (6,))
_affine(
    "batch_normalization_bare", lambda: layers.BatchNormalization(center=False, scale=False), (6,)
)
_map("batch_normalization_map", layers.BatchNormalization, (3, 2, 2))
_affine("batch_normalization_axis", lambda: layers.BatchNormalization(axis=1), (2, 3, 2))
_affine(
    "normalization",
    lambda: layers.Normalization(mean=[0.3, -1.0, 0.0], variance=[0.5, 4.0, 0.01]),
    (2, 3),
)
_affine(
    "normalization_all_axes", lambda: layers.Normalization(axis=None, mean=0.4, variance=0.3), (5,)
)
_affine(
    "normalization_invert",
    lambda: layers.Normalization(mean=[0.3, -1.0], variance=[0.5, 4.0], invert=True),
    (3, 2),
)
_affine(
    "normalization_zero_variance", lambda: layers.Normalization(mean=[0.3], variance=[0.0]), (3, 1)
)
_map("normalization_map", lambda: layers.Normalization(mean=[0.3], variance=[0.5]), (3, 4, 1))
_map("rescaling", lambda: layers.Rescaling(-2.5, offset=0.3), (3, 4, 1))
_map("rescaling_channels", lambda: layers.Rescaling([1.5, -0.5], offset=[0.0, 1.0]), (2, 3, 2))
_layer("layer_normalization", layers.LayerNormalization, (5,))
_layer("layer_normalization_axes", lambda: layers.LayerNormalization(axis=[1, 2]), (3, 2))
_layer("layer_normalization_first_axis", lambda: layers.LayerNormalization(axis=1), (3, 2))
_layer(
    "layer_normalization_bare",
    lambda: layers.LayerNormalization(center=False, scale=False, epsilon=0.1),
    (2, 3),
)
_layer("layer_normalization_one_entry", lambda: layers.LayerNormalization(epsilon=0.1), (3, 1))
_layer("rms_normalization", layers.RMSNormalization, (5,))
_layer("rms_normalization_axes", lambda: layers.RMSNormalization(axis=(1, 2)), (3, 2))


# Layers of distances.

for _p in (math.inf, 1.0, 2.5, 8.0, 1000.0):
    _layer(f"linf_distance_p_{_p:g}", lambda p=_p: linf.LInfDistance(3, p=p), (5,))
_layer("linf_distance_bias", lambda: linf.LInfDistance(3, use_bias=True), (5,))
_layer("linf_distance_of_blocks", lambda: linf.LInfDistance(2), (17,))
_add("linf_distance_deep", lambda x: linf.LInfDistance(3)(linf.LInfDistance(4)(x)), (5,))
for _name, _options in {
    "plain": {"kernel_size": 2},
    "same": {"kernel_size": (2, 3), "padding": "same"},
    "same_strided": {"kernel_size": 2, "strides": 2, "padding": "same"},
    "strided": {"kernel_size": 2, "strides": (1, 2)},
    "dilated": {"kernel_size": (1, 2), "dilation_rate": (1, 2), "use_bias": True},
    "finite_p": {"kernel_size": 2, "p": 3.5},
}.items():
    _layer(
        f"linf_distance_conv2d_{_name}",
        lambda o=_options: linf.LInfDistanceConv2D(2, **o),
        (3, 4, 1),
        places=(ALONE, MAP),
    )
_layer(
    "linf_distance_conv2d_groups",
    lambda: linf.LInfDistanceConv2D(4, 2, groups=2, padding="same"),
    (2, 2, 2),
    places=(ALONE, MAP),
)
_affine("mean_shift", linf.MeanShift, (6,))
_map("mean_shift_map", linf.MeanShift, (3, 2, 2))
_add(
    "mean_shift_of_distances",
    lambda x: linf.LInfDistance(3)(linf.MeanShift()(linf.LInfDistance(4)(x))),
    (5,),
)


# Activations.

_ACTIVATIONS = [
    "relu",
    "leaky_relu",
    "relu6",
    "elu",
    "celu",
    "selu",
    "gelu",
    "silu",
    "hard_silu",
    "mish",
    "sigmoid",
    "hard_sigmoid",
    "sparse_sigmoid",
    "log_sigmoid",
    "tanh",
    "hard_tanh",
    "tanh_shrink",
    "soft_shrink",
    "hard_shrink",
    "softplus",
    "sparse_plus",
    "squareplus",
    "softsign",
    "exponential",
    "softmax",
    "log_softmax",
]
for _name in _ACTIVATIONS:
    _layer(
        f"activation_{_name}",
        lambda n=_name: layers.Activation(n),
        (5,),
        radius=2.0,
    )
for _name in ("relu", "sigmoid", "hard_tanh"):
    _layer(f"map_{_name}", lambda n=_name: layers.Activation(n), (3, 4, 1), places=(MAP,))
for _name, _options in {
    "plain": {},
    "max_value": {"max_value": 1.0},
    "six": {"max_value": 6.0},
    "threshold": {"threshold": 0.5},
    "negative_slope": {"negative_slope": 0.3},
    "all": {"max_value": 1.5, "threshold": 0.25, "negative_slope": 0.1},
}.items():
    _layer(f"relu_{_name}", lambda o=_options: layers.ReLU(**o), (5,), radius=2.0)
_layer("leaky_relu_layer", lambda: layers.LeakyReLU(negative_slope=0.1), (5,))
_layer("elu_layer", lambda: layers.ELU(alpha=0.7), (5,), radius=2.0)
_layer("elu_layer_kinked", lambda: layers.ELU(alpha=1.7), (5,), radius=2.0)
_layer("prelu", layers.PReLU, (5,))
_map_of_slopes = functools.partial(_layer, places=(ALONE, MAP))
_map_of_slopes("prelu_of_places", layers.PReLU, (2, 3, 2))
_map_of_slopes("prelu_of_columns", lambda: layers.PReLU(shared_axes=[1]), (3, 3, 2))
_layer(
    "prelu_shared_axes", lambda: layers.PReLU(shared_axes=[1, 2]), (2, 3, 2), places=(ALONE, MAP)
)
_layer("softmax_layer", layers.Softmax, (5,))
_layer("softmax_layer_axis", lambda: layers.Softmax(axis=1), (3, 2))
_layer("softmax_layer_axes", lambda: layers.Softmax(axis=[1, 2]), (3, 2))
_layer("softmax_of_one", layers.Softmax, (3, 1))


# Layers that move values.

_map("flatten", layers.Flatten, (3, 4))
_map("flatten_channels_first", lambda: layers.Flatten(data_format="channels_first"), (2, 3, 2))
_map("reshape", lambda: layers.Reshape((3, 2, 2)), (3, 4))
_map("reshape_unknown", lambda: layers.Reshape((2, -1)), (3, 4))
_map("permute", lambda: layers.Permute((2, 1, 3)), (2, 3, 2))
_affine("repeat_vector", lambda: layers.RepeatVector(3), (4,))
_map("zero_padding1d", lambda: layers.ZeroPadding1D((1, 2)), (4, 2))
_map("zero_padding2d", lambda: layers.ZeroPadding2D(((1, 0), (2, 1))), (3, 4, 1))
_map(
    "zero_padding2d_channels_first",
    lambda: layers.ZeroPadding2D(((1, 0), (2, 1)), data_format="channels_first"),
    (1, 3, 4),
)
_map("zero_padding3d", lambda: layers.ZeroPadding3D(((0, 1), (1, 0), (0, 0))), (2, 2, 3, 1))
_map("cropping1d", lambda: layers.Cropping1D((1, 2)), (6, 1))
_map("cropping2d", lambda: layers.Cropping2D(((1, 0), (0, 2))), (3, 4, 1))
_map(
    "cropping2d_channels_first",
    lambda: layers.Cropping2D(((1, 0), (0, 2)), data_format="channels_first"),
    (1, 3, 4),
)
_map("cropping3d", lambda: layers.Cropping3D(((0, 1), (1, 0), (0, 0))), (2, 2, 3, 1))
_map("up_sampling1d", lambda: layers.UpSampling1D(2), (3, 2))
_map("up_sampling2d", lambda: layers.UpSampling2D((2, 1)), (2, 3, 1))
_map(
    "up_sampling2d_bilinear",
    lambda: layers.UpSampling2D(2, interpolation="bilinear"),
    (2, 3, 1),
    coarse=True,
)
_map(
    "up_sampling2d_channels_first",
    lambda: layers.UpSampling2D(2, data_format="channels_first"),
    (1, 2, 3),
)
_map("up_sampling3d", lambda: layers.UpSampling3D((1, 2, 1)), (2, 2, 2, 1))

# Layers that act in training only.
for _kind, _options in (
    (layers.Identity, {}),
    (layers.Dropout, {"rate": 0.5}),
    (layers.AlphaDropout, {"rate": 0.5}),
    (layers.GaussianDropout, {"rate": 0.5}),
    (layers.GaussianNoise, {"stddev": 0.5}),
    (layers.ActivityRegularization, {"l2": 0.1}),
):
    _affine(_kind.__name__.lower(), lambda k=_kind, o=_options: k(**o), (4,))
_map("spatialdropout1d", lambda: layers.SpatialDropout1D(0.5), (4, 2))
_map("spatialdropout2d", lambda: layers.SpatialDropout2D(0.5), (2, 3, 2))
_map("spatialdropout3d", lambda: layers.SpatialDropout3D(0.5), (2, 1, 3, 2))
for _kind, _options in (
    (layers.RandomFlip, {}),
    (layers.RandomRotation, {"factor": 0.2}),
    (layers.RandomTranslation, {"height_factor": 0.2, "width_factor": 0.2}),
    (layers.RandomZoom, {"height_factor": 0.2}),
    (layers.RandomContrast, {"factor": 0.2}),
    (layers.RandomBrightness, {"factor": 0.2}),
):
    _map(_kind.__name__.lower(), lambda k=_kind, o=_options: k(**o), (2, 3, 1))


# Merge layers: of two functions of the value, one of them of another form.


def _pair(x: Any) -> list[Any]:
    return [x, layers.Dense(x.shape[-1])(x)]


def _channelwise(x: Any) -> list[Any]:
    """A map and one number per channel: merge layers broadcast."""
    return [layers.Conv2D(2, 1)(x), layers.Dense(2)(layers.Flatten()(x))]


for _kind in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"):
    _merge = getattr(layers, _kind)
    _linear = _kind in ("Add", "Subtract", "Average")
    _add(_kind.lower(), lambda x, m=_merge: m()(_pair(x)), (4,), affine=_linear)
    _add(
        f"{_kind.lower()}_map",
        lambda x, m=_merge: m()([layers.Conv2D(2, 2, padding="same")(x), layers.Conv2D(2, 1)(x)]),
        (3, 4, 1),
        places=(MAP,),
    )
    _add(
        f"{_kind.lower()}_broadcast",
        lambda x, m=_merge: m()(_channelwise(x)),
        (2, 3, 1),
        affine=_linear,
    )
    _add(f"{_kind.lower()}_of_itself", lambda x, m=_merge: m()([x, x]), (4,), affine=_linear)
for _kind in ("Add", "Multiply", "Average", "Maximum", "Minimum"):
    _merge = getattr(layers, _kind)
    _add(
        f"{_kind.lower()}_of_three",
        lambda x, m=_merge: m()([*_pair(x), layers.Dense(4, activation="relu")(x)]),
        (4,),
    )
_add("concatenate", lambda x: layers.Concatenate()(_pair(x)), (4,), affine=True)
_add(
    "concatenate_rows",
    lambda x: layers.Concatenate(axis=1)(_pair(x)),
    (3, 2, 2),
    affine=True,
    places=(ALONE, MAP),
)
_add(
    "concatenate_channels",
    lambda x: layers.Concatenate(axis=-1)([x, layers.Conv2D(2, 2, padding="same")(x)]),
    (3, 4, 1),
    affine=True,
    places=(ALONE, MAP),
)
_add("dot", lambda x: layers.Dot(axes=1)(_pair(x)), (4,))


# Operators and functions of keras.ops.


def _operation(
    name: str, apply: Callable[[Any], Any], shape: Sequence[int], **options: Any
) -> None:
    _add(f"ops_{name}", apply, shape, **options)


_linear_op = functools.partial(_operation, affine=True)
_VECTOR = np.array([0.5, -2.0, 0.25, 1.5])
_MATRIX = np.arange(12.0).reshape(4, 3) / 6.0 - 1.0


def _branches(x: Any) -> tuple[Any, Any]:
    return x, layers.Dense(x.shape[-1])(x)


def _positive(x: Any) -> Any:
    """The value moved to where logarithms, roots and quotients are defined."""
    return layers.Activation("softplus")(x) + 0.25


def _constant(values: Any, x: Any) -> Any:
    """A constant in the type of x: Keras would compute the sum of two types in the wider one."""
    return np.asarray(values).astype(x.dtype)


_linear_op("add", lambda x: sum(_branches(x)), (4,))
_linear_op("add_number", lambda x: 1.5 + x, (4,))
_linear_op("add_vector", lambda x: x + _constant(_VECTOR, x), (3, 4))
_linear_op("add_batched_vector", lambda x: x + _constant(_VECTOR[None], x), (4,))
_linear_op("add_column", lambda x: x + _constant(_VECTOR[:3, None], x), (3, 4))
_linear_op("subtract", lambda x: _branches(x)[0] - _branches(x)[1], (4,))
_linear_op("subtract_from_number", lambda x: 1.0 - x, (4,))
_linear_op("subtract_vector", lambda x: x - _constant(_VECTOR, x), (4,))
_linear_op("multiply_number", lambda x: 2.0 * x, (4,))
_linear_op("multiply_vector", lambda x: x * _constant(_VECTOR, x), (3, 4))
_linear_op("multiply_enlarges", lambda x: x * _constant(_VECTOR, x), (3, 1))
_operation("multiply_map", lambda x: x * _constant([[[2.0], [-1.0]]], x), (3, 2, 1), places=(MAP,))
_operation("multiply", lambda x: math.prod(_branches(x)), (4,))
_operation("multiply_itself", lambda x: x * x, (4,))
_operation("multiply_broadcast", lambda x: x * layers.Dense(1)(x), (3, 2))
_linear_op("divide_number", lambda x: x / 3.0, (4,))
_linear_op("divide_vector", lambda x: x / _constant(_VECTOR, x), (4,))
_linear_op("true_divide", lambda x: ops.true_divide(x, 3.0), (4,))
_operation("divide_function", lambda x: ops.divide(x, _positive(layers.Dense(4)(x))), (4,))
_operation("divide", lambda x: x / _positive(layers.Dense(4)(x)), (4,))
_operation("divide_number_by", lambda x: 2.0 / _positive(x), (4,))
_linear_op("negative", lambda x: -x, (4,))
_operation("maximum_number", lambda x: ops.maximum(x, 0.3), (4,))
_operation("minimum_number", lambda x: ops.minimum(0.3, x), (4,))
_operation("maximum_vector", lambda x: ops.maximum(x, _constant(_VECTOR, x)), (4,))
_operation("minimum_batched_vector", lambda x: ops.minimum(_constant(_VECTOR[None], x), x), (4,))
_operation("maximum", lambda x: ops.maximum(*_branches(x)), (4,))
_operation("minimum", lambda x: ops.minimum(*_branches(x)), (4,))
for _exponent in (1, 2, 3, 4, 5):
    _operation(f"power_{_exponent}", lambda x, n=_exponent: x**n, (4,))
_operation("power_half", lambda x: _positive(x) ** 0.5, (4,))
_operation("power_minus_one", lambda x: _positive(x) ** -1.0, (4,))
_linear_op("matmul", lambda x: ops.matmul(x, _constant(_MATRIX, x)), (2, 4))
_linear_op("matmul_operator", lambda x: x @ _constant(_MATRIX, x), (4,))
_linear_op("einsum", lambda x: ops.einsum("bij,jk->bki", x, _constant(_MATRIX, x)), (2, 4))
_linear_op(
    "einsum_constant_first", lambda x: ops.einsum("jk,bj->bk", _constant(_MATRIX, x), x), (4,)
)

for _name in [
    "abs",
    "absolute",
    "exp",
    "expm1",
    "square",
    "tanh",
    "arctan",
    "erf",
    "sigmoid",
    "relu",
    "relu6",
    "softplus",
    "softsign",
    "silu",
    "hard_silu",
    "hard_sigmoid",
    "log_sigmoid",
    "selu",
    "hard_tanh",
    "tanh_shrink",
    "sparse_plus",
    "sparse_sigmoid",
    "leaky_relu",
    "elu",
    "celu",
    "gelu",
    "soft_shrink",
    "hard_shrink",
    "squareplus",
]:
    _operation(_name, lambda x, n=_name: getattr(ops, n)(x), (4,), radius=2.0)
for _name in ("log", "log1p", "sqrt", "rsqrt", "reciprocal"):
    _operation(_name, lambda x, n=_name: getattr(ops, n)(_positive(x)), (4,), radius=2.0)
_operation("relu_activation", lambda x: keras.activations.relu(x, 0.1, 2.0, 0.5), (4,), radius=2.0)
_operation("leaky_relu_slope", lambda x: ops.leaky_relu(x, 0.4), (4,))
_operation("elu_alpha", lambda x: ops.elu(x, 0.4), (4,), radius=2.0)
_operation("celu_alpha", lambda x: ops.celu(x, 0.4), (4,), radius=2.0)
_operation("gelu_exact", lambda x: ops.gelu(x, approximate=False), (4,), radius=2.0)
_operation("soft_shrink_of_nothing", lambda x: ops.soft_shrink(x, 0.0), (4,))
_operation("hard_shrink_of_nothing", lambda x: ops.hard_shrink(x, 0.0), (4,))
_operation("clip_to_a_point", lambda x: ops.clip(x, 0.5, 0.5), (4,))
_operation("expand_dims_two", lambda x: ops.expand_dims(x, (1, -1)), (4,))
_operation("soft_shrink_threshold", lambda x: ops.soft_shrink(x, 0.2), (4,))
_operation("hard_shrink_threshold", lambda x: ops.hard_shrink(x, 0.2), (4,))
_operation("threshold", lambda x: ops.threshold(x, 0.2, -0.7), (4,))
_operation("squareplus_b", lambda x: ops.squareplus(x, 0.5), (4,), radius=2.0)
_operation("reciprocal_negative", lambda x: ops.reciprocal(-1.0 * _positive(x)), (4,))
_operation("abs_map", lambda x: ops.abs(x), (3, 4, 1), places=(MAP,))
_operation("square_map", lambda x: ops.square(x), (3, 4, 1), places=(MAP,))

_operation("clip", lambda x: ops.clip(x, -0.4, 0.6), (4,))
_operation("clip_vector", lambda x: ops.clip(x, _constant(_VECTOR - 0.5, x), 1.0), (4,))
_operation("softmax", lambda x: ops.softmax(x), (4,), radius=2.0)
_operation("softmax_axis", lambda x: ops.softmax(x, axis=1), (3, 2))
_operation("log_softmax", lambda x: ops.log_softmax(x), (4,), radius=2.0)

_linear_op("sum", lambda x: ops.sum(x, axis=-1), (3, 2))
_linear_op("sum_axes", lambda x: ops.sum(x, axis=(1, -1), keepdims=True), (3, 2))
_linear_op("mean", lambda x: ops.mean(x, axis=1), (3, 2))
_operation("max", lambda x: ops.max(x, axis=1), (3, 2))
_operation("max_keepdims", lambda x: ops.max(x, axis=(1, 2), keepdims=True), (3, 2))
_operation("min", lambda x: ops.min(x, axis=-1, keepdims=True), (3, 2))

_linear_op("get_item", lambda x: x[:, 1:], (4,))
_linear_op("get_item_column", lambda x: x[:, 1], (3, 2))
_linear_op("get_item_steps", lambda x: x[:, ::-2], (4,))
_linear_op("get_item_ellipsis", lambda x: x[..., 0], (3, 2))
_linear_op("get_item_new_axis", lambda x: x[:, None, :2], (4,))
_linear_op("reshape", lambda x: ops.reshape(x, (-1, 2, 3)), (3, 2))
_linear_op("transpose", lambda x: ops.transpose(x, (0, 2, 1)), (3, 2))
_linear_op("squeeze", lambda x: ops.squeeze(x, axis=-1), (4, 1))
_linear_op("expand_dims", lambda x: ops.expand_dims(x, axis=1), (4,))
_linear_op("flip", lambda x: ops.flip(x, axis=1), (3, 2))
_linear_op("roll", lambda x: ops.roll(x, 2, axis=1), (4,))
_linear_op("repeat", lambda x: ops.repeat(x, 2, axis=1), (4,))
_linear_op("pad", lambda x: ops.pad(x, ((0, 0), (1, 2))), (4,))
_linear_op("concatenate", lambda x: ops.concatenate(_branches(x), axis=-1), (4,))
_linear_op("stack", lambda x: ops.stack(_branches(x), axis=1), (4,))
_linear_op("stack_last", lambda x: ops.stack(_branches(x), axis=-1), (4,))
_linear_op("split", lambda x: ops.split(x, 2, axis=1), (4,))
_linear_op("split_at", lambda x: ops.split(x, [1, 3], axis=-1), (4,))
_linear_op("stop_gradient", lambda x: ops.stop_gradient(x), (4,))


# Graphs.


def _nested(x: Any) -> Any:
    inner = keras.Sequential([keras.Input(x.shape[1:]), layers.Dense(4), layers.ReLU()])
    entry = keras.Input((4,))
    middle = keras.Model(entry, layers.Add()([inner(entry), layers.Dense(4)(entry)]))
    return middle(x)


def _nested_two_inputs(x: Any) -> Any:
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    inner = keras.Model({"b": first, "a": second}, first - layers.Dense(4)(second))
    return inner({"a": 2.0 * x, "b": layers.Activation("tanh")(x)})


def _nested_two_outputs(x: Any) -> Any:
    entry = keras.Input((4,))
    inner = keras.Model(entry, {"sum": ops.sum(entry, -1, keepdims=True), "relu": ops.relu(entry)})
    result = inner(x)
    return result["relu"] + result["sum"]


def _shared(x: Any) -> Any:
    layer = layers.Dense(4, activation="relu")
    return layer(layer(x)) - layer(1.0 - x)


def _shared_model(x: Any) -> Any:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="relu")])
    return inner(inner(x)) + inner(x)


def _residual(x: Any) -> Any:
    for _ in range(2):
        x = layers.ReLU()(layers.Add()([x, layers.Dense(4)(layers.ReLU()(layers.Dense(3)(x)))]))
    return x


def _residual_map(x: Any) -> Any:
    deep = layers.Conv2D(2, 2, padding="same", activation="relu")(x)
    deep = layers.Conv2D(2, 2, padding="same")(deep)
    return layers.ReLU()(layers.Add()([deep, layers.Conv2D(2, 1)(x)]))


def _residual_strided(x: Any) -> Any:
    deep = layers.Conv2D(2, 3, 2, padding="same", activation="relu")(x)
    deep = layers.BatchNormalization()(layers.Conv2D(2, 3, padding="same")(deep))
    return layers.ReLU()(layers.Add()([deep, layers.Conv2D(2, 1, 2, padding="same")(x)]))


def _dead_end(x: Any) -> Any:
    layers.Dense(3)(x)
    return layers.Dense(2)(x)


_add("nested_models", _nested, (4,))
_add("nested_two_inputs", _nested_two_inputs, (4,))
_add("nested_two_outputs", _nested_two_outputs, (4,))
_add("shared_layer", _shared, (4,))
_add("shared_model", _shared_model, (4,))
_add("residual", _residual, (4,))
_add("residual_map", _residual_map, (3, 4, 1), places=(ALONE, MAP))
_add("residual_strided", _residual_strided, (4, 3, 1), places=(ALONE, MAP))
_add("difference_of_itself", lambda x: x - 0.5 * x, (4,), affine=True)
_add(
    "dense_of_repeated",
    lambda x: layers.Dense(3)(layers.Flatten()(layers.RepeatVector(2)(x))),
    (4,),
    affine=True,
)
_add(
    "dense_of_concatenated",
    lambda x: layers.Dense(3)(layers.Concatenate()([x, 2.0 * x])),
    (4,),
    affine=True,
)
_add("unused_branch", _dead_end, (4,), affine=True, places=(ALONE,))
_add("input_itself", lambda x: x, (4,), affine=True, places=(ALONE,))
_add("several_outputs_list", lambda x: [layers.Dense(2)(x), ops.relu(x)], (4,), places=(ALONE,))
_add(
    "several_outputs_dict",
    lambda x: {"b": layers.Dense(2)(x), "a": {"inner": ops.relu(x)}},
    (4,),
    places=(ALONE,),
)
_add("output_twice", lambda x: [x, layers.Dense(2)(x), x], (4,), places=(ALONE,), affine=True)


# Building.


@contextlib.contextmanager
def dtype_of_new_layers(dtype: str) -> Iterator[None]:
    """Makes layers and inputs of a type, and leaves the settings as they were."""
    policy, kind = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(kind)
        keras.config.set_dtype_policy(policy)


def randomise(model: keras.Model, seed: int = 0, scale: float = 1.0) -> keras.Model:
    """Gives every weight a random value of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        shape, name = tuple(variable.shape), variable.name
        if name == "p":  # The exponent of a distance.
            continue
        if "variance" in name:
            value = rng.uniform(0.3, 2.0, shape)
        elif len(shape) > 1:
            value = rng.normal(size=shape) * scale / math.sqrt(max(math.prod(shape[:-1]), 1))
        else:
            value = rng.normal(size=shape) * 0.5 * scale
        variable.assign(value)
    return model


_CONVOLUTIONS = {2: layers.Conv1D, 3: layers.Conv2D, 4: layers.Conv3D}


def build(case: Case, place: str, dtype: str, seed: int = 0) -> keras.Model:
    """The model of a case in one of its places, with random weights."""
    with dtype_of_new_layers(dtype):
        if place == ALONE:
            entry = keras.Input(case.shape)
            return randomise(keras.Model(entry, case.apply(entry)), seed)
        if place == CHAIN:
            entry = keras.Input((5,))
            x = layers.Dense(math.prod(case.shape))(entry)
            x = layers.Reshape(case.shape)(x) if len(case.shape) > 1 else x
        else:
            entry = keras.Input((*case.shape[:-1], 1))
            x = _CONVOLUTIONS[len(case.shape)](case.shape[-1], 2, padding="same")(entry)
        x = case.apply(x)
        if isinstance(x, (list, tuple)):
            x = layers.Concatenate()([layers.Flatten()(part) for part in x])
        if place == MAP and len(x.shape) in (3, 4, 5):
            x = _CONVOLUTIONS[len(x.shape) - 1](2, 2, padding="same", activation="relu")(x)
        x = layers.Flatten()(x)
        x = layers.Dense(4, activation="relu")(x)
        return randomise(keras.Model(entry, layers.Dense(3)(x)), seed)
