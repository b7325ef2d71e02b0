"""Checks a proof: ``python -m tfcert_check NET PROPERTY PROOF``."""

from __future__ import annotations

import argparse
import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Prints that it is valid and returns 0, or prints what is wrong in one line and returns 1."""
    parser = argparse.ArgumentParser("tfcert-check", description="Checks a proof of a property.")
    parser.add_argument("network", help="an ONNX or npz file, or one that gzip packed")
    parser.add_argument("property", help="a VNN-LIB file, which gzip may have compressed")
    parser.add_argument("proof", help="an npz file, as tfcert writes it")
    parser.add_argument("--float_safe", action="store_true", help="check it as run in float32")
    given = parser.parse_args(arguments)
    import tfcert_check

    try:
        network = tfcert_check.read_network(given.network, given.float_safe)
        asked = tfcert_check.read_property(given.property)
        tfcert_check.check(network, asked, tfcert_check.read_proof(given.proof))
    except Exception as error:  # Whatever happens, the proof is not accepted.
        kind = "" if isinstance(error, tfcert_check.Refused) else f"{type(error).__name__}: "
        print(" ".join(f"invalid: {kind}{error}".split()))
        return 1
    print("valid as executed in float32" if given.float_safe else "valid")
    return 0


if __name__ == "__main__":
    sys.exit(main())
