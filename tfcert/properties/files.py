"""Bytes of a file that may be compressed, up to a size."""

from __future__ import annotations

import gzip
import os
import pathlib
import zlib

__all__ = ["read"]

_MAGIC = b"\x1f\x8b"  # of gzip


def read(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a file, of a gzip file that of what it holds.

    Args:
        path: The file; whether it is compressed is seen from its first bytes.
        limit: An error is raised beyond so many bytes: few compressed ones can stand for many.
    """
    path = pathlib.Path(path)
    with open(path, "rb") as file:
        compressed = file.read(len(_MAGIC)) == _MAGIC
        file.seek(0)
        try:
            content = gzip.GzipFile(fileobj=file).read(limit + 1) if compressed else None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} must be a whole gzip file. Received: {error}.") from error
        if content is None:
            content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} must not hold more than {limit} bytes. Received: more.")
    return content
