"""The compiled programs of one model: what bounds, attacks and certification run again and again.

A program is found by what it computes, by everything that its code depends on, and by the shapes of
its arguments. It keeps none of the arguments, so that no call's inputs outlive the call.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras

from tfcert import backend
from tfcert.network import derived_from
from tfcert.types import Tensor

__all__ = ["PATIENCE", "Program", "Programs", "programs_of"]

# Programs that a model keeps; the one that was used longest ago makes room for a new one.
_MOST = 64

# To compile takes 3 to 15 times what a call takes that is carried out operation by operation. So
# the second call compiles, but where the first one took so many processor seconds, the fifth does.
_LONG, PATIENCE = 2.0, 4


class Program:
    """A function of tensors that is compiled when it comes back.

    Args:
        kind: What it computes, such as "bound".
        function: The function, which reads no tensors but its arguments and the model's weights.
        model: The model.
        jit_compile: Whether XLA compiles it; None: as the backend likes it.
        at_once: Whether first calls are carried out operation by operation: one, or a few where it
            takes long. To trace and optimise a program costs many times what one call saves.
        batch: The number of inputs that it is for; None where that does not matter.
        patience: How many calls are carried out operation by operation, if the first takes long.

    Attributes:
        calls: How often it was called.
        traces: How often it was traced.
        tracing: Processor seconds that tracing took.
    """

    def __init__(
        self,
        kind: str,
        function: Callable[..., Any],
        model: keras.Model,
        jit_compile: bool | None,
        at_once: bool,
        batch: int | None = None,
        patience: int = PATIENCE,
    ):
        self.kind, self.batch, self._patience = kind, batch, patience
        self.calls, self.traces, self.tracing = 0, 0, 0.0
        self._slow_calls = 1 if at_once and backend.runs_at_once() else 0
        self._function = function

        def counted(*arguments: Any) -> Any:
            self.traces += 1
            start = time.process_time()
            result = function(*arguments)
            self.tracing += time.process_time() - start
            return result

        self._compiled = backend.compile_for_one_form(counted, model, jit_compile)

    def __call__(self, *arguments: Any) -> Any:
        slowly = self.would_run_slowly
        self.calls += 1
        if not slowly:
            return self._compiled(*arguments)
        start = time.process_time()
        result = self._function(*arguments)
        if time.process_time() - start > _LONG:
            self._slow_calls = self._patience
        return result

    @property
    def is_compiled(self) -> bool:
        """Whether a call runs at once and fast."""
        return self.traces > 0

    @property
    def would_run_slowly(self) -> bool:
        """Whether the next call would be carried out operation by operation."""
        return self.calls < self._slow_calls

    def run_slowly(self, *arguments: Any) -> Any:
        """Carries out one call operation by operation, for callers with no time to compile."""
        self.calls += 1
        return self._function(*arguments)

    def leave_to_another(self) -> None:
        """Counts a call that another program answers."""
        self.calls += 1

    def __repr__(self) -> str:
        return f"<Program {self.kind}: {self.calls} calls, {self.traces} traces>"


class Programs:
    """The programs of one model that were used last.

    Example:

    >>> programs = tfcert.programs.programs_of(model)
    >>> for program in programs:
    ...     print(program.kind, program.calls, program.traces)
    bound 3 1
    """

    def __init__(self, model: keras.Model):
        self._kept: collections.OrderedDict[tuple, Program] = collections.OrderedDict()
        self._forgotten: collections.Counter[str] = collections.Counter()

    def get(
        self,
        model: keras.Model,
        kind: str,
        key: Hashable,
        make: Callable[[], Callable[..., Any]],
        arguments: Any,
        *,
        jit_compile: bool | None = None,
        at_once: bool = False,
        batch: int | None = None,
        patience: int = PATIENCE,
    ) -> Program:
        """The program for some arguments.

        Args:
            model: The model.
            kind: What the program computes.
            key: Everything else that its code depends on, such as the method and the region's
                signature.
            make: Makes the function; it is called for a new program only.
            arguments: What the program will be called with; only structure, shapes and types count.
            jit_compile: As for ``Program``.
            at_once: As for ``Program``.
            batch: As for ``Program``.
            patience: As for ``Program``.
        """
        place = (kind, key, _form(arguments))
        program = self._kept.pop(place, None)
        if program is None:
            program = Program(kind, make(), model, jit_compile, at_once, batch, patience)
            while len(self._kept) >= _MOST:
                _, oldest = self._kept.popitem(last=False)
                self._forgotten[oldest.kind] += oldest.traces
        self._kept[place] = program
        return program

    def compiled_batches(self, kind: str, key: Hashable) -> list[int]:
        """Numbers of inputs for which a computation is compiled, each once."""
        found = {
            program.batch
            for (of, under, _), program in self._kept.items()
            if (of, under) == (kind, key) and program.is_compiled
        }
        return sorted(batch for batch in found if batch is not None)

    def has_compiled(self, kind: str, key: Hashable, arguments: Any) -> bool:
        """Whether the program for some arguments is compiled."""
        program = self._kept.get((kind, key, _form(arguments)))
        return program is not None and program.is_compiled

    def traces(self, *kinds: str) -> int:
        """Returns the number of traced programs of some kinds, including dropped ones."""
        kept = sum(program.traces for program in self if program.kind in kinds)
        return kept + sum(self._forgotten[kind] for kind in kinds)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Program]:
        return iter(self._kept.values())

    def __repr__(self) -> str:
        return f"Programs({', '.join(map(repr, self))})"


def programs_of(model: keras.Model) -> Programs:
    """The programs of a model; none where the model was changed since they were made."""
    return derived_from(model).once(Programs)


def _form(arguments: Any) -> Hashable:
    """Structure, shapes and types of tensors."""
    return tuple(_leaf(value) for value in keras.tree.flatten(arguments))


def _leaf(value: Tensor) -> Hashable:
    shape = getattr(value, "shape", None)
    return None if shape is None else (tuple(shape), value.dtype)
