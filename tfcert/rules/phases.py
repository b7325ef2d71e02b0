"""The transpose of a convolution with steps, written as a plain convolution.

Of the places that a transposed convolution with step s writes, those s apart form a *phase*: a
convolution with step 1 by every s-th tap of the kernel. All phases together are one convolution
with ``s`` times as many channels per axis, whose outputs are then laid side by side. No
multiplication is added but by the zeros that fill up a kernel to a multiple of s.

On a CPU that is several times faster than the transpose that the backends give, wherever
``backend.phases_pay`` says so: oneDNN has no fast kernel for maps of few channels, as images are,
and XLA none for any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from tfcert import backend
from tfcert.types import Tensor

__all__ = ["transpose"]


def transpose(
    linear: Callable[[Tensor, Tensor], Tensor],
    coefficients: Tensor,
    kernel: Tensor,
    strides: tuple[int, ...],
    before: tuple[int, ...],
    shape: tuple[int, ...],
) -> Tensor:
    """``W^T a`` of a convolution without dilation or groups, channels last.

    Args:
        linear: ``linear(x, kernel)``, the convolution itself; gradients are taken with it.
        coefficients: ``(n, *places, filters)``.
        kernel: ``(*extents, channels, filters)``.
        strides: The steps, one per axis.
        before: Zeros that padding puts before the first entry of each axis.
        shape: Of the convolution's input, ``(*sizes, channels)``.

    Returns:
        ``(n, *shape)``.
    """

    def gradient(arguments: tuple, cotangents: tuple) -> tuple[Tensor, Tensor]:
        # <W^T a, g> = <a, W g>, and W g is linear in the kernel, too.
        (a, k), (g,) = arguments, cotangents
        if backend.weights_stay():
            return linear(g, k), ops.zeros_like(k)
        return linear(g, k), backend.vector_jacobian(lambda k: linear(g, k), [k], a)[0]

    def function(a: Tensor, k: Tensor) -> Tensor:
        return _transpose(a, k, strides, before, shape)

    return backend.with_gradient(function, gradient)(coefficients, kernel)


def _transpose(a: Tensor, kernel: Tensor, strides: Any, before: Any, shape: Any) -> Tensor:
    rank, channels = len(strides), shape[-1]
    spatial = range(1, rank + 1)
    # How many taps of each phase there are, and places that a phase has.
    taps = [-(-kernel.shape[i] // strides[i]) for i in range(rank)]
    counts = [-(-(shape[i] + before[i]) // strides[i]) for i in range(rank)]
    phases = ops.conv(
        _margins(a, taps, counts),
        _kernel_of_phases(kernel, taps, strides),
        strides=1,
        padding="valid",
        data_format="channels_last",
    )
    apart = ops.reshape(phases, (-1, *counts, *strides, channels))
    order = [0, *[axis for i in spatial for axis in (i, rank + i)], 2 * rank + 1]
    sizes = [count * stride for count, stride in zip(counts, strides, strict=True)]
    whole = ops.reshape(ops.transpose(apart, order), (-1, *sizes, channels))
    cut = [slice(before[i], before[i] + shape[i]) for i in range(rank)]
    return whole[(slice(None), *cut)]


def _kernel_of_phases(kernel: Tensor, taps: list[int], strides: tuple[int, ...]) -> Tensor:
    """``(*taps, filters, product of strides * channels)``, each axis of taps turned round."""
    rank, (channels, filters) = len(taps), kernel.shape[-2:]
    pads = [(0, taps[i] * strides[i] - kernel.shape[i]) for i in range(rank)]
    if any(map(sum, pads)):
        kernel = ops.pad(kernel, [*pads, (0, 0), (0, 0)])
    pairs = [size for i in range(rank) for size in (taps[i], strides[i])]
    split = ops.reshape(kernel, (*pairs, channels, filters))
    order = [*range(0, 2 * rank, 2), 2 * rank + 1, *range(1, 2 * rank, 2), 2 * rank]
    split = ops.flip(ops.transpose(split, order), axis=list(range(rank)))
    return ops.reshape(split, (*taps, filters, math.prod(strides) * channels))


def _margins(a: Tensor, taps: list[int], counts: list[int]) -> Tensor:
    """Zeros around the coefficients, so that a phase has its number of places; or fewer of them."""
    pads = [(0, 0)]
    cut = [slice(None)]
    for i, (tap, count) in enumerate(zip(taps, counts, strict=True)):
        places = a.shape[1 + i]
        # Where the padding behind the map is all that the last places see, they are left out.
        cut.append(slice(0, min(places, count)))
        pads.append((tap - 1, max(count - places, 0)))
    a = a[tuple(cut)] if any(a.shape[i] > counts[i - 1] for i in range(1, len(cut))) else a
    return ops.pad(a, [*pads, (0, 0)])
