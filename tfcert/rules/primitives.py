"""The few kinds of nodes that bounds are propagated through.

Rules translate every Keras layer into a graph of these. A primitive knows its own value, interval
and backward step; it knows no method, and no layer but the one whose weights it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from tfcert.rules.interval import Interval
from tfcert.rules.rounding import rounding_error
from tfcert.rules.rows import Frame, Rows
from tfcert.rules.windows import Windowed
from tfcert.types import Tensor

__all__ = ["Affine", "Constant", "Input", "Node", "Nonlinear", "Primitive", "in_order"]


class Node:
    """One value of a network: a primitive applied to the values of other nodes.

    Attributes:
        primitive: The primitive that computes the value.
        inputs: The nodes that the primitive reads.
        shape: The shape of the value, without the batch axis.
        name: The name of the Keras layer behind the node, for messages.
        enclosure: Optional ``(function, nodes)``: ``function(*intervals of nodes)`` encloses the
            value too, and is intersected with the interval of the primitive.
    """

    __slots__ = ("enclosure", "inputs", "name", "primitive", "shape")

    def __init__(
        self,
        primitive: Primitive,
        inputs: Sequence[Node],
        shape: Sequence[int | None],
        name: str = "",
        enclosure: tuple[Callable[..., Interval], tuple[Node, ...]] | None = None,
    ):
        if any(size is None for size in shape):
            raise ValueError(
                f"Layer {name!r} has the output shape {tuple(shape)}; bounds need every size but "
                "the batch. Give keras.Input a fixed shape."
            )
        self.primitive = primitive
        self.inputs = tuple(inputs)
        self.shape = tuple(int(size) for size in shape)  # type: ignore[arg-type]
        self.name = name
        self.enclosure = enclosure

    def __repr__(self) -> str:
        return f"<{type(self.primitive).__name__} {self.name} {self.shape}>"


def in_order(outputs: Sequence[Node]) -> list[Node]:
    """The nodes that some depend on, each behind those that it reads."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(node, False) for node in reversed(outputs)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            sources = list(node.inputs) + list(node.enclosure[1] if node.enclosure else ())
            stack.extend((source, False) for source in reversed(sources) if source not in seen)
    return order


