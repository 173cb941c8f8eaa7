"""Unpacking what others have packed."""

from __future__ import annotations

import zlib


def inflate(packed: bytes, size: int) -> bytes:
    """The first bytes of zlib's format, at most one more than `size`.

    Who packed them does not decide how much memory they take; more than `size` of them are wrong,
    and their reader says so. Raises zlib.error, also when their end is missing.
    """
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, size + 1)
    if len(data) <= size and not unpacker.eof:
        raise zlib.error("the packed bytes are cut off")
    return data
