"""A Keras model as a graph of primitives: what every bound method works on."""

from __future__ import annotations

import copy
import math
import os
import warnings
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import keras
from keras import ops

from tfcert import backend, graph, tracing
from tfcert.rules import registry
from tfcert.rules.linear import Rearrange, Scale
from tfcert.rules.nonlinear import Elementwise, Opaque
from tfcert.rules.primitives import Constant, Input, Node, Nonlinear, in_order
from tfcert.rules.rows import Window, covers, union
from tfcert.rules.windows import Shift, Sliding

__all__ = ["Derived", "Network", "checked_model", "derived_from", "network_of", "readable"]

T = TypeVar("T")


class Network:
    """The nodes of a model in an order in which they can be computed.

    Attributes:
        nodes: All nodes that the outputs depend on, inputs before outputs.
        input: The input node.
        outputs: The output nodes, in the structure of the model's outputs.
        dtype: The float type of the model's weights, in which its bounds are computed.
        reduced: The shorter type that a policy such as mixed_float16 makes it compute in, whose
            rounding bounds do not cover; "" for none.
        size: Entries of all values.
        largest: Entries of the largest value.
        foreign: Names of layers whose code is not Keras's or whose rule is the user's: what they
            compute is known, but not in which steps.
    """

    def __init__(self, model: keras.Model):
        if len(getattr(model, "inputs", None) or [None]) != 1:
            raise NotImplementedError(
                f"Model {model.name!r} has {len(model.inputs)} inputs, and this is for models with "
                "one. Bounds, attacks, training, certify, verify and the export take a region for "
                "each; or concatenate the inputs, and split them inside the model."
            )
        self.name = model.name
        self.dtype, self.reduced = graph.types_of(model)
        shape = tuple(model.inputs[0].shape)[1:]
        self.input = Node(Input(), (), shape, name=model.inputs[0].name)

        self.foreign: list[str] = []

        def visit(operation: Any, args: tuple, kwargs: dict, specs: list) -> Any:
            if tracing.is_hidden(operation):
                tracing.explain(operation, *keras.tree.map_structure(self._symbol, (args, kwargs)))
            result = registry.lower(operation, args, kwargs)
            if not registry.is_own(operation):
                self.foreign.append(operation.name)
            for node, spec in zip(keras.tree.flatten(result), specs, strict=True):
                _claim(node, operation)
                expected = tuple(spec.shape)[1:]
                # A nested model may leave sizes open that are known here.
                if len(node.shape) != len(expected) or any(
                    size not in (None, own) for size, own in zip(expected, node.shape, strict=True)
                ):
                    raise AssertionError(
                        f"The rule for layer {operation.name!r} gives shape {node.shape}, the "
                        f"layer {expected}. Report this as a bug of the rule."
                    )
            return result

        self._take(graph.interpret(model, [self.input], visit))

    def with_outputs(self, outputs: Any) -> Network:
        """Returns a network of the same model that writes the outputs with other nodes."""
        other = copy.copy(self)
        other._take(outputs)
        return other

    def _take(self, outputs: Any) -> None:
        self.outputs = outputs
        self.nodes = in_order(keras.tree.flatten(outputs))
        if self.input not in self.nodes:
            self.nodes.insert(0, self.input)
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self._facts()

    def _symbol(self, value: Any) -> Any:
        """A symbolic tensor for a node, for layers that are called on it."""
        if not isinstance(value, Node):
            return value
        return keras.KerasTensor((None, *value.shape), self.dtype)

    def _facts(self) -> None:
        """What methods ask of each node, found once."""
        self.spatial: dict[Node, int] = {}
        self.mixing: dict[Node, int] = {}
        # Nodes behind no other part of the input than intervals: their inputs form a box.
        self.boxed: dict[Node, bool] = {}
        self.reads: dict[Node, list[tuple[Node, int]]] = {node: [] for node in self.nodes}
        self._single: dict[Node, bool] = {}
        for node in self.nodes:
            self.spatial[node] = self._spatial_rank(node)
            self.mixing[node], self._single[node] = self._mixing(node)
            cut = isinstance(node.primitive, Opaque | Constant)
            sources = [self.boxed[source] for source in node.inputs]
            self.boxed[node] = cut or (bool(sources) and all(sources))
            if isinstance(node.primitive, Nonlinear):
                for place, source in enumerate(node.inputs):
                    self.reads[source].append((node, place))
        # Whether some node is bounded by rows that begin with a window.
        begins = [*self.needing_bounds(), *keras.tree.flatten(self.outputs)]
        self.has_windows = any(self.spatial[node] for node in begins)
        sizes = [math.prod(node.shape) for node in self.nodes]
        self.largest, self.size = max(sizes), sum(sizes)
        self.workspace = max(
            node.primitive.workspace([source.shape for source in node.inputs])
            for node in self.nodes
        )

    def _mixing(self, node: Node) -> tuple[int, bool]:
        """How many layers that mix entries lie before a node; -1: it is behind a nonlinear one.

        An interval is exact behind one such layer, unless that reads some entry of the input
        twice, which counts as two. Also: whether no entry of the input appears twice in the node.
        Nodes of which only the interval is known count as inputs.
        """
        primitive = node.primitive
        sources = [s for s in node.inputs if not isinstance(s.primitive, Constant)]
        before = [self.mixing[source] for source in sources]
        if isinstance(primitive, Opaque):
            return 0, True
        if isinstance(primitive, Nonlinear) or -1 in before:
            return -1, False
        if isinstance(primitive, Input | Constant) or not sources:
            return 0, True
        single = len(sources) == 1 and self._single[sources[0]]
        if isinstance(primitive, Scale):
            return before[0], single
        if isinstance(primitive, Rearrange) and primitive.terms == 1:
            grows = primitive.repeats or math.prod(node.shape) > math.prod(sources[0].shape)
            pads = isinstance(primitive.windowed, Shift)
            return max(before), single and (pads or not grows)
        return max(1 + max(before), 1 if single else 2), single

    def _spatial_rank(self, node: Node) -> int:
        """Number of leading axes along which the node is a map of windows; 0: none."""
        primitive, inputs = node.primitive, [self.spatial[source] for source in node.inputs]
        windowed = getattr(primitive, "windowed", None)
        if isinstance(windowed, Sliding):
            return len(windowed.stride)
        if windowed is None and not isinstance(primitive, Elementwise):
            return 0
        return inputs[0] if inputs and len(set(inputs)) == 1 else 0

    def windows(self, node: Node) -> dict[Node, tuple[Window, tuple[int, ...]] | None]:
        """What a sweep from one neuron of a node carries at each ancestor, before it is run.

        Returns:
            The window and its extent, or None where the rows cover the whole value.
        """
        rank = self.spatial[node]
        start = (Window((1,) * rank, (0,) * rank), (1,) * rank) if rank else None
        result: dict[Node, tuple[Window, tuple[int, ...]] | None] = {node: start}
        for current in self.ancestors(node):
            here = result[current]
            if here is not None and covers(here[1], current.shape):
                here = result[current] = None
            primitive = current.primitive
            if here is not None and not isinstance(primitive, Elementwise):
                windowed = getattr(primitive, "windowed", None)
                here = None if windowed is None else windowed.moved(*here)
            for source in current.inputs:
                known = result.get(source, here)
                result[source] = None if known is None or here is None else union(known, here)
        return result

    def widest(self, node: Node) -> int:
        """Entries of the largest tensor that a sweep from one neuron of a node meets."""
        sizes = []
        for current, here in self.windows(node).items():
            extent = current.shape if here is None else here[1]
            sizes.append(math.prod(extent) * math.prod(current.shape[len(extent) :]))
        return max(sizes)

    def check(self, need: str) -> None:
        """Raises a NotImplementedError where a layer cannot give what a method needs right now.

        Args:
            need: "rounding" or "lipschitz".
        """
        for node in self.nodes:
            try:
                node.primitive.check(need)
            except NotImplementedError as reason:
                raise NotImplementedError(f"Layer {node.name!r}: {reason}") from reason

    def needing_bounds(self) -> list[Node]:
        """Nodes that a nonlinear node reads: those whose bounds shape its relaxation."""
        return [node for node in self.nodes if self.reads[node]]

    def behind(self, starts: set[Node]) -> list[Node]:
        """The nodes that the outputs depend on where the network starts at some, in order."""
        if not starts:
            return self.nodes
        wanted = set(keras.tree.flatten(self.outputs))
        for node in reversed(self.nodes):
            if node in wanted and node not in starts:
                wanted.update(node.inputs)
                wanted.update(node.enclosure[1] if node.enclosure else ())
        return [node for node in self.nodes if node in wanted]

    def ancestors(self, node: Node) -> list[Node]:
        """All nodes that a node depends on, itself included, in reverse order."""
        wanted, found = {node}, []
        for candidate in reversed(self.nodes[: self.index[node] + 1]):
            if candidate in wanted:
                found.append(candidate)
                wanted.update(candidate.inputs)
        return found


