"""Hot loops of kernels.py in RISC-V inline assembler: CRC-32 and CRC-16 with 5.5 instructions per
byte, less than compiled C needs, the look for blank bytes with 0.6, and register polls with 8
instructions each.

Branches go backwards only: MicroPython's assembler reads past its label table when it sizes a
forward branch.
"""

# Registers and instructions are no names that ruff knows.
# ruff: noqa: F821

from binascii import crc32 as _bytes

import micropython
from uctypes import addressof, bytearray_at

from lifeboat.kernels_viper import blank as _blank
from lifeboat.kernels_viper import crc16_table, crc_table

_table = crc_table()


# Slice-by-8 over a3 bytes at a2, word-aligned and a multiple of 8 bytes, not empty. The bases a4
# and a5 point into the middle of four tables each, so that all lie within a 12-bit offset.
@micropython.asm_rv32
def _words(a0, a1, a2, a3):
    add(a3, a2, a3)
    xori(a0, a0, -1)
    li(t0, 6144)
    add(a4, a1, t0)
    li(t0, 2048)
    add(a5, a1, t0)
    label(loop)
    lw(t0, 0(a2))
    lw(t1, 4(a2))
    addi(a2, a2, 8)
    xor(t0, t0, a0)
    slli(t2, t0, 2)
    andi(t2, t2, 0x3FC)
    add(t2, t2, a4)
    lw(a0, 1024(t2))
    srli(t2, t0, 6)
    andi(t2, t2, 0x3FC)
    add(t2, t2, a4)
    lw(t3, 0(t2))
    xor(a0, a0, t3)
    srli(t2, t0, 14)
    andi(t2, t2, 0x3FC)
    add(t2, t2, a4)
    lw(t3, -1024(t2))
    xor(a0, a0, t3)
    srli(t2, t0, 22)
    andi(t2, t2, 0x3FC)
    add(t2, t2, a4)
    lw(t3, -2048(t2))
    xor(a0, a0, t3)
    slli(t2, t1, 2)
    andi(t2, t2, 0x3FC)
    add(t2, t2, a5)
    lw(t3, 1024(t2))
    xor(a0, a0, t3)
    srli(t2, t1, 6)
    andi(t2, t2, 0x3FC)
    add(t2, t2, a5)
    lw(t3, 0(t2))
    xor(a0, a0, t3)
    srli(t2, t1, 14)
    andi(t2, t2, 0x3FC)
    add(t2, t2, a5)
    lw(t3, -1024(t2))
    xor(a0, a0, t3)
    srli(t2, t1, 22)
    andi(t2, t2, 0x3FC)
    add(t2, t2, a5)
    lw(t3, -2048(t2))
    xor(a0, a0, t3)
    bne(a2, a3, loop)
    xori(a0, a0, -1)


# Addresses are mostly too large for MicroPython's small integers, so they are looked at here.
@micropython.asm_rv32
def _low(a0):
    andi(a0, a0, 7)


# The built-in function takes the few bytes before the first aligned word and after the last.
def crc32(buf, crc=0):
    n = len(buf)
    low = _low(buf)
    if n and not (low | n) & 7:
        return _words(crc, _table, buf, n) & 0xFFFFFFFF
    view = memoryview(buf)
    head = -low & 3
    tail = n - head & 7
    body = n - head - tail
    if body < 8:
        return _bytes(view, crc)
    if head:
        crc = _bytes(view[:head], crc)
    start = addressof(buf) + head
    crc = _words(crc, _table, start, body) & 0xFFFFFFFF
    if tail:
        # A slice of a memoryview can't start beyond 16 MB; this can.
        crc = _bytes(bytearray_at(start + body, tail), crc)
    return crc


# Byte by byte over [a2, a3), not empty.
@micropython.asm_rv32
def _bytes16(a0, a1, a2, a3):
    label(loop)
    lbu(t0, 0(a2))
    addi(a2, a2, 1)
    xor(t0, t0, a0)
    andi(t0, t0, 255)
    slli(t0, t0, 2)
    add(t0, t0, a1)
    lw(t0, 0(t0))
    srli(a0, a0, 8)
    xor(a0, a0, t0)
    bne(a2, a3, loop)


# The same loop over another table, for the CRC with its bytes swapped; _words() inverts what comes
# and goes.
def crc16(buf, crc=0):
    n = len(buf)
    if not n:
        return crc
    if crc:
        crc = crc >> 8 | (crc & 255) << 8
    if (n | _low(buf)) & 7:
        start = addressof(buf)
        crc = _bytes16(crc, crc16_table(), start, start + n)
    else:
        crc = ~_words(~crc, crc16_table(), buf, n)
    return crc >> 8 | (crc & 255) << 8


# Whether all bits of [a0, a1) are ones, which is a multiple of 64 bytes, word-aligned, not empty.
# The loop ends with the first turn that saw a zero.
@micropython.asm_rv32
def _ones(a0, a1) -> bool:
    li(a2, -1)
    label(loop)
    lw(t0, 0(a0))
    and_(a2, a2, t0)
    lw(t0, 4(a0))
    and_(a2, a2, t0)
    lw(t0, 8(a0))
    and_(a2, a2, t0)
    lw(t0, 12(a0))
    and_(a2, a2, t0)
    lw(t0, 16(a0))
    and_(a2, a2, t0)
    lw(t0, 20(a0))
    and_(a2, a2, t0)
    lw(t0, 24(a0))
    and_(a2, a2, t0)
    lw(t0, 28(a0))
    and_(a2, a2, t0)
    lw(t0, 32(a0))
    and_(a2, a2, t0)
    lw(t0, 36(a0))
    and_(a2, a2, t0)
    lw(t0, 40(a0))
    and_(a2, a2, t0)
    lw(t0, 44(a0))
    and_(a2, a2, t0)
    lw(t0, 48(a0))
    and_(a2, a2, t0)
    lw(t0, 52(a0))
    and_(a2, a2, t0)
    lw(t0, 56(a0))
    and_(a2, a2, t0)
    lw(t0, 60(a0))
    and_(a2, a2, t0)
    addi(a0, a0, 64)
    xori(t0, a2, -1)
    sltiu(t0, t0, 1)
    sub(t1, a1, a0)
    sltu(t1, zero, t1)
    and_(t1, t1, t0)
    bne(t1, zero, loop)
    addi(a0, t0, 0)


def blank(buf):
    n = len(buf)
    start = addressof(buf)
    head = -start & 3
    body = n - head & -64
    if body < 64:
        return _blank(buf)
    if not _ones(start + head, start + head + body):
        return False
    end = start + head + body
    return _blank(bytearray_at(start, head)) and _blank(bytearray_at(end, n - head - body))


@micropython.asm_rv32
def poll32(a0, a1, a2, a3) -> bool:
    sltu(t2, zero, a3)  # zero spins: no match, whatever is there
    label(loop)
    lw(t0, 0(a0))
    and_(t0, t0, a1)
    xor(t0, t0, a2)
    addi(a3, a3, -1)
    sltu(t1, zero, t0)
    slt(t3, zero, a3)
    and_(t1, t1, t3)
    bne(t1, zero, loop)
    sltiu(a0, t0, 1)
    and_(a0, a0, t2)


# fence iorw, iorw: the assembler has no name for it.
@micropython.asm_rv32
def fence():
    data(4, 0x0FF0000F)
