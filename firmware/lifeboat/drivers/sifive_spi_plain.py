"""The loops of sifive_spi.py in plain Python: for tests, and to read what the fast ones do.

    read(base, buf, fill)       sends len(buf) bytes `fill`, keeps what comes back
    write(base, buf)            sends the bytes, drops what comes back
    exchange(base, out, into)   both; the buffers have the same length, and may be the same

Each fills the transmit FIFO and drains the receive FIFO, eight bytes at a time at most, and is
False when bytes do not come back.
"""

from machine import mem32
from micropython import const

_TXDATA = const(0x48)
_RXDATA = const(0x4C)
_EMPTY = const(0x80000000)
_FIFO = const(8)

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
