"""Coefficients of linear functions of a value, and the frame that they live in.

A backward sweep carries many linear functions (*rows*) of one node at a time. In the *grid* layout
every sample of the batch has the same number of rows. In the *flat* layout a row belongs to one
neuron of one sample, in groups that share the sample.

A neuron of a convolution depends on a small window of the feature map, whose position is affine
in the neuron's own: ``origin = seed * stride + offset``. Rows of such neurons carry the window
alone (*windowed* rows), until a layer mixes all positions.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from keras import ops

from tfcert import backend
from tfcert.types import Tensor

__all__ = ["Frame", "Rows", "SampleTable", "Window", "covers", "union"]


class SampleTable:
    """Per-sample values ``(batch, *shape)``, and the same as a table of positions for windows.

    The last line of the table is what windows read outside of the map. For compiled code all tables
    are made at once, outside of the loop over rows: compilers drop those that nothing reads.

    Attributes:
        tensor: The values.
        beside: The same as ``(batch, 1, *shape)``, to stand beside coefficients.
    """

    def __init__(self, tensor: Tensor, windows: bool = True):
        self.tensor = tensor
        # Its gradient is free, that of [:, None] a copy.
        self.beside = ops.expand_dims(tensor, 1)
        self._tables: dict[int, Tensor] = {}
        if windows and not backend.runs_at_once():
            for rank in range(1, min(len(tensor.shape) - 1, 4)):
                self._tables[rank] = _table(tensor, rank)

    def table(self, rank: int) -> Tensor:
        """``(batch * positions + 1, rest)``."""
        if rank not in self._tables:
            self._tables[rank] = _table(self.tensor, rank)
        return self._tables[rank]


def _table(tensor: Tensor, rank: int) -> Tensor:
    rest = math.prod(tensor.shape[1 + rank :])
    table = backend.reshape(tensor, (-1, rest))
    return ops.concatenate([table, ops.zeros((1, rest), table.dtype)], axis=0)


@dataclasses.dataclass(frozen=True)
class Window:
    """The start of the rows' windows: ``seed * stride + offset``, per spatial axis."""

    stride: tuple[int, ...]
    offset: tuple[int, ...]


