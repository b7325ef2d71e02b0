"""The error for a refused proof."""

import gzip
import hashlib
import os
import pathlib

__all__ = ["Refused", "content_of", "need"]


class Refused(Exception):
    """The proof, or what it is about, is not accepted; the message is one line."""


def need(condition: object, otherwise: str) -> None:
    """Raises Refused with a message unless a condition holds."""
    if not condition:
        raise Refused(otherwise)


def content_of(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """The bytes of a file, unpacked where gzip has packed them, and their SHA-256."""
    content = pathlib.Path(path).read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    return content, hashlib.sha256(content).hexdigest()
