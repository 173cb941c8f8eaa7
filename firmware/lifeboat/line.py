"""The console as a line for bytes: pieces and parcels come in, frames go out.

docs/provisioning.md is the protocol. Nothing that comes in holds a 0x03, so Ctrl-C interrupts
whatever is waited for.
"""

import select
import sys
from io import BytesIO
from struct import unpack

import deflate
import micropython
from micropython import const

from .kernels import crc32

PIECE = const(2048)  # bytes that are acknowledged at a time
WINDOW = const(3)  # pieces that may be under way; the console must have room for them
FRAME = const(8192)  # bytes of a disk that are sent at a time
FRAMES = const(3)  # frames that may be under way: a pty holds 64 KB

_CTRL_C = const(3)
_QUIET_MS = const(100)
_WBITS = const(8)  # compresses nearly as well as more, and much faster
# Most ports' own builds can only decompress.
_COMPRESSES = hasattr(deflate.DeflateIO, "write")


class Line:
    """The console as a line for bytes. Ctrl-C interrupts reading, and nothing else."""

    def __init__(self):
        self._in = sys.stdin.buffer
        self.write = sys.stdout.buffer.write
        self._poll = select.poll()
        self._poll.register(sys.stdin, select.POLLIN)

    def guard(self, on):
        """Keep Ctrl-C from interrupting, or let it."""
        micropython.kbd_intr(-1 if on else _CTRL_C)

    def read(self, buf):
        """Fill buf."""
        self.guard(False)
        try:
            self._in.readinto(buf)
        finally:
            self.guard(True)

    def drain(self):
        """Throw away what is still coming in, so that the REPL does not take it for code."""
        while self._poll.poll(_QUIET_MS):
            self._in.read(1)

    def piece(self, buf):
        """Receive a piece into buf; return its length."""
        read = self.read
        head = bytearray(4)
        read(head)
        size, threes = _digits(head, 0), _digits(head, 2)
        if size > PIECE or size > len(buf) or threes > size:
            raise ValueError("line")
        places = bytearray(2 * threes)
        if threes:
            read(places)
        piece = buf[:size]
        if size:
            read(piece)
        for i in range(0, 2 * threes, 2):
            place = _digits(places, i)
            if place >= size:
                raise ValueError("line")
            piece[place] = _CTRL_C
        self.write(b"+")
        return size

    def parcel(self, buf):
        """Receive a parcel into buf; return (its number, its size).

        Size None: it came damaged; tell the sender, who tries again. Size 0: it was the last.
        """
        head = memoryview(bytearray(16))
        if self.piece(head) != 16:
            raise ValueError("line")
        number, size, packed, crc = unpack("<IIII", head)
        if size > len(buf) or packed > size:
            raise ValueError("line")
        data = buf[:size]
        into = memoryview(bytearray(packed)) if packed else data
        at = 0
        while at < len(into):
            at += self.piece(into[at:])
        if packed and not _inflate(into, data):
            return number, None
        return number, size if crc32(data) == crc else None

    def send(self, data, zeros):
        """Send a frame; zeros: as many zeros as there are data."""
        if data == zeros:
            kind, payload = b"0", b""
        else:
            kind, payload = b"r", data
            if _COMPRESSES:
                packed = BytesIO()
                packer = deflate.DeflateIO(packed, deflate.ZLIB, _WBITS)
                packer.write(data)
                packer.close()
                if packed.tell() < len(data):
                    kind, payload = b"z", packed.getvalue()
        self.write(kind + b"%04x%08x" % (len(payload), crc32(data)))
        if payload:
            self.write(payload)

    def acknowledged(self, count):
        """Wait until so many frames more have arrived."""
        ack = bytearray(1)
        for _ in range(count):
            self.read(ack)
            if ack != b"+":
                raise ValueError("line")


# A number of 12 bits, out of two printable characters.
def _digits(buf, at):
    high, low = buf[at] - 64, buf[at + 1] - 64
    if not (0 <= high < 64 and 0 <= low < 64):
        if _CTRL_C in buf:
            raise KeyboardInterrupt
        raise ValueError("line")
    return high << 6 | low


def _inflate(packed, into):
    try:
        stream = deflate.DeflateIO(BytesIO(packed), deflate.ZLIB)
        return stream.readinto(into) == len(into)
    except (OSError, EOFError):
        return False
