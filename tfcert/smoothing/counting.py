"""Counting the votes of a network under noise: compiled, in bounded memory, repeatable."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcert import backend
from tfcert.smoothing import drawing
from tfcert.smoothing.noise import Noise
from tfcert.types import Tensor

__all__ = ["BLOCK", "VoteCounter", "default_batch"]

# Draws that share a key. The noise of draw j of an input depends on (seed, purpose, the input's
# index, j // BLOCK) alone, so this number must depend on nothing. The usual numbers of samples are
# multiples of it.
BLOCK = 100
# Samples of one network call. On a CPU (two cores) calls of 200 ran 1.2 times as many samples of a
# ResNet-20 a second as calls of 1000, whose activations leave the cache, and as many of LeNet.
_CPU_BATCH = 200
_ACCELERATOR_BATCH = 10_000
_ACCELERATOR_ENTRIES = 2**23
# A compiled call makes this many network calls, so that its own overhead (1 ms) is not felt.
_TURNS = 32
_INPUT_ENTRIES = 2**22


def default_batch(shape: tuple[int, ...]) -> int:
    """Samples of one network call for inputs of a shape, where the user does not say."""
    if backend.on_accelerator():
        return max(BLOCK, min(_ACCELERATOR_BATCH, _ACCELERATOR_ENTRIES // math.prod(shape)))
    return _CPU_BATCH


class VoteCounter:
    """Counts how often a model returns each class around inputs.

    Args:
        model: A model with scores of shape ``(batch, classes)``.
        noise: What is added to an input.
        batch_size: Noisy samples per call of the network, rounded to blocks of 100; None: chosen
            by device. It changes speed and memory, never the noise.

    A model that was made in the scope of a ``tf.distribute.MirroredStrategy`` votes on all of its
    devices. The counts are those of one device.
    """

    def __init__(self, model: keras.Model, noise: Noise, batch_size: int | None):
        self._model, self._noise, self._batch_size = model, noise, batch_size
        self._devices = backend.devices_of(model)
        self._programs: dict[tuple[int, ...], Callable[..., Tensor]] = {}

    def count(
        self,
        x: np.ndarray,
        index: np.ndarray,
        classes: int,
        key: tuple[int, int],
        start: int,
        stop: int,
    ) -> np.ndarray:
        """Votes of the draws ``start`` to ``stop`` around each input.

        Args:
            x: Inputs, ``(batch, *input_shape)``.
            index: The number of each input in its data set, ``(batch,)``.
            classes: Number of scores.
            key: The seed, and a number for the purpose: other pairs give independent noise.
            start: The first draw, a multiple of the block.
            stop: The first draw that does not count any more.

        Returns:
            int64, ``(batch, classes)``. Draws where a score is NaN vote for nobody.
        """
        shape = x.shape[1:]
        together, capacity = self._sizes(shape)
        program = self._program(shape, classes)
        first, blocks = start // BLOCK, math.ceil(stop / BLOCK) - start // BLOCK
        total = np.zeros((len(x), classes), "int64")
        pending: collections.deque = collections.deque()

        def collect() -> None:
            rows, places, found = pending.popleft()
            np.add.at(total, rows, ops.convert_to_numpy(found)[places].astype("int64"))

        for job in range(0, len(x) * blocks, self._devices * capacity):
            jobs = np.arange(job, min(job + self._devices * capacity, len(x) * blocks))
            rows, block = jobs // blocks, first + jobs % blocks
            keys = _keys_of(key, index, rows, block, first + blocks)
            wanted = np.minimum(BLOCK, stop - block * BLOCK).astype("int32")
            turns = math.ceil(len(jobs) / (self._devices * together))
            # Every device has room for a whole call, and takes an equal share of the jobs.
            device, place = np.divmod(np.arange(len(jobs)), turns * together)
            places, room = device * capacity + place, self._devices * capacity
            arguments = [_placed(part, places, room) for part in (x[rows], keys, wanted)]
            found = program(*map(ops.convert_to_tensor, arguments), np.int32(turns))
            pending.append((rows, places, found))
            # One call behind, so that a device works while the host prepares what comes next.
            if len(pending) > 1:
                collect()
        while pending:
            collect()
        return total

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Blocks per network call, and per compiled call on one device."""
        size = default_batch(shape) if self._batch_size is None else self._batch_size
        together = max(1, size // BLOCK)
        turns = max(1, min(_TURNS, _INPUT_ENTRIES // (together * math.prod(shape))))
        return together, turns * together

    def jobs(self, shape: tuple[int, ...], classes: int) -> tuple[Callable[..., Tensor], int, int]:
        """A function of tensors that counts the votes of jobs, blocks of draws around an input.

        Returns:
            The function (see `_count`), jobs per network call, and the jobs that it takes.
        """
        together, capacity = self._sizes(shape)
        count = functools.partial(_count, self._model, self._noise, classes, together)
        return count, together, capacity

    def _program(self, shape: tuple[int, ...], classes: int) -> Callable[..., Tensor]:
        if shape not in self._programs:
            count, _, _ = self.jobs(shape, classes)
            # On a CPU networks and samplers run faster outside XLA (LeNet 2.5 and 1.7 times,
            # ResNet-20 1.35 times).
            self._programs[shape] = backend.compile_for_devices(
                count, self._model, backend.prefers_xla() or None
            )
        return self._programs[shape]


def _count(
    model: keras.Model,
    noise: Noise,
    classes: int,
    together: int,
    x: Tensor,
    keys: Tensor,
    wanted: Tensor,
    turns: Tensor,
) -> Tensor:
    """Votes of each job, ``(jobs, classes)``: the wanted first draws of a block around an input."""
    shape = tuple(x.shape[1:])
    dtype = keras.backend.standardize_dtype(x.dtype)
    draws = ops.arange(BLOCK, dtype="int32")

    def turn_of(turn: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        first = turn * together
        place = ops.slice(x, [first] + [0] * len(shape), (together, *shape))
        key = ops.slice(keys, [first, 0], (together, 2))
        samples = place[:, None] + drawing.draw(noise, key, (BLOCK, *shape), dtype)
        scores = model(ops.reshape(samples, (together * BLOCK, *shape)), training=False)
        (scores,) = keras.tree.flatten(scores)  # It may be in a list or a dictionary.
        # NaN is no class, whatever the arg-max makes of it.
        valid = ops.logical_not(ops.any(ops.isnan(scores), axis=-1))
        vote = ops.cast(ops.argmax(scores, axis=-1), "int32")
        vote = ops.reshape(ops.where(valid, vote, -1), (together, BLOCK))
        counted = draws[None] < ops.slice(wanted, [first], (together,))[:, None]
        vote = ops.where(counted, vote, -1)
        hot = vote[:, :, None] == ops.arange(classes, dtype="int32")
        found = ops.sum(ops.cast(hot, "int32"), axis=1)
        return turn + 1, ops.slice_update(counts, [first, 0], found)

    counts = ops.zeros((x.shape[0], classes), "int32")
    start = ops.zeros((), "int32")
    return backend.loop(lambda turn, _: turn < turns, turn_of, (start, counts))[1]


def _keys_of(
    key: tuple[int, int], index: np.ndarray, rows: np.ndarray, block: np.ndarray, blocks: int
) -> np.ndarray:
    """A pair of uint32 per job."""
    keys = np.empty(len(rows), "uint64")
    for row in np.unique(rows):
        mine = rows == row
        keys[mine] = _block_keys(*key, int(index[row]), blocks)[block[mine]]
    return backend.noise_keys(keys.view("uint32").reshape(-1, 2))


@functools.lru_cache(maxsize=8)
def _block_keys(seed: int, purpose: int, index: int, blocks: int) -> np.ndarray:
    """The keys of an input's first blocks: 64 random bits each, from a generator of its own."""
    source = np.random.SeedSequence(seed, spawn_key=(purpose, index))
    return np.random.Philox(source).random_raw(blocks)


def _placed(part: Any, places: np.ndarray, size: int) -> np.ndarray:
    """An array with its rows at given places and zeros elsewhere: programs see one shape."""
    result = np.zeros((size, *part.shape[1:]), part.dtype)
    result[places] = part
    return result