def _claim(node: Node, operation: Any) -> None:
    """Names all new nodes behind one layer after it."""
    stack = [node]
    while stack:
        top = stack.pop()
        if not top.name and not isinstance(top.primitive, Input):
            top.name = operation.name
            stack.extend(top.inputs)
            if top.enclosure is not None:
                stack.extend(top.enclosure[1])


class Derived:
    """Objects derived from a model: its network, compiled programs, models of its parts.

    It is kept on the model itself and gone with it. (A dictionary that is keyed weakly by the model
    would hold its keys: compiled programs refer to the model.) It is made anew where a layer or an
    attribute of a layer was replaced since.
    """

    def __init__(self, model: keras.Model):
        self.settings = graph.Settings(model)
        self._model = weakref.ref(model)
        self._made: dict[Callable[..., Any], Any] = {}

    def once(self, make: Callable[[keras.Model], T]) -> T:
        """``make(model)``, which is computed the first time only."""
        if make not in self._made:
            model = self._model()
            assert model is not None
            self._made[make] = make(model)
        return self._made[make]

    @property
    def network(self) -> Network:
        """The model's graph of primitives."""
        return self.once(_network)


def derived_from(model: keras.Model) -> Derived:
    """Returns the objects derived from a model, created anew only after a change of the model."""
    known = model.__dict__.get("_tfcert_derived")
    if known is None or not known.settings.hold(model):
        known = Derived(model)
        object.__setattr__(model, "_tfcert_derived", known)  # Past Keras's tracking.
    return known


