"""tfcert's side of the benchmark of first calls: where the time of the first few calls goes."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time

import cases

__all__ = ["measure"]


def measure(case: cases.Case) -> dict[str, float]:
    """Seconds of the first calls for one network and method, in a process that has made none.

    Returns:
        By name: ``first``; ``compiling``, the call that compiles, the second or the fifth one (NaN
        where that would be a later one), and
        of it in processor time ``tracing`` and ``optimising``, which is what is left beside tracing
        and one later call; ``later``, the median of later calls; ``other_batch``, the first call
        with another batch size, which is left out for XLA.
    """
    from keras import ops

    import tfcert
    from tfcert.programs import PATIENCE, programs_of

    model = cases.build_keras(case.network)
    one = cases.inputs_of(case.network, 1, case.seed)
    several = cases.inputs_of(case.network, 4, case.seed)
    region = tfcert.LpBall(eps=case.network.eps)
    method = tfcert.methods.get(case.method)
    method = dataclasses.replace(method, jit_compile=bool(case.jit_compile))

    def timed(x: object) -> tuple[float, float]:
        start, processor = time.perf_counter(), time.process_time()
        bounds = tfcert.bound(model, x, region, method)
        ops.convert_to_numpy(bounds.lower)
        return time.perf_counter() - start, time.process_time() - processor

    def traced() -> bool:
        return any(program.traces for program in programs_of(model))

    first, processor = timed(one)
    compiling = first
    for _ in range(PATIENCE):
        if not traced():
            compiling, processor = timed(one)
    if not traced():
        compiling = processor = math.nan
    later = [timed(one) for _ in range(3 if first > 5.0 or compiling > 5.0 else 7)]
    other = math.nan if case.jit_compile else timed(several)[0]
    tracing = sum(program.tracing for program in programs_of(model))
    running = statistics.median(processor for _, processor in later)
    return {
        "first": first,
        "compiling": compiling,
        "tracing": tracing if traced() else math.nan,
        "optimising": max(processor - tracing - running, 0.0),
        "later": statistics.median(seconds for seconds, _ in later),
        "other_batch": other,
    }
