"""The hot loops of kernels.py without machine code: built-in functions and plain Python."""

from array import array
from binascii import crc32 as _crc32

from machine import mem32

_ONES = b"\xff" * 256


def crc32(buf, crc=0):
    return _crc32(buf, crc) & 0xFFFFFFFF


# The CRC of two bytes XORed is their CRCs XORed: a bit's CRC at a time fills the table.
_table16 = array("H", [0])
_c = 0x1021
for _ in range(8):
    for _i in range(len(_table16)):
        _table16.append(_table16[_i] ^ _c)
    _c = _c << 1 ^ (0x11021 if _c & 0x8000 else 0)


def crc16(buf, crc=0):
    table = _table16
    for byte in buf:
        crc = (crc << 8 & 0xFF00) ^ table[crc >> 8 ^ byte]
    return crc


def blank(buf):
    view = memoryview(buf)
    n = len(view)
    whole = n & ~255
    for i in range(0, whole, 256):
        if view[i : i + 256] != _ONES:
            return False
    return view[whole:] == _ONES[: n - whole]


def poll32(addr, mask, want, spins):
    for _ in range(spins):
        if mem32[addr] & mask == want:
            return True
    return False


def copy32(addr, buf, offset, nbytes):
    for i in range(offset, offset + nbytes, 4):
        mem32[addr] = buf[i] | buf[i + 1] << 8 | buf[i + 2] << 16 | buf[i + 3] << 24
        addr += 4


def xor(buf, other):
    for i in range(len(buf)):
        buf[i] ^= other[i]


def compare(was, right, counts):
    for a, b in zip(was, right):
        if a != b:
            counts[0] += _ones(a & ~b)
            counts[1] += _ones(b & ~a)
            counts[2] += 1
            counts[3] += a == 0xFF


def _ones(x):
    n = 0
    while x:
        x &= x - 1
        n += 1
    return n


# Machines that reorder memory and device accesses need more than this to do DMA.
def fence():
    pass