def _network(model: keras.Model) -> Network:
    with backend.eagerly():  # Shapes are found by running layers, which needs numbers.
        network = Network(model)
    if network.reduced:
        warnings.warn(
            f"Model {model.name!r} computes in {network.reduced}. The bounds are computed in "
            f"{network.dtype} with the same weights, and do not cover rounding to "
            f"{network.reduced}.",
            stacklevel=2,
        )
    return network


def _readable(model: keras.Model) -> keras.Model:
    with backend.eagerly():
        return tracing.readable(model)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def checked_model(model: Any, x: Any = None) -> keras.Model:
    """A built model whose layers tell what it computes; raises where there is none.

    Args:
        model: What the user gave. A model that is written as a class, and layers of the user's own,
            are read: the result then is a functional model of the same variables.
        x: Inputs, to build a model with that is written as a class and was not called yet.
    """
    return readable(model, x)[0]


def readable(model: Any, x: Any = None) -> tuple[keras.Model, Derived]:
    """``checked_model``, with the objects derived from it."""
    if not isinstance(model, keras.Model):
        file = f" Load it first: keras.models.load_model({model!r})." if _is_path(model) else ""
        raise ValueError(
            f"`model` must be a keras.Model. Received: {model!r} (of type {type(model).__name__})."
            f"{file}"
        )
    if isinstance(model, keras.Sequential) and not (model.built and model.layers):
        raise ValueError(
            f"Model {model.name!r} is not built, so its shapes are unknown. Start it with "
            "keras.Input(shape), or call model.build((None, ...)) or the model on data first."
        )
    if x is not None and not graph.wants_walk(model):
        several = all(hasattr(part, "shape") for part in keras.tree.flatten(x))
        parts = x if several else ops.convert_to_tensor(x)
        graph.note_shapes(model, parts)
        if not model.built:
            with backend.eagerly():
                model(keras.tree.map_structure(lambda part: part[:1], parts), training=False)
    derived = derived_from(model)
    found = derived.once(_readable)
    return found, derived if found is model else derived_from(found)


def network_of(model: Any) -> Network:
    """The network of a model, built anew only where the model was changed."""
    return readable(model)[1].network
