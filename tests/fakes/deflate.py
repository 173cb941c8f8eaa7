"""MicroPython's deflate, in the ways that the agent uses it, out of zlib."""

import io
import sys
import types
import zlib


class DeflateIO(io.RawIOBase):
    def __init__(self, stream, kind, wbits=0):
        assert kind == 2
        self._stream, self._in = stream, b""

    def write(self, data):
        self._in += bytes(data)
        return len(data)

    def close(self):
        if self._in:
            self._stream.write(zlib.compress(self._in))
            self._in = b""

    def readinto(self, buf):
        try:
            data = zlib.decompressobj().decompress(self._stream.read(), len(buf))
        except zlib.error:
            raise OSError(22) from None
        buf[: len(data)] = data
        return len(data)


sys.modules.setdefault("deflate", types.SimpleNamespace(DeflateIO=DeflateIO, ZLIB=2))
