"""ONNX operators that move windows over images: convolutions and poolings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfcert.interchange.onnx_values import Call, Value, moved, weighted

__all__ = ["WINDOWS"]

Pads = list[tuple[int, int]]


def _layer(kind: str, axes: int, *arguments: Any, **settings: Any) -> keras.layers.Layer:
    """Keras's layer of that kind for one, two or three axes."""
    if axes not in (1, 2, 3):
        raise NotImplementedError(f"windows over {axes} axes are not supported.")
    return getattr(keras.layers, f"{kind}{axes}D")(*arguments, **settings)


class _Window:
    """Sizes, strides and padding of one call, whose settings it reads."""

    def __init__(self, call: Call, kernel: Sequence[int]):
        self.value = moved(call.value())
        self.kernel, axes = tuple(kernel), len(kernel)
        self.sizes = self.value.shape[1:]
        if axes != len(self.sizes):
            raise ValueError(f"a window of {axes} axes moves over {len(self.sizes)} axes.")
        self.strides = tuple(call.setting("strides") or (1,) * axes)
        self.dilations = tuple(call.setting("dilations") or (1,) * axes)
        pads = list(call.setting("pads") or (0,) * 2 * axes)
        kind = call.setting("auto_pad", "NOTSET")
        if kind not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise ValueError(f"there is no auto_pad={kind!r}.")
        if min(self.strides + self.dilations + self.kernel) < 1 or min(pads) < 0:
            raise NotImplementedError("strides, dilations and pads must be positive.")
        self.pads: Pads = list(zip(pads[:axes], pads[axes:], strict=True))
        if kind.startswith("SAME"):
            self.pads = self._same(lower=kind == "SAME_LOWER")
        elif kind == "VALID":
            self.pads = [(0, 0)] * axes

    def _same(self, lower: bool = False) -> Pads:
        """The padding with which as many windows fit as steps: Keras's "same"."""
        pads = []
        for size, window, stride, dilation in zip(
            self.sizes, self.kernel, self.strides, self.dilations, strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
            small, large = total // 2, total - total // 2
            pads.append((large, small) if lower else (small, large))
        return pads

    def padding(self) -> str | None:
        """Keras's name of the padding; None where it has none."""
        if not any(map(any, self.pads)):
            return "valid"
        return "same" if self.pads == self._same() else None

    def padded(self) -> tuple[Any, str]:
        """The tensor, with zeros around it where Keras has no name for that, and the name."""
        padding = self.padding()
        if padding:
            return self.value.tensor, padding
        widths = self.pads[0] if len(self.pads) == 1 else tuple(self.pads)
        layer = _layer("ZeroPadding", len(self.pads), widths)
        return layer(self.value.tensor), "valid"

    def check_whole(self, call: Call) -> None:
        """Refuses a last window that reaches over the padded edge."""
        if not call.setting("ceil_mode", 0):
            return
        for size, window, stride, pad in zip(
            self.sizes, self.kernel, self.strides, self.pads, strict=True
        ):
            if (size + sum(pad) - window) % stride:
                raise NotImplementedError("ceil_mode=1 is not supported.")


def _convolution(call: Call) -> Value:
    kernel, bias = call.constant(1), call.optional(2)
    window = _Window(call, kernel.shape[2:])
    groups = call.setting("group", 1)
    call.expect(kernel_shape=list(kernel.shape[2:]))
    axes, (filters, per_group) = kernel.ndim - 2, kernel.shape[:2]
    if groups < 1 or per_group * groups != window.value.shape[0] or filters % groups:
        raise ValueError(
            f"{filters} filters in {groups} groups of {per_group} channels do not fit "
            f"{window.value.shape[0]} channels."
        )
    x, padding = window.padded()
    settings: dict[str, Any] = {
        "strides": window.strides,
        "padding": padding,
        "dilation_rate": window.dilations,
        "use_bias": bias is not None,
        "data_format": "channels_last",
    }
    order = (*range(2, kernel.ndim), 1, 0)
    if per_group == 1 and groups > 1 and axes < 3 and len(set(window.strides)) == 1:
        # Much faster than a convolution in groups. Filters of one channel lie side by side.
        layer = _layer(
            "DepthwiseConv", axes, window.kernel, depth_multiplier=filters // groups, **settings
        )
        kernel = kernel.reshape(groups, filters // groups, *window.kernel)
        kernel = kernel.transpose(*range(2, axes + 2), 0, 1)
    else:
        layer = _layer("Conv", axes, filters, window.kernel, groups=groups, **settings)
        kernel = kernel.transpose(order)
    return Value(weighted(layer, x, kernel, bias), last=True)


def _pool(call: Call, kind: str) -> Value:
    window = _Window(call, call.setting("kernel_shape"))
    window.check_whole(call)
    call.expect(storage_order=0)
    outside = call.setting("count_include_pad", 0)
    if set(window.dilations) != {1}:
        raise NotImplementedError(f"dilations={window.dilations} are not supported.")
    if any(map(any, window.pads)) and outside:
        # Zeros that count are zeros of the image.
        widths = window.pads[0] if len(window.pads) == 1 else tuple(window.pads)
        tensor, padding = _layer("ZeroPadding", len(window.pads), widths)(window.value.tensor), ""
    else:
        tensor, padding = window.value.tensor, window.padding() or ""
        if not padding:
            raise NotImplementedError(
                f"Keras has no such padding for a pooling. Received: pads={window.pads}."
            )
    layer = _layer(
        kind,
        len(window.kernel),
        window.kernel,
        strides=window.strides,
        padding=padding or "valid",
        data_format="channels_last",
    )
    return Value(layer(tensor), last=True)


def _global_pool(call: Call, kind: str) -> Value:
    value = moved(call.value())
    layer = _layer(kind, value.rank - 2, data_format="channels_last", keepdims=True)
    return Value(layer(value.tensor), last=True)


WINDOWS: dict[str, Callable[[Call], Value]] = {
    "Conv": _convolution,
    "AveragePool": functools.partial(_pool, kind="AveragePooling"),
    "MaxPool": functools.partial(_pool, kind="MaxPooling"),
    "GlobalAveragePool": functools.partial(_global_pool, kind="GlobalAveragePooling"),
    "GlobalMaxPool": functools.partial(_global_pool, kind="GlobalMaxPooling"),
}
