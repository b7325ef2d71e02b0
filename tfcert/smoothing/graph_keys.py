"""The keys of the noise, computed inside of a TensorFlow graph: bit by bit those of ``counting``.

NumPy promises the streams of both of its algorithms: ``SeedSequence`` hashes a seed and a spawn key
into 128 bits, from which Philox, a counter-based generator, makes random 64-bit words.

References: M. E. O'Neill, "Developing a seed_seq alternative", 2015 (the hash); Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox 4x64, ten rounds).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfcert.types import Tensor

__all__ = ["block_keys", "stream_keys"]

_POOL, _BITS = 4, 32
_INIT_A, _MULT_A = 0x43B0D7E5, 0x931E8875
_INIT_B, _MULT_B = 0x8B51F9DD, 0x58F38DED
_MIX_LEFT, _MIX_RIGHT = 0xCA01F9DD, 0x4973F715
_LOW = 0xFFFFFFFF

_ROUNDS = 10
_FACTORS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def stream_keys(seed: Tensor, purpose: Tensor, index: Tensor) -> Tensor:
    """The Philox keys of ``SeedSequence(seed, spawn_key=(purpose, index))``.

    Args:
        seed: int64, at least 0, ``(batch,)``.
        purpose: int64, at least 0 and below 2^32, ``()``.
        index: int64, at least 0 and below 2^32, ``(batch,)``.

    Returns:
        uint64, ``(batch, 2)``.
    """
    seed, purpose, index = (tf.cast(value, "uint64") for value in (seed, purpose, index))
    zero = tf.zeros_like(seed)
    # A seed is two words of 32 bits at most; NumPy fills the pool with zeros before a spawn key.
    words = [seed & _LOW, _right(seed, 32), zero, zero, zero + purpose, index]
    multiplier = _Multiplier(_INIT_A, _MULT_A)
    pool = [multiplier.hash(word) for word in words[:_POOL]]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                pool[target] = _mix(pool[target], multiplier.hash(pool[source]))
    for word in words[_POOL:]:
        pool = [_mix(part, multiplier.hash(word)) for part in pool]
    multiplier = _Multiplier(_INIT_B, _MULT_B)
    state = [multiplier.hash(pool[i]) for i in range(4)]
    return tf.stack([state[0] | _left(state[1], 32), state[2] | _left(state[3], 32)], axis=-1)


def block_keys(keys: Tensor, block: Tensor) -> Tensor:
    """One word of each Philox stream, as two int32.

    Args:
        keys: From `stream_keys`, one per job, ``(jobs, 2)``.
        block: Which word, int64, ``(jobs,)``.

    Returns:
        int32, ``(jobs, 2)``.
    """
    # A counter gives four words; NumPy advances it before the first ones.
    counter = tf.cast(block // 4 + 1, "uint64")
    words = _philox(counter, keys[:, 0], keys[:, 1])
    chosen = tf.gather(words, block % 4, axis=1, batch_dims=1)
    return tf.bitcast(chosen, "int32")


class _Multiplier:
    """The hash's constant, which changes with every use."""

    def __init__(self, first: int, factor: int):
        self.constant, self.factor = first, factor

    def hash(self, value: Tensor) -> Tensor:
        """32 bits, in a uint64."""
        value = value ^ self.constant
        self.constant = self.constant * self.factor & _LOW
        value = value * self.constant & _LOW
        return value ^ _right(value, 16)


def _mix(x: Tensor, y: Tensor) -> Tensor:
    # Modulo 2^64, and so modulo 2^32.
    result = x * _word(_MIX_LEFT) - y * _word(_MIX_RIGHT) & _LOW
    return result ^ _right(result, 16)


def _philox(counter: Tensor, key0: Tensor, key1: Tensor) -> Tensor:
    """Four words of each stream, ``(jobs, 4)``."""
    zero = tf.zeros_like(counter)
    c0, c1, c2, c3 = counter, zero, zero, zero
    for turn in range(_ROUNDS):
        if turn:
            key0, key1 = key0 + _word(_STEPS[0]), key1 + _word(_STEPS[1])
        high0, low0 = _product(_FACTORS[0], c0)
        high1, low1 = _product(_FACTORS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
    return tf.stack([c0, c1, c2, c3], axis=-1)


def _product(factor: int, value: Tensor) -> tuple[Tensor, Tensor]:
    """The upper and lower 64 bits of a product, by halves of 32 bits."""
    a1, a0 = _word(factor >> 32), _word(factor & _LOW)
    b1, b0 = _right(value, 32), value & _LOW
    middle = a1 * b0 + _right(a0 * b0, 32)
    other = a0 * b1 + (middle & _LOW)
    return a1 * b1 + _right(middle, 32) + _right(other, 32), value * _word(factor)


def _word(value: int) -> Any:
    return tf.constant(value, "uint64")


def _right(value: Tensor, bits: int) -> Tensor:
    return tf.bitwise.right_shift(value, _word(bits))


def _left(value: Tensor, bits: int) -> Tensor:
    return tf.bitwise.left_shift(value, _word(bits))
