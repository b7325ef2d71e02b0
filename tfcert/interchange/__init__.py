"""Networks and properties in the formats of other tools: ONNX, LiteRT and VNN-LIB."""

from tfcert.interchange.litert_networks import load_litert
from tfcert.interchange.onnx_networks import file_of, load_onnx
from tfcert.interchange.properties import find_counterexample, prove
from tfcert.properties import Case, Property, read_vnnlib

__all__ = [
    "Case",
    "Property",
    "file_of",
    "find_counterexample",
    "load_litert",
    "load_onnx",
    "prove",
    "read_vnnlib",
]
