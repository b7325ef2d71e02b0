"""Small problems with known answers for the tests of branch and bound."""

import functools

import keras
import numpy as np

from tfcert.branching.outcome import within_rounding
from tfcert.branching.splitter import Bounded, Domains
from tfcert.properties.questions import Problem, Question


@functools.cache
def network(seed=0):
    """Two inputs, three outputs; shared by the tests: do not change its weights."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Dense(10, activation="relu", kernel_initializer="random_normal"),
        keras.layers.Dense(10, activation="relu"),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def grid(lower, upper, count=80):
    """Points of a box of two numbers, its corners among them."""
    axes = [np.linspace(low, high, count) for low, high in zip(lower, upper, strict=True)]
    return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)


class Line:
    """Splits intervals of one number x, with the one margin ``(x - kink)^2 + height``.

    Bounded by the slope: exact at the middle, minus the largest slope times half of the width.

    Args:
        height: The least margin, at the kink.
        kink: Where the margin is least.
        smallest: The width at which an interval cannot be split any more.
        last: What ``settle`` gives as a lower bound.
    """

    name = "line"
    batch = 8

    def __init__(self, height, kink=0.3, smallest=0.0, last=-np.inf):
        self.height, self.kink, self.smallest, self.last = height, kink, smallest, last
        self.problems = [
            Problem(
                np.zeros(1, "float32"),
                np.ones(1, "float32"),
                Question.all_positive([[1.0]], [0.0]),
                (np.zeros(1), np.ones(1)),
            )
        ]

    def start(self):
        zero = np.zeros(1)
        state = {"low": np.zeros(1), "high": np.ones(1)}
        return Domains(zero.astype(np.int32), zero - np.inf, zero.astype(np.int32), state)

    def can_split(self, domains):
        low, high = domains.state["low"], domains.state["high"]
        middle = 0.5 * (low + high)
        return (high - low > self.smallest) & (low < middle) & (middle < high)

    def split(self, domains):
        low, high = domains.state["low"], domains.state["high"]
        middle = 0.5 * (low + high)
        parts = [
            Domains(domains.owner, domains.bound, domains.depth + 1, {"low": a, "high": b})
            for a, b in ((low, middle), (middle, high))
        ]
        return Domains.joined(parts)

    def bound(self, domains):
        low, high = domains.state["low"], domains.state["high"]
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        value = (middle - self.kink) ** 2 + self.height
        lower = value - 2 * np.maximum(abs(low - self.kink), abs(high - self.kink)) * half
        return Bounded(domains, lower[:, None], middle[:, None])

    def settle(self, domains, deadline):
        return Bounded(domains, np.full((len(domains), 1), self.last), None)

    def open_reason(self, count):
        return within_rounding(count)


class Careless(Line):
    """Loses the second child of some splits."""

    def split(self, domains):
        children = super().split(domains)
        return children.take(np.arange(len(children) - 1)) if len(domains) > 1 else children


class Leaves:
    """Collects the proved domains of a search."""

    def __init__(self):
        self.parts = []

    def __call__(self, domains, proved):
        self.parts.append(domains.take(proved))

    def volume(self, low="low", high="high"):
        """The volume of all of them; where they do not overlap, 1 covers the unit box."""
        widths = [part.state[high] - part.state[low] for part in self.parts if len(part)]
        return sum(float(np.prod(w.reshape(len(w), -1), axis=1).sum()) for w in widths)
