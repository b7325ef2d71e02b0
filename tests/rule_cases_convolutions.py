"""Cases of the rules' tests: dense layers, convolutions and pooling."""

import functools

from keras import layers

from tests.rule_cases_support import ALONE, MAP, Cases

CASES = Cases()
_layer = CASES.layer
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
