"""Time and memory of calls, each side of a comparison in a process of its own.

A row of the table starts one fresh process per side. The processes take turns in short bursts, so
that a slow minute of the machine meets both; while one works, the other waits on its pipe. Two
libraries in two processes share neither a thread pool nor an allocator, so the memory of each is
its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Failed", "Measurement", "Side", "call_once", "measure", "probe"]

_CONTEXT = multiprocessing.get_context("spawn")
_STARTUP_SECONDS = 180.0  # Importing and building; compilation counts as the first call.
_POLL_SECONDS = 0.2
_ROUNDS = 3
_MEGABYTE = 2.0**20


@dataclasses.dataclass
class Measurement:
    """What one side of one row came to. Times in ms, memory in MB."""

    first: float = math.nan  # The first call in a fresh process, with tracing and compilation.
    median: float = math.nan
    fastest: float = math.nan
    low: float = math.nan  # Quartiles.
    high: float = math.nan
    calls: int = 0
    memory: float = math.nan  # Peak in later calls above what was resident before the first.
    memory_first: float = math.nan  # The same for the first call.
    memory_total: float = math.nan  # Peak of the whole process in later calls.
    memory_device: float = math.nan  # Peak on an accelerator, where its library tells.
    failure: str = ""
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None

    def row(self) -> dict[str, Any]:
        """The scalar fields."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if f.name not in ("lower", "upper")}


class Failed(Exception):
    """A side that cannot go on: its process died, ran out of its limits or raised."""


def _status_kilobytes(field: str, process: int | str = "self") -> float:
    for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return float(line.split()[1])
    return math.nan


def _resident() -> float:
    """Megabytes resident now."""
    return _status_kilobytes("VmRSS") / 1024


def _peak() -> float:
    """Highest megabytes resident since `_reset_peak`."""
    return _status_kilobytes("VmHWM") / 1024


def _reset_peak() -> None:
    # Linux: "5" sets the high-water mark VmHWM back to what is resident now.
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def _serve(connection: Any, threads: int, log: str) -> None:
    """The process of one side: prepares a case, then calls it as often as it is told."""
    # The libraries' chatter, also that of their C++ parts, stays out of the table.
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    with contextlib.suppress(OSError):
        # Of all processes on the machine, this one is to go when memory runs out.
        pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        side, case = connection.recv()
        module = importlib.import_module(side)
        if case is None:
            connection.send(module.facts())
            return
        call = module.prepare(case)
        result = None
        before = _resident()
        first_peak = math.nan
        connection.send(None)
        while True:
            request, *arguments = connection.recv()
            if request == "first":
                _reset_peak()
                start = time.perf_counter()
                result = call()
                seconds = time.perf_counter() - start
                first_peak = _peak()
                _reset_peak()
                connection.send(seconds)
            elif request == "burst":
                count, seconds = arguments
                end = time.perf_counter() + seconds
                times: list[float] = []
                while len(times) < count and (not times or time.perf_counter() < end):
                    start = time.perf_counter()
                    result = call()
                    times.append(time.perf_counter() - start)
                connection.send(times)
            elif request == "result":
                peak = _peak()
                device = module.device_peak_bytes()
                memory = {
                    "memory": peak - before,
                    "memory_first": first_peak - before,
                    "memory_total": peak,
                    "memory_device": math.nan if device is None else device / _MEGABYTE,
                }
                connection.send((result, memory))
                return
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        connection.send(Failed(text[:300]))


class Side:
    """One process and the pipe to it."""

    def __init__(self, side: str, case: Any, threads: int, max_memory_gb: float) -> None:
        self.measurement = Measurement()
        self.times: list[float] = []
        self.spent = 0.0
        self._max_kilobytes = max_memory_gb * 2**20
        self._connection, remote = _CONTEXT.Pipe()
        descriptor, name = tempfile.mkstemp(suffix=".log")
        os.close(descriptor)
        self._log = pathlib.Path(name)
        self._process = _CONTEXT.Process(target=_serve, args=(remote, threads, name), daemon=True)
        self._process.start()
        remote.close()
        with contextlib.suppress(OSError):  # A broken pipe shows itself in the answer.
            self._connection.send((side, case))

    def wait(self, seconds: float) -> Any:
        """The next message of the process, which may take that long and no more memory."""
        end = time.perf_counter() + seconds
        while not self._connection.poll(_POLL_SECONDS):
            try:
                resident = _status_kilobytes("VmRSS", self._process.pid or 0)
            except OSError:
                break  # It has ended: what it sent last, if anything, is read below.
            if resident > self._max_kilobytes:
                raise Failed(f"held more than {self._max_kilobytes / 2**20:g} GB")
            if time.perf_counter() > end:
                raise Failed(f"no answer within {seconds:.0f} s")
        try:
            reply = self._connection.recv()
        except EOFError:
            self._process.join()
            log = self._log.read_text(errors="replace").split("\n")
            last = " ".join([line.strip() for line in log if line.strip()][-1:])
            text = f"process ended with exit code {self._process.exitcode}: {last}"
            raise Failed(text[:300]) from None
        if isinstance(reply, Failed):
            raise reply
        return reply

    def ask(self, seconds: float, *request: Any) -> Any:
        """Sends a request and waits for its answer."""
        with contextlib.suppress(OSError):  # A broken pipe shows itself in the answer.
            self._connection.send(request)
        return self.wait(seconds)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._log.unlink(missing_ok=True)


