"""The loops of sifive_spi.py for 32-bit RISC-V: about 5 instructions per byte, of which two are
device accesses. What they do stands in sifive_spi_plain.

Branches go backwards only: MicroPython's assembler reads past its label table when it sizes a
forward branch.
"""

# Registers, instructions and viper's types are no names that ruff knows.
# ruff: noqa: F821

import micropython
from micropython import const

# Looks at a register before a wait is given up: 20 ms and more, and the longest wait, for eight
# bytes at the slowest clock, is 1 ms.
_SPINS = const(1000000)


# Eight bytes a turn: sends a3 each time and keeps what comes in the a2 bytes at a1, a multiple of
# 8, not 0. The "pending" register (its bit 1: eight bytes have come) is looked at instead of the
# FIFO's state for each byte. t0 is 1 when that did not happen: then the loop ends.
@micropython.asm_rv32
def _read(a0, a1, a2, a3) -> bool:
    add(a5, a1, a2)
    li(a4, _SPINS)
    label(loop)
    sw(a3, 0x48(a0))
    sw(a3, 0x48(a0))
    sw(a3, 0x48(a0))
    sw(a3, 0x48(a0))
    sw(a3, 0x48(a0))
    sw(a3, 0x48(a0))
    sw(a3, 0x48(a0))
    sw(a3, 0x48(a0))
    addi(t2, a4, 0)
    label(wait)
    lw(t0, 0x74(a0))
    andi(t0, t0, 2)
    addi(t2, t2, -1)
    sltiu(t0, t0, 1)
    slt(t1, zero, t2)
    and_(t1, t1, t0)
    bne(t1, zero, wait)
    lw(t1, 0x4C(a0))
    sb(t1, 0(a1))
    lw(t1, 0x4C(a0))
    sb(t1, 1(a1))
    lw(t1, 0x4C(a0))
    sb(t1, 2(a1))
    lw(t1, 0x4C(a0))
    sb(t1, 3(a1))
    lw(t1, 0x4C(a0))
    sb(t1, 4(a1))
    lw(t1, 0x4C(a0))
    sb(t1, 5(a1))
    lw(t1, 0x4C(a0))
    sb(t1, 6(a1))
    lw(t1, 0x4C(a0))
    sb(t1, 7(a1))
    addi(a1, a1, 8)
    sltu(t1, a1, a5)
    sltu(t1, t0, t1)
    bne(t1, zero, loop)
    sltiu(a0, t0, 1)


# The same, sending the bytes at a1 and keeping nothing.
@micropython.asm_rv32
def _write(a0, a1, a2) -> bool:
    add(a5, a1, a2)
    li(a4, _SPINS)
    label(loop)
    lbu(t1, 0(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 1(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 2(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 3(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 4(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 5(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 6(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 7(a1))
    sw(t1, 0x48(a0))
    addi(t2, a4, 0)
    label(wait)
    lw(t0, 0x74(a0))
    andi(t0, t0, 2)
    addi(t2, t2, -1)
    sltiu(t0, t0, 1)
    slt(t1, zero, t2)
    and_(t1, t1, t0)
    bne(t1, zero, wait)
    lw(t1, 0x4C(a0))
    lw(t1, 0x4C(a0))
    lw(t1, 0x4C(a0))
    lw(t1, 0x4C(a0))
    lw(t1, 0x4C(a0))
    lw(t1, 0x4C(a0))
    lw(t1, 0x4C(a0))
    lw(t1, 0x4C(a0))
    addi(a1, a1, 8)
    sltu(t1, a1, a5)
    sltu(t1, t0, t1)
    bne(t1, zero, loop)
    sltiu(a0, t0, 1)


# The same, sending the a3 bytes at a1 and keeping what comes at a2.
@micropython.asm_rv32
def _exchange(a0, a1, a2, a3) -> bool:
    add(a5, a1, a3)
    li(a4, _SPINS)
    label(loop)
    lbu(t1, 0(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 1(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 2(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 3(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 4(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 5(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 6(a1))
    sw(t1, 0x48(a0))
    lbu(t1, 7(a1))
    sw(t1, 0x48(a0))
    addi(t2, a4, 0)
    label(wait)
    lw(t0, 0x74(a0))
    andi(t0, t0, 2)
    addi(t2, t2, -1)
    sltiu(t0, t0, 1)
    slt(t1, zero, t2)
    and_(t1, t1, t0)
    bne(t1, zero, wait)
    lw(t1, 0x4C(a0))
    sb(t1, 0(a2))
    lw(t1, 0x4C(a0))
    sb(t1, 1(a2))
    lw(t1, 0x4C(a0))
    sb(t1, 2(a2))
    lw(t1, 0x4C(a0))
    sb(t1, 3(a2))
    lw(t1, 0x4C(a0))
    sb(t1, 4(a2))
    lw(t1, 0x4C(a0))
    sb(t1, 5(a2))
    lw(t1, 0x4C(a0))
    sb(t1, 6(a2))
    lw(t1, 0x4C(a0))
    sb(t1, 7(a2))
    addi(a1, a1, 8)
    addi(a2, a2, 8)
    sltu(t1, a1, a5)
    sltu(t1, t0, t1)
    bne(t1, zero, loop)
    sltiu(a0, t0, 1)


# The bytes after the last whole eight of n.
@micropython.viper
def _rest(spi: ptr32, out: ptr8, into: ptr8, n: int) -> bool:
    i = n & -8
    while i < n:
        spi[18] = out[i]
        i += 1
    i = n & -8
    while i < n:
        byte = spi[19]
        spins = _SPINS
        while byte < 0:
            spins -= 1
            if not spins:
                return False
            byte = spi[19]
        into[i] = byte
        i += 1
    return True


@micropython.viper
def read(base, buf, fill: int) -> bool:
    n = int(len(buf))
    i = n & -8
    if i:
        if not _read(base, buf, i, fill):
            return False
    if i == n:
        return True
    into = ptr8(buf)
    while i < n:
        into[i] = fill
        i += 1
    return bool(_rest(base, buf, buf, n))


@micropython.viper
def write(base, buf) -> bool:
    n = int(len(buf))
    i = n & -8
    if i:
        if not _write(base, buf, i):
            return False
    out = ptr8(buf)
    spi = ptr32(base)
    n -= i
    while i < int(len(buf)):
        spi[18] = out[i]
        i += 1
    spins = _SPINS
    while n:
        if spi[19] >= 0:
            n -= 1
        spins -= 1
        if not spins:
            return False
    return True


def exchange(base, out, into):
    n = len(out)
    if n > 7 and not _exchange(base, out, into, n & -8):
        return False
    return _rest(base, out, into, n)
