"""The loops of sifive_spi.py in plain Python: for tests, and to read what the fast ones do.

    read(base, buf, fill)       sends len(buf) bytes `fill`, keeps what comes back
    write(base, buf)            sends the bytes, drops what comes back
    exchange(base, out, into)   both; the buffers have the same length, and may be the same

Each fills the transmit FIFO and drains the receive FIFO, eight bytes at a time at most, and is
False when bytes do not come back. The methods of SPI, transact(), packets() and put(), raise what
SPI raises then.
"""

from machine import mem32
from micropython import const

_CSMODE = const(0x18)
_CS_AUTO = const(0)
_CS_HOLD = const(2)
_TXDATA = const(0x48)
_RXDATA = const(0x4C)
_EMPTY = const(0x80000000)
_FIFO = const(8)

# Bytes that a device may let pass before it answers.
_PATIENCE = const(16)
# Looks at a register before a wait is given up.
_SPINS = 10000


def read(base, buf, fill):
    return exchange(base, bytes((fill,)) * len(buf), buf)


def write(base, buf):
    return exchange(base, buf, bytearray(len(buf)))


def exchange(base, out, into):
    n = len(out)
    for start in range(0, n, _FIFO):
        end = min(start + _FIFO, n)
        for i in range(start, end):
            mem32[base + _TXDATA] = out[i]
        for i in range(start, end):
            spins = _SPINS
            byte = mem32[base + _RXDATA]
            while byte & _EMPTY:
                spins -= 1
                if not spins:
                    return False
                byte = mem32[base + _RXDATA]
            into[i] = byte
    return True


def transact(self, cs, head, out, into):
    base = self._base
    mem32[base + _CSMODE] = _CS_HOLD
    good = write(base, head)
    if good and out:
        good = write(base, out)
    elif good and into:
        good = read(base, into, 0)
    mem32[base + _CSMODE] = _CS_AUTO
    if not good:
        self._failed()


# The first byte that is not 0xFF, or 0xFF.
def _answer(self):
    byte = bytearray(1)
    for _ in range(_PATIENCE):
        if not read(self._base, byte, 0xFF):
            self._failed()
        if byte[0] != 0xFF:
            break
    return byte[0]


def packets(self, buf, size, token, sums):
    view = memoryview(buf)
    for n in range(len(buf) // size):
        sums[2 * n] = _answer(self)
        if sums[2 * n] != token:
            return n
        both = bytearray(2)
        if not read(self._base, view[n * size : n * size + size], 0xFF):
            self._failed()
        if not read(self._base, both, 0xFF):
            self._failed()
        sums[2 * n : 2 * n + 2] = both
    return len(buf) // size


def put(self, head, data, tail):
    for part in head, data, tail:
        if not write(self._base, part):
            self._failed()
    return _answer(self)
