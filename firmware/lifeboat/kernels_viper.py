"""The hot loops of kernels.py for MicroPython's viper emitter, on 32-bit and 64-bit machines.

Viper integers are machine words: whether a 32-bit load is sign-extended depends on the
architecture, so nothing here looks at bits above the 32nd. Literals of 0x40000000 and more would
be objects, not machine words; Python passes such constants in.
"""

# Viper's types are no names that ruff knows.
# ruff: noqa: F821

from array import array

import micropython


# The eight planar tables of slice-by-8: t[256 * k + b] is the CRC of byte b and k zero bytes. The
# first one is there.
@micropython.viper
def _extend(t: ptr32):
    for i in range(256, 2048):
        c = uint(t[i - 256])
        t[i] = (c >> 8) ^ t[c & 255]


@micropython.viper
def _fill(t: ptr32, poly: uint):
    c = poly
    for i in range(256):
        c = uint(i)
        for _ in range(8):
            c = (c >> 1) ^ poly if c & 1 else c >> 1
        t[i] = c


def crc_table():
    table = bytearray(8192)
    _fill(table, 0xEDB88320)
    _extend(table)
    return table


_table16 = None


# The CRC-16 takes the highest bit first. With its two bytes swapped it moves through a table as a
# CRC does that takes the lowest first, so the loops of the CRC-32 compute it. The CRC of two bytes
# XORed is their CRCs XORed: a bit's CRC at a time fills the first table. Made when it is first
# asked for: not every board has a use for it.
def crc16_table():
    global _table16
    if not _table16:
        table = array("I", bytes(8192))
        c = 0x1021
        n = 1
        while n < 256:
            for i in range(n):
                table[n + i] = table[i] ^ (c >> 8 | (c & 255) << 8)
            c = c << 1 ^ (0x11021 if c & 0x8000 else 0)
            n += n
        _extend(table)
        _table16 = table
    return _table16


@micropython.viper
def _blank(p: ptr8, n: int) -> bool:
    end = int(p) + n
    while True:
        if int(p) & 3 == 0:
            while end - int(p) >= 32:
                n = ptr32(p)[0] & ptr32(p)[1] & ptr32(p)[2] & ptr32(p)[3]
                n &= ptr32(p)[4] & ptr32(p)[5] & ptr32(p)[6] & ptr32(p)[7]
                if n & (n >> 16) & 0xFFFF != 0xFFFF:
                    return False
                p = ptr8(int(p) + 32)
        if int(p) == end:
            return True
        if p[0] != 255:
            return False
        p = ptr8(int(p) + 1)


def blank(buf):
    return _blank(buf, len(buf))
