"""A plain search for tests of splitters, and the exact optimum of small networks.

The optimum comes from a mixed-integer program that is written from the weights alone: it shares no
code with the bounds.
"""

from typing import NamedTuple

import keras
import numpy as np
from scipy.optimize import LinearConstraint, milp

from tfcert.branching.splitter import Domains, Problem
from tfcert.network import network_of
from tfcert.properties.questions import Question

__all__ = ["Net", "Recording", "problem", "search"]


class Net(NamedTuple):
    """Dense layers, each but the last one followed by two-piece functions.

    Attributes:
        weights: ``(kernel, bias)`` by layer.
        slopes: By layer but the last, the slope of each unit's negative piece.
        model: The same as a Keras model.
    """

    weights: list
    slopes: list
    model: keras.Model

    @classmethod
    def of(cls, seed, widths, activation):
        rng, given = np.random.default_rng(seed), keras.Input((widths[0],))
        weights, slopes, value = [], [], given
        for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            kernel = rng.normal(size=(before, after)).astype("float32")
            bias = 0.3 * rng.normal(size=after).astype("float32")
            layer = keras.layers.Dense(after)
            value = layer(value)
            layer.set_weights([kernel, bias])
            weights.append((kernel.astype(float), bias.astype(float)))
            if i < len(widths) - 2:
                value, slope = activation(value, rng)
                slopes.append(np.broadcast_to(np.asarray(slope, float), (after,)))
        return cls(weights, slopes, keras.Model(given, value))

    def least(self, lower, upper, row, offset, signs=None):
        """The least value of a linear function of the outputs, inf where no input is left.

        Args:
            lower, upper: The box.
            row, offset: The function.
            signs: By hidden layer, 1 where units are >= 0, -1 where <= 0, 0 where either.
        """
        sizes = [len(bias) for _, bias in self.weights[:-1]]
        # Variables: x, then by layer z, r = relu(z), and whether z >= 0.
        count = len(lower) + 3 * sum(sizes)
        low, high = np.full(count, -np.inf), np.full(count, np.inf)
        low[: len(lower)], high[: len(lower)] = lower, upper
        whole, matrix, limits = np.zeros(count), [], []
        value, constant = np.eye(len(lower), count), np.zeros(len(lower))
        reach, start = np.stack([lower, upper]), len(lower)
        for i, size in enumerate(sizes):
            kernel, bias = self.weights[i]
            z, r, on = (start + k * size + np.arange(size) for k in range(3))
            start += 3 * size
            whole[on], low[on], high[on] = 1, 0, 1
            middle, half = reach.mean(axis=0), 0.5 * (reach[1] - reach[0])
            center = middle @ kernel + bias
            least, most = center - half @ abs(kernel) - 1, center + half @ abs(kernel) + 1
            low[z], high[z], low[r] = least, most, 0.0
            sign = np.zeros(size) if signs is None else signs[i]
            low[z], high[z] = np.where(sign > 0, 0, low[z]), np.where(sign < 0, 0, high[z])
            unit = np.eye(count)
            matrix += [unit[z] - kernel.T @ value]
            limits += [(kernel.T @ constant + bias,) * 2]
            matrix += [unit[r] - unit[z], unit[r] - unit[z] - least[:, None] * unit[on]]
            limits += [(np.zeros(size), np.full(size, np.inf)), (-np.full(size, np.inf), -least)]
            matrix += [unit[r] - np.maximum(most, 0)[:, None] * unit[on]]
            limits += [(-np.full(size, np.inf), np.zeros(size))]
            slope = self.slopes[i]
            value, constant = slope[:, None] * unit[z] + (1 - slope)[:, None] * unit[r], 0 * bias
            ends = [slope * e + (1 - slope) * np.maximum(e, 0) for e in (least, most)]
            ends.append(np.zeros(size))
            reach = np.stack([np.min(ends, axis=0), np.max(ends, axis=0)])
        kernel, bias = self.weights[-1]
        cost = value.T @ (kernel @ row)
        offset = offset + (constant @ kernel + bias) @ row
        solved = milp(
            cost,
            integrality=whole,
            bounds=(low, high),
            constraints=LinearConstraint(
                np.concatenate(matrix),
                *(np.concatenate(side) for side in zip(*limits, strict=True)),
            ),
            options={"mip_rel_gap": 0.0},
        )
        if solved.status == 2:
            return np.inf
        assert solved.status == 0, solved.message
        return solved.fun + offset


