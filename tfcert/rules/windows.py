"""Affine maps on windows of a feature map: how a window moves, and the transpose on it.

What a backward sweep carries of a neuron of a convolution is a window whose size is known before
anything is computed. So is, for a convolution, the matrix that takes all windows of that size to
their inputs: one product with it beats the transposed convolution of thousands of tiny images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from keras import ops

from tfcert import backend
from tfcert.rules.linear_maps import Linear
from tfcert.rules.rows import Rows, Window
from tfcert.types import Tensor

__all__ = ["Same", "Shift", "Sliding", "Split", "Windowed"]

# A matrix of windows is used up to this many entries, and this many times the multiplications of
# the convolution itself. Measured on two cores: a product runs at 10 to 30 times the speed of a
# transposed convolution of windows.
_MATRIX_ENTRIES = 1 << 20
_MATRIX_EXCESS = 12


class Windowed(Protocol):
    """The action of an affine primitive on windowed rows.

    Attributes:
        stays_outside: Whether entries outside of the map lead to entries outside of the maps of the
            inputs alone. Then those of the rows need not be 0.
    """

    @property
    def stays_outside(self) -> bool: ...

    def moved(self, window: Window, extent: tuple[int, ...]) -> tuple[Window, tuple[int, ...]]:
        """The window of the input that a window of the output reads."""

    def prepare(self, kernel: Tensor, extent: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        """Something computed once for all windows of one size; None where there is nothing."""

    def transpose(
        self, kernel: Tensor, rows: Rows, shapes: Sequence[tuple[int, ...]], prepared: Any
    ) -> Sequence[Rows]:
        """Rows of each input; entries of ``rows`` outside of the map are 0, or lead outside."""


class Same:
    """Every entry reads the entry at its own place, in each input."""

    stays_outside = True

    def moved(self, window: Window, extent: tuple[int, ...]) -> tuple[Window, tuple[int, ...]]:
        return window, extent

    def prepare(self, kernel: Tensor, extent: tuple[int, ...], shape: tuple[int, ...]) -> None:
        return None

    def transpose(
        self, kernel: Tensor, rows: Rows, shapes: Sequence[tuple[int, ...]], prepared: Any
    ) -> Sequence[Rows]:
        return [rows] * (len(shapes) - 1)


@dataclasses.dataclass(frozen=True)
class Shift(Same):
    """Windows of a padded or cropped map are windows of the map, elsewhere.

    Attributes:
        amounts: How far behind the first entry of the map its part begins, per spatial axis; < 0:
            how many zeros lie before that entry.
        crops: Whether entries of the map are left out.
    """

    amounts: tuple[int, ...]
    crops: bool

    @property
    def stays_outside(self) -> bool:  # type: ignore[override]
        return not self.crops

    def moved(self, window: Window, extent: tuple[int, ...]) -> tuple[Window, tuple[int, ...]]:
        offset = tuple(o + a for o, a in zip(window.offset, self.amounts, strict=True))
        return Window(window.stride, offset), extent

    def transpose(
        self, kernel: Tensor, rows: Rows, shapes: Sequence[tuple[int, ...]], prepared: Any
    ) -> Sequence[Rows]:
        assert rows.window is not None
        return [Rows(rows.coefficients, self.moved(rows.window, rows.extent)[0])]


@dataclasses.dataclass(frozen=True)
class Split(Same):
    """Values that lie side by side along the last axis."""

    sizes: tuple[int, ...]

    def transpose(
        self, kernel: Tensor, rows: Rows, shapes: Sequence[tuple[int, ...]], prepared: Any
    ) -> Sequence[Rows]:
        parts, start = [], 0
        for size in self.sizes:
            piece = rows.coefficients[..., start : start + size]
            parts.append(Rows(piece, rows.window, rows.clean))
            start += size
        return parts


@dataclasses.dataclass(frozen=True)
class Sliding:
    """A map whose outputs read a window of the input that slides with them.

    Attributes:
        linear: The map on an input without any padding, channels last.
        kernel: Extents of the window that one output reads, dilation included.
        stride: Its steps.
        before: Zeros that padding puts before the first entry, per spatial axis.
        full: Whether an output channel reads all input channels, at ``taps`` places.
        taps: Number of places in the window that are read.
    """

    stays_outside: ClassVar[bool] = False
    linear: Linear
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    full: bool = False
    taps: int = 0

    def moved(self, window: Window, extent: tuple[int, ...]) -> tuple[Window, tuple[int, ...]]:
        stride = tuple(a * s for a, s in zip(window.stride, self.stride, strict=True))
        places = zip(window.offset, self.stride, self.before, strict=True)
        offset = tuple(o * s - b for o, s, b in places)
        sizes = zip(extent, self.stride, self.kernel, strict=True)
        return Window(stride, offset), tuple((e - 1) * s + k for e, s, k in sizes)

    def prepare(
        self, kernel: Tensor, extent: tuple[int, ...], shape: tuple[int, ...]
    ) -> Tensor | None:
        """The matrix ``(window of the output, window of the input)``, where it pays."""
        if not self.full:
            return None
        rank, channels = len(extent), int(kernel.shape[-1])
        _, grown = self.moved(Window(extent, extent), extent)
        outputs = math.prod(extent) * channels
        inputs = math.prod(grown) * shape[-1]
        sparse = outputs * self.taps * shape[-1]
        if outputs * inputs > min(_MATRIX_ENTRIES, _MATRIX_EXCESS * sparse):
            return None
        eye = ops.reshape(ops.eye(outputs, dtype=kernel.dtype), (outputs, *extent, channels))
        read = self.linear.transpose(eye, kernel, (*grown, *shape[rank:]))
        return ops.reshape(read, (outputs, inputs))

    def transpose(
        self, kernel: Tensor, rows: Rows, shapes: Sequence[tuple[int, ...]], prepared: Any
    ) -> Sequence[Rows]:
        assert rows.window is not None
        window, extent = self.moved(rows.window, rows.extent)
        shape = (*extent, *shapes[0][len(extent) :])
        flat = rows.flat()
        if prepared is None:
            return [rows.like(self.linear.transpose(flat, kernel, shape), window)]
        product = ops.matmul(ops.reshape(flat, (-1, prepared.shape[0])), prepared)
        return [rows.like(ops.reshape(product, (-1, *shape)), window)]

    def pick(self, kernel: Tensor, channel: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """The windows of the inputs that single outputs of given channels read."""
        dilated = math.prod(self.kernel) != self.taps
        if not self.full or dilated:
            return None
        columns = ops.transpose(ops.reshape(kernel, (-1, kernel.shape[-1])))
        rank = len(self.kernel)
        return ops.reshape(backend.gather(columns, channel), (-1, *self.kernel, *shape[rank:]))