class Primitive:
    """The interface of nodes. ``p`` is the result of ``parameters`` in this evaluation."""

    # Whether it acts on the last axes alone, so that it takes values with more axes before them.
    takes_more_axes = False

    def parameters(self, dtype: str) -> Any:
        """Tensors read once per evaluation, cast to the type of the evaluation."""
        del dtype
        return ()

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        """The value of the node; values carry a batch axis."""
        raise NotImplementedError

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        """An interval that encloses ``apply(p, *x)`` for all x in the given ones."""
        raise NotImplementedError

    def workspace(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Numbers that ``interval`` makes for one sample, beside its inputs and its result.

        Args:
            shapes: The shapes of the inputs, without batch axis.
        """
        del shapes
        return 0

    def for_steps(self) -> Primitive:
        """The primitive for values with a further axis before all others."""
        return self

    def keeps_ends(self, p: Any) -> bool:
        """Whether entries are monotone functions of single entries of the input, so that tight
        ends of the input give tight ends of the value."""
        del p
        return False

    def lipschitz(
        self, p: Any, shapes: Sequence[tuple[int, ...]], *radii: Tensor
    ) -> Tensor | float:
        """Returns how far any entry of the value moves if entries of the inputs move by radii.

        The layer's declared l-inf Lipschitz factor: there is no default, and layers with weights
        that multiply have none, since a product of their norms says next to nothing.

        Args:
            p: Parameters.
            shapes: The shapes of the inputs, without batch axis.
            *radii: One number per sample for each input, ``(batch,)``.

        Returns:
            ``(batch,)``, or what broadcasts to it.
        """
        raise NotImplementedError(
            "declares no l-inf Lipschitz factor, so there is no margin rule for this model. Other "
            'methods need none, as method="ibp".'
        )

    def check(self, need: str) -> None:
        """Raises a NotImplementedError where the layer cannot give what a method needs right now.

        For answers that depend on variables, into which a compiled program cannot look.

        Args:
            need: "rounding" or "lipschitz".
        """
        del need

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor | None:
        """Returns the rounding error of an execution against ``apply`` (None: exact).

        Args:
            p: Parameters.
            unit: Unit roundoff of the arithmetic of the execution (2^-24 for float32).
            *magnitudes: Upper limits of ``abs`` of the inputs as executed; of the value itself
                where there are no inputs.

        Returns:
            A tensor that broadcasts against the value; infinite where the execution may overflow.
        """
        raise NotImplementedError(
            "has no rounding analysis: float_safe covers affine and piecewise-linear layers. "
            "Use float_safe=False."
        )


class Input(Primitive):
    """The input of the network."""

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        # Inputs of a region need not be floats: the execution rounds them first.
        return rounding_error(magnitudes[0], 1, unit)


class Constant(Primitive):
    """A value that does not depend on the input: an array, a variable, or a function without
    arguments that is called at every evaluation."""

    def __init__(self, value: Any):
        self.value = value

    def read(self) -> Tensor:
        """The value, as it is now."""
        return ops.convert_to_tensor(self.value() if callable(self.value) else self.value)

    def parameters(self, dtype: str) -> Tensor:
        return ops.cast(self.read(), dtype)[None]

    def apply(self, p: Any, *values: Tensor) -> Tensor:
        return p

    def interval(self, p: Any, *intervals: Interval) -> Interval:
        return Interval.from_ends(p, p)

    def lipschitz(self, p: Any, shapes: Sequence[tuple[int, ...]], *radii: Tensor) -> float:
        return 0.0

    def rounding(self, p: Any, unit: float, *magnitudes: Tensor) -> Tensor:
        return rounding_error(magnitudes[0], 1, unit)


class Affine(Primitive):
    """A primitive that is jointly affine in its inputs: ``f(x) = W x + f(0)``."""

    def bias(self, p: Any) -> Tensor | None:
        """``f(0)``, broadcastable against the output without its batch axis; None where it is 0."""
        return None

    def transpose(
        self, p: Any, coefficients: Tensor, shapes: Sequence[tuple[int, ...]]
    ) -> Sequence[Tensor]:
        """``W^T a``, one tensor per input: ``(n, *out)`` to ``(n, *in)``.

        Args:
            p: Parameters.
            coefficients: Tensor of shape ``(n, *output_shape)``.
            shapes: The shapes of the inputs, without batch axis.
        """
        raise NotImplementedError

    def prepare(self, p: Any) -> None:
        """Adds to the parameters what ``transpose`` reads, so that loops need not make it anew."""
        del p

    # How the primitive acts on rows that are windows of a feature map; None where not known.
    windowed: Windowed | None = None

    def transpose_window(
        self,
        p: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
        prepared: Any = None,
    ) -> Sequence[Rows]:
        """``W^T a`` for windowed rows, whose entries outside of the map are 0 already."""
        del frame
        assert self.windowed is not None
        kernel = p["kernel"] if isinstance(p, dict) else None
        return self.windowed.transpose(kernel, rows, shapes, prepared)


class Nonlinear(Primitive):
    """A primitive that is enclosed between affine functions of its inputs."""

    # Whether a row may choose among many such functions, by numbers in [-1, 1]: see ``turned``.
    turns = False

    def unstable(self, p: Any, *intervals: Interval) -> Sequence[Tensor]:
        """Per input, where tighter bounds would tighten the relaxation (boolean)."""
        raise NotImplementedError

    def relax(self, p: Any, slope: str, *intervals: Interval) -> Any:
        """Tensors (each with the batch axis) that describe affine bounds on the intervals."""
        raise NotImplementedError

    def backward(
        self,
        p: Any,
        relaxation: Any,
        rows: Rows,
        frame: Frame,
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[Sequence[Rows], Tensor]:
        """Replaces ``a . f(x)`` by an affine lower bound of it.

        Returns:
            Rows for each input, and the constant term, ``(groups, rows)``.
        """
        raise NotImplementedError

    def turn(self, tables: Any, rows: Rows, frame: Frame, shapes: Any) -> list[Tensor]:
        """The one or two tensors of numbers that `backward` takes, ``(groups, rows, ...)``.

        Args:
            tables: Centre and radius of each input, as sample tables.
            rows: As for `backward`.
            frame: As for `backward`.
            shapes: As for `backward`.
        """
        raise NotImplementedError

    def turned(
        self, numbers: Sequence[Tensor], tables: Any, rows: Rows, frame: Frame, shapes: Any
    ) -> tuple[Sequence[Rows], Tensor]:
        """What `backward` gives, by the functions of other numbers; see `turn`."""
        raise NotImplementedError