def problem(lower, upper, rows, offsets):
    """One of the margins has to be positive for every input of a box."""
    rows = np.atleast_2d(rows)
    question = Question(rows, np.atleast_1d(offsets), np.ones((1, len(rows)), bool), [1])
    limits = np.asarray(lower, "float64"), np.asarray(upper, "float64")
    return Problem(np.asarray(lower, "float32"), np.asarray(upper, "float32"), question, limits)


class Recording:
    """The tree of a search as lists: parents, the unit that was split, and what closed a node."""

    def __init__(self):
        self.parent, self.split, self.closed, self.roots = [], [], {}, []

    def add_root(self, case):
        self.parent.append(-1)
        self.split.append(None)
        self.roots.append(len(self.parent) - 1)
        return self.roots[-1]

    def split_unit(self, node, place, unit):
        children = []
        for at, where, which in zip(node, place, unit, strict=True):
            for sign in (1, -1):
                children.append(len(self.parent))
                self.parent.append(int(at))
                self.split.append((int(where), int(which), sign))
        return np.array(children).reshape(-1, 2)

    def close(self, node, row, slopes=None, multipliers=None):
        for i, at in enumerate(np.atleast_1d(node)):
            own = [
                {place: table[i] for place, table in (tables or {}).items()}
                for tables in (slopes, multipliers)
            ]
            self.closed[int(at)] = (int(np.atleast_1d(row)[i]), *own)

    def signs(self, node):
        """What was split on the way to a node: ``{(place, unit): sign}``."""
        found = {}
        while self.parent[node] >= 0:
            place, unit, sign = self.split[node]
            found[place, unit] = sign
            node = self.parent[node]
        return found


def search(splitter, see=None, most=2000):
    """The verdict on all problems of a splitter: "proved", "broken" or "unknown".

    Args:
        splitter: A new one.
        see: Called with all bounded domains and their lower bounds.
        most: When to give up.
    """
    network = network_of(splitter.model)
    domains, waiting, verdict, count = splitter.start(), None, "proved", 0

    def values(some, lower):
        questions = [splitter.problems[owner].question for owner in some.owner]
        return np.array([q.value(low[None])[0] for q, low in zip(questions, lower, strict=True)])

    def breaks(found):
        # Compiled: called layer by layer, the model would take a fifth of the search.
        outputs = splitter.model.predict_on_batch(found.points.astype(network.dtype)).astype(float)
        owners = found.domains.owner
        return any(
            splitter.problems[owner].question.broken(out[None])[0]
            for owner, out in zip(owners, outputs, strict=True)
        )

    while True:
        for start in range(0, len(domains), splitter.batch):
            part = domains.take(np.arange(start, min(start + splitter.batch, len(domains))))
            found = splitter.bound(part)
            count += len(part)
            if see is not None:
                see(found.domains, found.lower)
            if breaks(found):
                return "broken"
            found.domains.bound[:] = values(found.domains, found.lower)
            left = found.domains.take(found.domains.bound <= 0)
            able = splitter.can_split(left)
            if not able.all():
                last = splitter.settle(left.take(~able), np.inf)
                if breaks(last):
                    return "broken"
                if (values(last.domains, last.lower) <= 0).any():
                    verdict = "unknown"
            left = left.take(able)
            waiting = left if waiting is None else Domains.joined([waiting, left])
        if not len(waiting):
            return verdict
        if count > most:
            return "unknown"
        order = np.argsort(waiting.bound, kind="stable")
        now, later = np.split(order, [max(1, splitter.batch // 2)])
        domains, waiting = splitter.split(waiting.take(now)), waiting.take(later)
