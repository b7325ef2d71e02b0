"""Simple searches whose trees are proofs: boxes cut in halves, signs of units, no split at all."""

import numpy as np
from keras import ops

import tfcert
from tfcert import methods, proofs
from tfcert.bounds import propagation
from tfcert.bounds.known import Known
from tfcert.bounds.sweep import Slopes, sweep
from tfcert.network import network_of
from tfcert.regions import Box
from tfcert.rules.rows import Frame, Rows
from tfcert.types import Bounds


def by_boxes(model, asked, batch=128, most=5000):
    """Boxes are cut across the axis that is longest, compared with the box of the case."""
    tree = proofs.Tree()
    dtype = network_of(model).dtype
    for number, case in enumerate(asked.cases):
        lower, upper, nodes = case.lower[None], case.upper[None], np.array([tree.add_root(number)])
        rows = np.broadcast_to(-case.rows[:, :-1], (batch, *case.rows[:, :-1].shape)).astype(dtype)
        scale = np.maximum(case.upper - case.lower, 1e-12)
        while len(nodes):
            assert len(tree) < most, "the property is too hard for this search"
            now, later = slice(None, batch), slice(batch, None)
            low, high, own = lower[now], upper[now], nodes[now]
            # Always as many boxes, so that one program is compiled.
            padded = np.minimum(np.arange(batch), len(own) - 1)
            ends = [end[padded].reshape(batch, *model.input_shape[1:]) for end in (low, high)]
            middle = np.clip(0.5 * (ends[0] + ends[1]), *ends).astype(dtype)
            bounds = tfcert.bound_margins(
                model, middle, None, Box(*ends), "crown", specification=rows
            )
            bounds = ops.convert_to_numpy(bounds)[: len(own)] - case.rows[:, -1]
            done = bounds.max(axis=1) > 1e-4
            tree.close(own[done], bounds[done].argmax(axis=1))
            low, high, own = low[~done], high[~done], own[~done]
            axis, each = ((high - low) / scale).argmax(axis=1), np.arange(len(own))
            cut = 0.5 * (low[each, axis] + high[each, axis])
            halves = tree.split_input(own, axis, cut)
            below, above = high.copy(), low.copy()
            below[each, axis] = above[each, axis] = cut
            lower = np.concatenate([low, above, lower[later]])
            upper = np.concatenate([below, high, upper[later]])
            nodes = np.concatenate([halves[:, 0], halves[:, 1], nodes[later]])
    return tree


def by_units(model, asked, method=None, most=400):
    """The sign of a unit is fixed where its relaxation is loosest; alpha- and beta-CROWN."""
    tree, network = proofs.Tree(), network_of(model)
    method = method or methods.AlphaCrown(iterations=20)
    reads = [network.index[node] for node in network.needing_bounds()]
    for number, case in enumerate(asked.cases):
        shape = (1, *network.input.shape)
        region = Box(case.lower.reshape(shape), case.upper.reshape(shape))
        x = (0.5 * (case.lower + case.upper)).astype(network.dtype).reshape(shape)
        bound = region.bind(ops.convert_to_tensor(x))
        rows = ops.convert_to_tensor(-case.rows[None, :, :-1].astype(network.dtype))
        whole = propagation.evaluate(network, region, bound, method)
        ends = {place: Bounds(*whole.intervals[network.nodes[place]].bounds) for place in reads}
        waiting = [(tree.add_root(number), {})]
        while waiting:
            assert len(tree) < most, "the property is too hard for this search"
            node, signs = waiting.pop()
            known = Known(
                intervals=ends,
                signs={p: ops.convert_to_tensor(s) for p, s in signs.items()},
                settled=True,
            )
            evaluation = propagation.evaluate(network, region, bound, method, known=known)
            found = method.optimise(evaluation, network.outputs, rows)
            # Of these very slopes: those of the best step on the way may have been others.
            last = Slopes(found.slopes, found.multipliers)
            lower = sweep(evaluation, network.outputs, Rows(rows), Frame(), slopes=last)
            lower = ops.convert_to_numpy(lower)[0] - case.rows[:, -1]
            row = int(lower.argmax())
            empty = evaluation.empty is not None and bool(ops.convert_to_numpy(evaluation.empty)[0])
            if lower[row] > 1e-4 or empty:
                slopes = {p: ops.convert_to_numpy(v[0])[0, row] for p, v in found.slopes.items()}
                betas = {p: ops.convert_to_numpy(b)[0, row] for p, b in found.multipliers.items()}
                tree.close(node, row, slopes, betas)
                continue
            place, unit = _loosest(evaluation, reads, signs)
            children = tree.split_unit(node, place, unit)
            for child, sign in zip(children, (1, -1), strict=True):
                own = {p: s.copy() for p, s in signs.items()}
                size = (1, *network.nodes[place].shape)
                own.setdefault(place, np.zeros(size, network.dtype))
                own[place].reshape(-1)[unit] = sign
                waiting.append((child, own))
    return tree


def without_splits(model, asked, method=None):
    """One leaf a case, with slopes of alpha-CROWN; all cases are about one box."""
    tree, network = proofs.Tree(), network_of(model)
    method = method or methods.AlphaCrown(iterations=20)
    root = tree.add_root(range(len(asked.cases)))
    shape = (1, *network.input.shape)
    lower, upper = (end.reshape(shape) for end in asked.cases[0][:2])
    region, middle = Box(lower, upper), (0.5 * (lower + upper)).astype(network.dtype)
    rows = np.concatenate([-case.rows[:1, :-1] for case in asked.cases])[None]
    bound = region.bind(ops.convert_to_tensor(middle))
    evaluation = propagation.evaluate(network, region, bound, method)
    rows = ops.convert_to_tensor(rows.astype(network.dtype))
    found = method.optimise(evaluation, network.outputs, rows)
    slopes = {place: ops.convert_to_numpy(own[0])[0] for place, own in found.slopes.items()}
    for case in range(len(asked.cases)):
        tree.close(root, 0, {place: own[case] for place, own in slopes.items()}, case=case)
    return tree


def _loosest(evaluation, reads, signs):
    best = (0.0, -1, -1)
    for place in reads:
        node = evaluation.network.nodes[place]
        interval = evaluation.intervals[node]
        lower, upper = (ops.convert_to_numpy(end).reshape(-1) for end in interval.bounds)
        gap = np.minimum(-lower, upper)
        if place in signs:
            gap = np.where(signs[place].reshape(-1) != 0, 0.0, gap)
        best = max(best, (float(gap.max()), place, int(gap.argmax())))
    assert best[1] >= 0, "all signs are known, and nothing is left to split"
    return best[1:]