def probe(side: str, threads: int) -> dict[str, str] | str:
    """The facts of a side, or why it cannot run."""
    process = Side(side, None, threads, math.inf)
    try:
        return process.wait(_STARTUP_SECONDS)
    except Failed as failure:
        return str(failure)
    finally:
        process.close()


def _answer(connection: Any, threads: int, log: str) -> None:
    """The process of ``call_once``."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        module, case = connection.recv()
        connection.send(importlib.import_module(module).measure(case))
    except Exception as error:
        connection.send(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def call_once(module: str, case: Any, threads: int, seconds: float = 300.0) -> Any:
    """Runs ``measure(case)`` of a module in a fresh process; returns a text where it fails."""
    connection, remote = _CONTEXT.Pipe()
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = _CONTEXT.Process(target=_answer, args=(remote, threads, log.name), daemon=True)
        process.start()
        remote.close()
        try:
            connection.send((module, case))
            if not connection.poll(seconds):
                return f"no answer within {seconds:.0f} s"
            return connection.recv()
        except (EOFError, OSError):
            return "the process ended"
        finally:
            process.kill()
            process.join()


def measure(
    sides: Sequence[str],
    case: Any,
    threads: int,
    repeats: int,
    warmup: int,
    max_seconds: float,
    max_memory_gb: float,
) -> dict[str, Measurement]:
    """Runs one case on every side, interleaved.

    Args:
        sides: Modules with `prepare(case)`, which returns a function of no arguments that returns
            two NumPy arrays, and with `device_peak_bytes()`.
        case: What the sides prepare; it travels to their processes by pickle.
        threads: Processor cores that a side may use.
        repeats: Timed calls per side at most.
        warmup: Calls after the first that are not timed.
        max_seconds: Per side; after it no further call starts. A single call may take four times
            as long before its process is ended.
        max_memory_gb: Resident memory at which a side's process is ended.
    """
    patience = 4 * max_seconds
    processes = {side: Side(side, case, threads, max_memory_gb) for side in sides}
    running = dict(processes)

    def each(action: Any) -> None:
        for name, side in list(running.items()):
            try:
                action(side)
            except Failed as failure:
                side.measurement.failure = str(failure)
                side.close()
                del running[name]

    def first(side: Side) -> None:
        seconds = side.ask(patience + _STARTUP_SECONDS, "first")
        side.measurement.first = 1e3 * seconds

    def warm(side: Side) -> None:
        if warmup:
            side.spent += sum(side.ask(patience, "burst", warmup, max_seconds / 4))

    def burst(side: Side) -> None:
        left = max_seconds - side.spent
        count = min(math.ceil(repeats / _ROUNDS), repeats - len(side.times))
        if count > 0 and (left > 0 or not side.times):
            times = side.ask(patience, "burst", count, left)
            side.times += times
            side.spent += sum(times)

    def finish(side: Side) -> None:
        (lower, upper), memory = side.ask(_STARTUP_SECONDS, "result")
        side.measurement = dataclasses.replace(
            side.measurement, lower=lower, upper=upper, calls=len(side.times), **memory
        )

    try:
        each(lambda side: side.wait(_STARTUP_SECONDS))
        each(first)
        each(warm)
        for _ in range(_ROUNDS):
            each(burst)
        each(finish)
        for side in processes.values():
            if side.times:
                milliseconds = [1e3 * seconds for seconds in side.times]
                side.measurement.median = statistics.median(milliseconds)
                side.measurement.fastest = min(milliseconds)
                low, high = np.percentile(milliseconds, (25, 75))
                side.measurement.low, side.measurement.high = float(low), float(high)
        return {name: side.measurement for name, side in processes.items()}
    finally:
        for side in running.values():
            side.close()
