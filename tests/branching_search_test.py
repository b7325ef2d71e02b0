"""The search of branch and bound by itself: on a line, with a judge who never looks."""

import time

import numpy as np
import pytest

from tests import branching_support as support
from tfcert.branching.pool import Pool
from tfcert.branching.search import Limits, search
from tfcert.branching.splitter import Domains


class Judge:
    """Decides points of the line by their exact margin."""

    def __init__(self, line):
        self.line = line

    def judge(self, points, owner):
        value = (points[:, 0] - self.line.kink) ** 2 + self.line.height
        return points[value.argmin()] if value.min() <= 0 else None


def run(line, limits=None, **more):
    return search(line, line.problems, Judge(line), limits or Limits(), **more)


def test_proves_and_covers():
    line, leaves, seen = support.Line(0.001), support.Leaves(), []
    found = run(line, watch=leaves, log=seen.append)
    assert found.holds and found.counterexample is None and found.reason is None
    assert 0 < found.bound <= 0.001
    assert leaves.volume() == 1.0
    assert seen[-1].domains == found.domains > 20 and seen[-1].open == 0
    assert "domains/s" in str(seen[0])


def test_a_lost_child_leaves_a_gap():
    leaves = support.Leaves()
    assert run(support.Careless(0.001), watch=leaves).holds
    assert leaves.volume() < 1.0


def test_finds_counterexamples():
    found = run(support.Line(-1e-6))
    assert not found.holds and (found.counterexample[0] - 0.3) ** 2 <= 1e-6


def test_attacks_around_open_domains():
    line, calls = support.Line(-1e-13), []

    def attack(points, owner):
        calls.append(len(points))
        assert len(points) == len(owner)
        return np.full_like(points, line.kink)

    found = run(line, attack=attack)
    assert found.counterexample[0] == line.kink and len(calls) == 1
    assert found.domains < run(line).domains


@pytest.mark.parametrize(("last", "holds"), [(1.0, True), (-np.inf, False)])
def test_parts_that_cannot_be_split(last, holds):
    found = run(support.Line(1e-9, kink=1 / 3, smallest=1e-3, last=last))
    assert found.holds == holds
    if not holds:
        assert (
            found.reason.kind == "rounding" and "cannot be split any further" in found.reason.text
        )
        assert found.bound <= 0


class Slow(support.Line):
    def bound(self, domains):
        time.sleep(0.02)
        return super().bound(domains)


def test_the_deadline_is_kept():
    begin = time.monotonic()
    found = run(Slow(1e-14, kink=1 / 3), Limits(deadline=begin + 0.3))
    assert 0.2 < time.monotonic() - begin < 0.6
    assert found.reason.kind == "time" and "longer time_limit" in found.reason.text
    assert not found.holds and found.bound < 0


class Wide(support.Line):
    """Never proves anything."""

    def bound(self, domains):
        bounded = super().bound(domains)
        return bounded._replace(lower=0 * bounded.lower - 1)


def test_memory_is_kept():
    found = run(Wide(1.0), Limits(memory=20_000))
    assert found.reason.kind == "memory" and not found.holds
    assert found.domains < 5000


def test_nan_is_an_error():
    class Odd(support.Line):
        def bound(self, domains):
            bounded = super().bound(domains)
            return bounded._replace(lower=np.nan * bounded.lower)

    with pytest.raises(ValueError, match="are NaN"):
        run(Odd(1.0))


def test_pool_keeps_what_it_is_given():
    generator, pool, kept = np.random.default_rng(0), Pool(), {}
    number = 0
    for _ in range(60):
        count = int(generator.integers(0, 12))
        names = np.arange(number, number + count)
        bounds = generator.normal(size=count)
        kept.update(zip(names.tolist(), bounds.tolist(), strict=True))
        number += count
        zeros = np.zeros(count, np.int32)
        state = [names, (names[:, None] * np.ones(3),)]
        pool.add(Domains(zeros, bounds, generator.integers(0, 9, count).astype(np.int32), state))
        assert len(pool) == len(kept)
        if kept and generator.random() < 0.6:
            deepest = bool(generator.random() < 0.3)
            chosen = pool.pop(5, deepest)
            if not deepest:
                assert chosen.bound[0] == min(kept.values())
            for name, bound, rows in zip(
                chosen.state[0], chosen.bound, chosen.state[1][0], strict=True
            ):
                assert kept.pop(int(name)) == bound and (rows == name).all()
    assert pool.least == min(kept.values())
    assert sorted(pool.all().state[0].tolist()) == sorted(kept)
