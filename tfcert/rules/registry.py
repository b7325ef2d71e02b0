"""The registry of rules by layer class.

The contract of a rule: it builds, from the nodes of a layer's inputs, nodes that compute what
``layer.call`` computes at inference. Every bound then follows from the primitives.

A layer is looked up by its *exact* class. A subclass may override ``call``, and the rule of its
base class would then bound another function; so a subclass needs its own registration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcert import graph
from tfcert.relaxations import Curve
from tfcert.rules import advice
from tfcert.rules.linear import Declared
from tfcert.rules.nonlinear import Elementwise, Opaque
from tfcert.rules.primitives import Node, Primitive
from tfcert.types import Bounds, Tensor

__all__ = [
    "CarriesRule",
    "apply",
    "has_rule",
    "lower",
    "lower_held",
    "register_activation",
    "register_affine",
    "register_monotone",
    "register_rule",
    "registered",
    "unreadable",
]

# rule(layer, *args, **kwargs) -> Node (or one per output), with nodes in place of tensors in args.
Rule = Callable[..., Any]

_RULES: dict[Any, Rule] = {}

# Where to register a rule, and what works without one.
_HINT = (
    "Or register a rule with tfcert.register_rule, register_affine, register_activation or "
    "register_monotone, or give the layer a method propagate_interval(bounds): "
    f"docs/adding_a_rule.md shows each. {advice.ANYWAY}"
)


class CarriesRule:
    """A layer of tfcert's own that is no part of users' models, and needs no entry of its class."""

    def nodes(self, *values: Node) -> Any:
        """Returns the layer's output from the nodes of its inputs."""
        raise NotImplementedError


def register_rule(layer_class: type | str | Callable[..., Any], rule: Rule) -> None:
    """Registers how a layer is built from nodes.

    Args:
        layer_class: The exact class of the layer (or of a ``keras.ops`` operation).
        rule: ``rule(layer, *args, **kwargs) -> Node``, with the arguments of ``layer.call`` and a
            ``tfcert.rules.Node`` in place of every tensor. A rule combines the functions of
            ``tfcert.rules``: ``activation``, ``multiply``, ``add``, ``dense`` ...

    Example:

    >>> class Gate(keras.layers.Layer):
    ...     def call(self, x):
    ...         return x * keras.ops.sigmoid(x)
    >>> tfcert.register_rule(
    ...     Gate, lambda layer, x: rules.multiply(x, rules.activation("sigmoid", x))
    ... )
    """
    if isinstance(layer_class, keras.layers.Layer):
        raise ValueError(
            "Rules are registered for a class of layers, not for one layer. "
            f"Received: {layer_class!r}."
        )
    if layer_class in _RULES:
        raise ValueError(
            f"A rule for {_label(layer_class)} is registered already. Two rules for one class "
            "would make bounds depend on the order of imports; subclass the layer instead."
        )
    _RULES[layer_class] = rule


def register_affine(layer_class: type, radius: Callable[[Any, Tensor], Tensor]) -> None:
    """Registers a layer whose ``call(x)`` is affine: ``W x + b``.

    Args:
        layer_class: The exact class.
        radius: ``radius(layer, r) = |W| r`` for ``r >= 0``. There is no default, because a wrong
            radius would make bounds unsound.

    Example:

    >>> tfcert.register_affine(MyScale, radius=lambda layer, r: keras.ops.abs(layer.scale) * r)
    """

    def rule(layer: Any, x: Node) -> Node:
        return apply(Declared(layer.call, lambda r: radius(layer, r), x.shape), x)

    register_rule(layer_class, rule)


def register_monotone(layer_class: type, *, decreasing: bool = False) -> None:
    """Registers a layer with one input whose outputs are all monotone in every input.

    Interval bounds are then ``call`` at both ends. Linear bounds start anew after the layer.

    Args:
        layer_class: The exact class.
        decreasing: Whether outputs fall if inputs rise.
    """

    def rule(layer: Any, x: Node) -> Node:
        def bounds(b: Bounds) -> Bounds:
            ends = layer.call(b.lower), layer.call(b.upper)
            return Bounds(*(reversed(ends) if decreasing else ends))

        return apply(Opaque(layer.call, bounds), x)

    register_rule(layer_class, rule)


def register_activation(function: Callable[..., Any] | type, curve: Curve) -> None:
    """Registers an elementwise function or layer by its curve.

    Args:
        function: The function that users pass as ``activation=``, or the exact class of a layer.
        curve: A ``tfcert.relaxations.Curve`` with the properties of the scalar function.
    """
    if isinstance(function, type):
        register_rule(function, lambda layer, x: apply(Elementwise(curve), x))
    else:
        register_rule(function, lambda x: apply(Elementwise(curve), x))


def registered() -> dict[Any, Rule]:
    """Returns all rules, by exact layer class, operation or activation function."""
    return dict(_RULES)


def apply(primitive: Primitive, *inputs: Node, enclosure: Any = None) -> Node:
    """The node of a primitive; its shape is found by running it once on zeros."""
    if isinstance(primitive, Elementwise):
        shape: tuple = inputs[0].shape
    else:
        dtype = keras.config.floatx()
        zeros = [ops.zeros((1, *node.shape), dtype) for node in inputs]
        shape = tuple(primitive.apply(primitive.parameters(dtype), *zeros).shape)[1:]
    return Node(primitive, inputs, shape, enclosure=enclosure)


