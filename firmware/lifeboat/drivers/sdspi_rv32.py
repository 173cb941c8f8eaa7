"""The CRCs of sdspi.py for 32-bit RISC-V, with no Python between two of them. What it does stands
in sdspi_plain.
"""

# Viper's types are no names that ruff knows.
# ruff: noqa: F821

import micropython

from lifeboat.kernels_rv32 import _bytes16, _words
from lifeboat.kernels_viper import crc16_table


# Both loops have the bytes of a CRC swapped: the lower one is the first on the bus. _words() takes
# whole aligned eights (`size` is some), and inverts what comes and goes.
@micropython.viper
def sums(buf, size: int, out: ptr16):
    at = int(ptr8(buf))
    end = at + int(len(buf))
    table = crc16_table()
    while at != end:
        if at & 7:
            crc = int(_bytes16(0, table, at, at + size))
        else:
            crc = ~int(_words(-1, table, at, size))
        out[0] = crc
        out = ptr16(int(out) + 2)
        at += size
