"""Cases of the rules' tests: normalisation, distances, activations, moved and merged values."""

import functools
import math
from typing import Any

from keras import layers

from tests.rule_cases_support import ALONE, MAP, Cases
from tfcert import layers as linf

CASES = Cases()
_add, _layer = CASES.add, CASES.layer
_affine = functools.partial(_layer, affine=True)
_map = functools.partial(_layer, affine=True, places=(ALONE, MAP))


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
_layer("group_normalization", lambda: layers.GroupNormalization(2), (2, 4))
_layer(
    "group_normalization_axis",
    lambda: layers.GroupNormalization(2, axis=1, center=False, epsilon=0.05),
    (4, 2),
)
_layer("group_normalization_of_each", lambda: layers.GroupNormalization(-1, scale=False), (3, 2))
_layer("unit_normalization", layers.UnitNormalization, (4,))
_layer("unit_normalization_axes", lambda: layers.UnitNormalization(axis=[1, 2]), (2, 3))
_layer("rms_normalization_axes", lambda: layers.RMSNormalization(axis=(1, 2)), (3, 2))


_layer("step", linf.Step, (4,))
# A little more than half a step: values near halves round either way in other precisions.
_layer("requantize", lambda: linf.Requantize(7.0, (-5, 4), radius=0.5001), (5,))
_layer(
    "requantize_channels",
    lambda: linf.Requantize([3.0, 9.0], (-5, 30), radius=0.5001, zero_point=-2),
    (3, 4, 2),
    places=(ALONE, MAP),
)


# Layers of distances.

for _p in (math.inf, 1.0, 2.5, 8.0, 1000.0):
    _layer(f"linf_distance_p_{_p:g}", lambda p=_p: linf.LInfDistance(3, p=p), (5,))
_layer("linf_distance_bias", lambda: linf.LInfDistance(3, use_bias=True), (5,))
_layer("sorted_distance", lambda: linf.SortedDistance(3, keep=0.6, terms=3), (5,))
_layer("sorted_distance_of_few", lambda: linf.SortedDistance(3, use_bias=True), (2,))
_add("sorted_distance_deep", lambda x: linf.SortedDistance(3)(linf.LInfDistance(4)(x)), (5,))
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
_map("cropping2d_by_a_column", lambda: layers.Cropping2D(((0, 0), (0, 1))), (3, 4, 1))
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
