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


@micropython.viper
def poll32(addr: ptr32, mask: int, want: int, spins: int) -> bool:
    while spins:
        if addr[0] & mask == want:
            return True
        spins -= 1
    return False


# Sixteen words a turn while the source is aligned: each store is a bus cycle to a slow device, the
# rest of the loop should not show. The first two locals live in registers.
@micropython.viper
def copy32(d: ptr32, s: ptr32, offset: int, nbytes: int):
    s = ptr32(int(s) + offset)
    end = int(d) + nbytes
    if int(s) & 3 == 0:
        stop = int(d) + (nbytes & -64)
        while int(d) != stop:
            d[0] = s[0]
            d[1] = s[1]
            d[2] = s[2]
            d[3] = s[3]
            d[4] = s[4]
            d[5] = s[5]
            d[6] = s[6]
            d[7] = s[7]
            d[8] = s[8]
            d[9] = s[9]
            d[10] = s[10]
            d[11] = s[11]
            d[12] = s[12]
            d[13] = s[13]
            d[14] = s[14]
            d[15] = s[15]
            d = ptr32(int(d) + 64)
            s = ptr32(int(s) + 64)
    while int(d) != end:
        b = ptr8(s)
        d[0] = b[0] | b[1] << 8 | b[2] << 16 | b[3] << 24
        d = ptr32(int(d) + 4)
        s = ptr32(int(s) + 4)