def covers(extent: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a window is no smaller than the map: then rows over the whole map are cheaper."""
    return math.prod(extent) >= math.prod(shape[: len(extent)])


def union(
    first: tuple[Window, tuple[int, ...]], second: tuple[Window, tuple[int, ...]]
) -> tuple[Window, tuple[int, ...]] | None:
    """The smallest window that holds two; None where they move at different strides."""
    if first[0].stride != second[0].stride:
        return None
    offset, extent = [], []
    for o1, e1, o2, e2 in zip(first[0].offset, first[1], second[0].offset, second[1], strict=True):
        offset.append(min(o1, o2))
        extent.append(max(o1 + e1, o2 + e2) - offset[-1])
    return Window(first[0].stride, tuple(offset)), tuple(extent)


class Rows(NamedTuple):
    """Linear functions of one node.

    Attributes:
        coefficients: ``(groups, rows, *shape)``, or ``(groups, rows, *window, *rest)``.
        window: None where the coefficients cover the whole value. Entries of a window that lie
            outside of the feature map are to be ignored.
        clean: Whether those entries are known to be 0.
    """

    coefficients: Tensor
    window: Window | None = None
    clean: bool = False

    @property
    def extent(self) -> tuple[int, ...]:
        """Sizes of the window."""
        assert self.window is not None
        return tuple(self.coefficients.shape[2 : 2 + len(self.window.stride)])

    def flat(self) -> Tensor:
        """Coefficients with groups and rows in one leading axis."""
        shape = tuple(self.coefficients.shape)
        return backend.reshape(self.coefficients, (-1, *shape[2:]))

    def like(self, coefficients: Tensor, window: Window | None = None) -> Rows:
        """Rows of the same groups from coefficients with one leading axis."""
        count = self.coefficients.shape[1]
        shape = tuple(coefficients.shape)[1:]
        return Rows(backend.reshape(coefficients, (-1, count, *shape)), window)


class Frame:
    """The sample of each group of rows, and the start of the windows of its rows.

    Args:
        sample: ``(groups,)`` indices into the batch; None for the grid layout.
        seed: ``(groups, rank)`` positions of the neurons that the rows started from.
    """

    def __init__(self, sample: Tensor | None = None, seed: Tensor | None = None):
        self.sample = sample
        self.seed = seed
        self._indices: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._entries: dict[tuple, Tensor] = {}

    def take(self, values: SampleTable, rows: Rows) -> Tensor:
        """Per-sample values ``(batch, *shape)`` as ``(groups, 1, ...)`` beside the coefficients.

        Outside of the feature map a window reads 0.
        """
        if rows.window is not None:
            return self._take_window(values, rows)
        if self.sample is not None and values.tensor.shape[0] != 1:
            return backend.gather(values.beside, self.sample)
        return values.beside

    def take_shared(self, tensor: Tensor, rows: Rows) -> Tensor:
        """Like ``take`` for values without batch axis, which all samples share."""
        return self.take(SampleTable(tensor[None]), rows)

    def _positions(self, rows: Rows, spatial: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Flat positions of window entries in the map, ``(groups, *extent)``, and which exist."""
        key = (rows.window, rows.extent, spatial)
        if key not in self._indices:
            window, extent = rows.window, rows.extent
            assert window is not None and self.seed is not None
            rank = len(extent)
            origin = self.seed * np.array(window.stride, "int32")
            origin = origin + np.array(window.offset, "int32")
            flat, inside = None, None
            for axis, start in enumerate(ops.unstack(origin, axis=1)):
                grid = np.arange(extent[axis], dtype="int32").reshape(
                    [1, *[-1 if i == axis else 1 for i in range(rank)]]
                )
                position = backend.reshape(start, (-1,) + (1,) * rank) + grid
                ok = (position >= 0) & (position < spatial[axis])
                step = math.prod(spatial[axis + 1 :])
                position = position * step if step > 1 else position
                flat = position if flat is None else flat + position
                inside = ok if inside is None else inside & ok
            assert flat is not None and inside is not None
            self._indices[key] = flat, inside
        return self._indices[key]

    def _take_window(self, values: SampleTable, rows: Rows) -> Tensor:
        rank, tensor = len(rows.extent), values.tensor
        batch, spatial = tensor.shape[0], tuple(tensor.shape[1 : 1 + rank])
        rest = tuple(tensor.shape[1 + rank :])
        table = values.table(rank)
        key = (rows.window, rows.extent, spatial, batch)
        if key not in self._entries:
            flat, inside = self._positions(rows, spatial)
            if self.sample is not None and batch != 1:
                first = self.sample * math.prod(spatial)
                flat = flat + backend.reshape(first, (-1,) + (1,) * rank)
            outside = ops.cast(ops.shape(table)[0] - 1, "int32")
            self._entries[key] = ops.where(inside, flat, outside)
        picked = backend.gather(table, self._entries[key])
        return backend.reshape(picked, (-1, 1, *rows.extent, *rest))

    def mask(self, rows: Rows, shape: tuple[int, ...]) -> Rows:
        """The same rows with explicit zeros outside of the feature map."""
        if rows.window is None or rows.clean:
            return rows
        rank = len(rows.extent)
        _, inside = self._positions(rows, shape[:rank])
        inside = backend.reshape(inside, (-1, 1, *rows.extent, *[1] * (len(shape) - rank)))
        return Rows(
            ops.where(inside, rows.coefficients, ops.zeros((), rows.coefficients.dtype)),
            rows.window,
            clean=True,
        )

    def dense(self, rows: Rows, shape: tuple[int, ...]) -> Rows:
        """The same rows over the whole value."""
        if rows.window is None:
            return rows
        window, extent, rank = rows.window, rows.extent, len(rows.extent)
        assert self.seed is not None
        rest = shape[rank:]
        index: Tensor = None
        inside: Tensor = None
        for axis, size in enumerate(extent):
            origin = self.seed[:, axis] * window.stride[axis] + window.offset[axis]
            place = np.arange(shape[axis], dtype="int32") - origin[:, None]
            view = [-1] + [1] * rank
            view[1 + axis] = shape[axis]
            place = ops.reshape(place, view)
            ok = (place >= 0) & (place < size)
            step = math.prod(extent[axis + 1 :])
            index = place * step if index is None else index + place * step
            inside = ok if inside is None else inside & ok
        count = rows.coefficients.shape[1]
        table = _table(ops.reshape(rows.coefficients, (-1, 1, math.prod(rest))), 1)
        outside = ops.cast(ops.shape(table)[0] - 1, "int32")
        start = ops.arange((ops.shape(table)[0] - 1) // math.prod(extent), dtype="int32")
        start = ops.reshape(start * math.prod(extent), [-1, count] + [1] * rank)
        index = ops.where(inside[:, None], index[:, None] + start, outside)
        full = backend.gather(table, index)
        return Rows(ops.reshape(full, (-1, count, *shape)))

    def add(self, first: Rows, second: Rows, shape: tuple[int, ...]) -> Rows:
        """The sum of two sets of rows of the same node."""
        if first.window is None and second.window is None:
            return Rows(first.coefficients + second.coefficients)
        both = None
        if first.window is not None and second.window is not None:
            both = union((first.window, first.extent), (second.window, second.extent))
        if both is None:
            return self.add(self.dense(first, shape), self.dense(second, shape), shape)
        window, extent = both

        def grown(rows: Rows) -> Tensor:
            assert rows.window is not None
            pads = [(0, 0), (0, 0)]
            for axis, size in enumerate(rows.extent):
                before = rows.window.offset[axis] - window.offset[axis]
                pads.append((before, extent[axis] - before - size))
            pads += [(0, 0)] * (len(rows.coefficients.shape) - len(pads))
            return (
                backend.pad(rows.coefficients, pads) if any(map(sum, pads)) else rows.coefficients
            )

        return Rows(grown(first) + grown(second), window, first.clean and second.clean)
