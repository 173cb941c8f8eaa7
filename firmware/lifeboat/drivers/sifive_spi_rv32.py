"""The loops of sifive_spi.py for 32-bit RISC-V: less than 5 instructions per byte, where two are
the least that can be, one device access each. What they do stands in sifive_spi_plain.

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

_fill = bytearray(8)
_drop = bytearray(8)


# Eight bytes a turn: a2 bytes at a1, a multiple of 8, not 0; a3 is sent. One look at the
# "pending" register (bit 1: eight bytes have come) stands for eight at the FIFO's state.
@micropython.asm_rv32
def _read(a0, a1, a2, a3) -> bool:
    add(a2, a1, a2)
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
    sltu(t1, a1, a2)
    sltu(t1, t0, t1)
    bne(t1, zero, loop)
    sltiu(a0, t0, 1)


# The same for the bytes at a1.
@micropython.asm_rv32
def _write(a0, a1, a2) -> bool:
    add(a2, a1, a2)
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
    sltu(t1, a1, a2)
    sltu(t1, t0, t1)
    bne(t1, zero, loop)
    sltiu(a0, t0, 1)


@micropython.viper
def _exchange(spi: ptr32, out: ptr8, into: ptr8, n: int) -> bool:
    i = 0
    while n:
        k = 8 if n > 8 else n
        n -= k
        i = 0
        while i < k:
            spi[18] = out[i]
            i += 1
        i = 0
        while i < k:
            byte = spi[19]
            spins = _SPINS
            while byte < 0:
                spins -= 1
                if not spins:
                    return False
                byte = spi[19]
            into[i] = byte
            i += 1
        out = ptr8(int(out) + k)
        into = ptr8(int(into) + k)
    return True


def read(base, buf, fill):
    n = len(buf)
    whole = n & -8
    if whole:
        if not _read(base, buf, whole, fill):
            return False
        if whole == n:
            return True
        buf = memoryview(buf)[whole:]
    if _fill[0] != fill:
        for i in range(8):
            _fill[i] = fill
    return _exchange(base, _fill, buf, n - whole)


def write(base, buf):
    n = len(buf)
    whole = n & -8
    if whole:
        if not _write(base, buf, whole):
            return False
        if whole == n:
            return True
        buf = memoryview(buf)[whole:]
    return _exchange(base, buf, _drop, n - whole)


def exchange(base, out, into):
    return _exchange(base, out, into, len(out))
