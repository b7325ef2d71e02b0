"""Rules: how each Keras layer is built from the primitives that bounds pass through.

To give a layer of your own a rule, compose the functions of this module:

>>> from tfcert import rules
>>> tfcert.register_rule(Gate, lambda layer, x: rules.multiply(x, rules.activation("sigmoid", x)))
"""

from tfcert.rules import (
    activations,
    attention,
    distance,
    kernels,
    merging,
    moves,
    normalization,
    operators,
    own_statistics,
    pooling,
    quantized,
    recurrent,
    shape,
    wrappers,
)
from tfcert.rules.building import (
    activation,
    add,
    curve,
    dense,
    einsum,
    log_softmax,
    matmul,
    maximum,
    minimum,
    multiply,
    rearrange,
    reduce_max,
    scale,
    softmax,
    subtract,
)
from tfcert.rules.primitives import Node
from tfcert.rules.registry import (
    register_activation,
    register_affine,
    register_monotone,
    register_rule,
    registered,
)

__all__ = [
    "Node",
    "activation",
    "add",
    "curve",
    "dense",
    "einsum",
    "log_softmax",
    "matmul",
    "maximum",
    "minimum",
    "multiply",
    "rearrange",
    "reduce_max",
    "register_activation",
    "register_affine",
    "register_monotone",
    "register_rule",
    "registered",
    "scale",
    "softmax",
    "subtract",
]

# Imported for the rules that they register.
_FAMILIES = (
    activations,
    attention,
    distance,
    kernels,
    merging,
    moves,
    normalization,
    operators,
    own_statistics,
    pooling,
    quantized,
    recurrent,
    shape,
    wrappers,
)
