"""The loops of sifive_spi.py for 32-bit RISC-V: about 5 instructions per byte, of which two are
device accesses. What they do stands in sifive_spi_plain.

Branches go backwards only: MicroPython's assembler reads past its label table when it sizes a
forward branch.
"""

# Registers, instructions and viper's types are no names that ruff knows.
# ruff: noqa: F821

import micropython
from micropython import const

# Bytes that a device may let pass before it answers.
_PATIENCE = const(16)
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


_ONES = b"\xff\xff"


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
    end = int(len(buf))
    i = end & -8
    if i:
        if not _write(base, buf, i):
            return False
    out = ptr8(buf)
    spi = ptr32(base)
    n = end - i
    while i < end:
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


# The head, and what is read when both fit into the FIFO, go at once.
@micropython.viper
def transact(self, cs, head, out, into):
    base = self._base
    spi = ptr32(base)
    sent = ptr8(head)
    kept = ptr8(into)
    n = int(len(head))
    most = int(len(into))
    end = n
    if n + most <= 8:
        end += most
    spi[6] = 2
    i = 0
    while i < end:
        if i < n:
            spi[18] = sent[i]
        else:
            spi[18] = 0
        i += 1
    i = 0
    spins = _SPINS
    while i < end and spins:
        byte = spi[19]
        if byte >= 0:
            if i >= n:
                kept[i - n] = byte
            i += 1
        else:
            spins -= 1
    good = i == end
    if good:
        if int(len(out)):
            good = bool(write(base, out))
        elif n + most > end:
            good = bool(read(base, into, 0))
    spi[6] = 0
    if not good:
        self._failed()


# The first byte that is not 0xFF, or 0xFF; less than 0 when bytes do not come back.
@micropython.viper
def _answer(spi: ptr32) -> int:
    byte = 0xFF
    left = _PATIENCE
    while byte == 0xFF and left:
        spi[18] = 0xFF
        byte = spi[19]
        spins = _SPINS
        while byte < 0 and spins:
            spins -= 1
            byte = spi[19]
        left -= 1
    return byte


@micropython.viper
def packets(self, buf, size: int, token: int, sums) -> int:
    base = self._base
    at = int(ptr8(buf))
    end = at + int(len(buf)) // size * size
    crc = ptr8(sums)
    n = 0
    while at != end:
        byte = int(_answer(base))
        if byte < 0:
            self._failed()
        crc[0] = byte
        if byte != token:
            break
        good = bool(_read(base, at, size, 0xFF))
        if good:
            good = bool(_rest(base, _ONES, crc, 2))
        if not good:
            self._failed()
        crc = ptr8(int(crc) + 2)
        at += size
        n += 1
    return n


@micropython.viper
def put(self, head, data, tail) -> int:
    base = self._base
    good = bool(write(base, head))
    if good:
        good = bool(write(base, data))
    if good:
        good = bool(write(base, tail))
    byte = -1
    if good:
        byte = int(_answer(base))
    if byte < 0:
        self._failed()
    return byte