def lower(operation: Any, args: tuple, kwargs: dict) -> Any:
    """Builds the nodes of one call of a layer or operation.

    Raises:
        NotImplementedError: Where no rule fits; the message names the layer and what to do.
    """
    if isinstance(operation, keras.layers.Layer):
        kwargs = {k: v for k, v in kwargs.items() if k not in ("training", "mask")}
    own = _own_rule(operation)
    rule = own if own is not None else _RULES.get(_key(operation))
    if rule is None:
        raise NotImplementedError(_unsupported(operation))
    try:
        if not isinstance(operation, keras.layers.Layer):
            args, kwargs = keras.tree.map_structure(_operand, (args, kwargs))
        return rule(operation, *args, **kwargs)
    except NotImplementedError as error:
        if repr(operation.name) in str(error):
            raise
        raise NotImplementedError(
            f"Layer {operation.name!r} ({type(operation).__name__}): {error}"
        ) from error


def lower_held(operation: Any, args: tuple, kwargs: dict) -> Any:
    """Builds the nodes of an operation on nodes and on variables that a layer holds."""

    def operand(value: Any) -> Any:
        return value if isinstance(value, keras.Variable) else _operand(value)

    args, kwargs = keras.tree.map_structure(operand, (args, kwargs))
    return _RULES[_key(operation)](operation, *args, **kwargs)


def has_rule(operation: Any) -> bool:
    """Whether a layer or an operation has a rule, or a layer its own method for bounds."""
    if isinstance(operation, CarriesRule) or _key(operation) in _RULES:
        return True
    return getattr(type(operation), "propagate_interval", None) is not None


def _operand(value: Any) -> Any:
    """What an operation outside of any layer is called on: nodes and constants."""
    if isinstance(value, keras.Variable):
        raise NotImplementedError(
            f"it uses the variable {value.name!r} outside of any layer, and would not see it "
            "change. Put it into a layer."
        )
    return ops.convert_to_numpy(value) if ops.is_tensor(value) else value


def is_own(operation: Any) -> bool:
    """Whether Keras or tfcert wrote a layer, its cells and wrapped layers, and all their rules."""
    whole = isinstance(operation, keras.layers.Layer)
    inner = graph.layers_of(operation) if whole else []
    parts = [part for layer in (operation, *inner) for part in _authored(layer)]
    modules = (getattr(part, "__module__", None) or "tfcert." for part in parts)
    return all(module.startswith(("keras.", "tfcert.")) for module in modules)


def _authored(operation: Any) -> list[Any]:
    """What decides which steps an operation takes: its class, its rule, its activations."""
    functions = [getattr(operation, n, None) for n in ("activation", "recurrent_activation")]
    kinds = [type(f) if isinstance(f, keras.layers.Layer) else f for f in functions]
    return [type(operation), _RULES.get(_key(operation)), *(k for k in kinds if k is not None)]


def _key(operation: Any) -> Any:
    """Layers by their class; keras.ops operations by module and name, since they are private."""
    kind = type(operation)
    if kind in _RULES or isinstance(operation, keras.layers.Layer):
        return kind
    if graph.is_operation_of_keras(kind):
        return f"keras.ops.{kind.__name__}"
    return kind


def _own_rule(layer: Any) -> Rule | None:
    """The rule that a layer of the user's own carries as a method."""
    kind = type(layer)
    if isinstance(layer, CarriesRule):
        return kind.nodes
    if getattr(kind, "propagate_interval", None) is None:
        return None
    owner = {
        name: next(c for c in kind.__mro__ if name in c.__dict__)
        for name in ("propagate_interval", "call")
    }
    if not issubclass(owner["propagate_interval"], owner["call"]):
        raise NotImplementedError(
            f"Layer {layer.name!r} ({kind.__name__}) overrides `call` but inherits "
            f"`propagate_interval` from {owner['propagate_interval'].__name__}, which bounds "
            "another function. Override `propagate_interval` too."
        )
    return _opaque_rule


def _opaque_rule(layer: Any, *args: Any, **kwargs: Any) -> Node:
    """The node of a layer with ``propagate_interval``, which takes what ``call`` takes."""
    given = keras.tree.flatten((args, kwargs))
    nodes = [value for value in given if isinstance(value, Node)]

    def spread(function: Callable) -> Callable:
        def call(*values: Any) -> Any:
            rest = iter(values)
            filled = [next(rest) if isinstance(value, Node) else value for value in given]
            args_, kwargs_ = keras.tree.pack_sequence_as((args, kwargs), filled)
            return function(*args_, **kwargs_)

        return call

    return apply(Opaque(spread(layer.call), spread(layer.propagate_interval)), *nodes)


def _unsupported(operation: Any) -> str:
    todo = advice.advice_on(operation, otherwise=_base_hint(operation))
    return (
        f"Layer {operation.name!r} ({type(operation).__name__}) has no bound rule. {todo} {_HINT}"
    )


def unreadable(operation: Any, why: str) -> str:
    """Says why the ``call`` of a layer could not be read, and what to do."""
    whole = "Model" if isinstance(operation, keras.Model) else "Layer"
    todo = _base_hint(operation) or "Write that part with keras.ops and layers of Keras."
    return (
        f"{whole} {operation.name!r} ({type(operation).__name__}) has no bound rule, and its call "
        f"cannot be read on symbolic inputs: {why} {todo} {_HINT}"
    )


def _base_hint(operation: Any) -> str:
    """What to do where the class of a layer stems from one that has a rule; "" for others."""
    kind = type(operation).__name__
    base = next((c.__name__ for c in type(operation).__mro__[1:] if c in _RULES), None)
    if base is None:
        return ""
    return (
        f"Its base class {base} has a rule, but a subclass may compute something else; if it does "
        f"not, register the rule for {kind} too."
    )


def _label(key: Any) -> str:
    return getattr(key, "__name__", str(key))
