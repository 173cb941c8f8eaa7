"""CRC-32 and CRC-16 of kernels.py for MicroPython's viper emitter, on 32-bit and 64-bit machines.

A file of its own so that a RISC-V board, which has kernels_rv32, can leave it out.
"""

# Viper's types are no names that ruff knows.
# ruff: noqa: F821

import micropython

from lifeboat.kernels_viper import crc16_table, crc_table

_table = crc_table()


# Eight bytes a turn from aligned addresses, the rest byte by byte. A CRC-32 comes and goes
# inverted, a CRC-16 with its bytes swapped.
@micropython.viper
def _crc(p: ptr8, t: ptr32, n: int, c: uint) -> uint:
    end = int(p) + n
    t1 = ptr32(int(t) + 1024)
    t2 = ptr32(int(t) + 2048)
    t3 = ptr32(int(t) + 3072)
    t4 = ptr32(int(t) + 4096)
    t5 = ptr32(int(t) + 5120)
    t6 = ptr32(int(t) + 6144)
    t7 = ptr32(int(t) + 7168)
    while True:
        if int(p) & 3 == 0:
            stop = int(p) + ((end - int(p)) & -8)
            while int(p) != stop:
                c ^= ptr32(p)[0]
                c = uint(
                    t7[c & 255]
                    ^ t6[(c >> 8) & 255]
                    ^ t5[(c >> 16) & 255]
                    ^ t4[(c >> 24) & 255]
                    ^ t3[p[4]]
                    ^ t2[p[5]]
                    ^ t1[p[6]]
                    ^ t[p[7]]
                )
                p = ptr8(int(p) + 8)
        if int(p) == end:
            return c
        c = (c >> 8) ^ t[(c ^ p[0]) & 255]
        p = ptr8(int(p) + 1)


def crc32(buf, crc=0):
    return (_crc(buf, _table, len(buf), crc ^ 0xFFFFFFFF) & 0xFFFFFFFF) ^ 0xFFFFFFFF


def crc16(buf, crc=0):
    crc = _crc(buf, crc16_table(), len(buf), crc >> 8 | (crc & 255) << 8)
    return crc >> 8 & 255 | (crc & 255) << 8


# Machines that reorder memory and device accesses need more than this to do DMA.
def fence():
    pass


@micropython.viper
def poll32(addr: ptr32, mask: int, want: int, spins: int) -> bool:
    while spins:
        if addr[0] & mask == want:
            return True
        spins -= 1
    return False
