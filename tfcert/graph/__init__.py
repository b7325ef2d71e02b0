"""All that tfcert needs of Keras's internals: how Keras records a model, and how it trains one.

``tests/graph_test.py`` fails when Keras changes what is used here.
"""

from tfcert.graph.layer_parts import (
    AttentionParts,
    attention_parts,
    copied,
    input_quantizer,
    int8_parts,
    with_activation,
)
from tfcert.graph.settings import Settings
from tfcert.graph.walk import (
    Origin,
    Types,
    Visit,
    check_call,
    example_inputs,
    inputs_of,
    interpret,
    is_of_applications,
    is_operation_of_keras,
    is_variable,
    is_written_by_keras,
    layers_of,
    loss_tracker,
    note_shapes,
    origin,
    readers,
    seed_generators,
    start_at_epoch,
    types_of,
    wants_walk,
    weight_type,
)

__all__ = [
    "AttentionParts",
    "Settings",
    "Origin",
    "Types",
    "Visit",
    "attention_parts",
    "check_call",
    "copied",
    "example_inputs",
    "input_quantizer",
    "inputs_of",
    "int8_parts",
    "interpret",
    "is_of_applications",
    "is_operation_of_keras",
    "is_variable",
    "is_written_by_keras",
    "layers_of",
    "loss_tracker",
    "note_shapes",
    "origin",
    "readers",
    "seed_generators",
    "start_at_epoch",
    "types_of",
    "wants_walk",
    "weight_type",
    "with_activation",
]
