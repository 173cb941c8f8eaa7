"""What ahci.py does for each command, for 32-bit RISC-V; its words stand in ahci_plain.

Branches go backwards only: MicroPython's assembler reads past its label table when it sizes a
forward branch.
"""

# Registers and instructions are no names that ruff knows.
# ruff: noqa: F821

import micropython


# a4: the bits for GONE. a5: ODD. t1: bytes left. t2: the largest piece. t3: its entry.
@micropython.asm_rv32
def begin(a0, a1, a2, a3):
    lw(a4, 0x30(a0))
    lw(a5, 4(a2))
    and_(a4, a4, a5)
    sltu(a4, zero, a4)
    slli(a4, a4, 2)
    andi(a5, a3, 1)
    slli(a5, a5, 3)
    or_(a4, a4, a5)
    lw(t0, 1284(a1))
    li(t1, 0x40000000)
    or_(t0, t0, t1)
    sw(t0, 1284(a1))
    lw(t1, 8(a2))
    li(t2, 0x400000)
    add(t3, t1, t2)
    addi(t3, t3, -1)
    srli(t3, t3, 22)
    slli(t3, t3, 16)
    lw(t0, 0(a1))
    or_(t0, t0, t3)
    sw(t0, 0(a1))
    sw(zero, 4(a1))
    addi(t3, a1, 1408)
    label(piece)
    sltu(t0, t2, t1)
    sub(t0, zero, t0)  # all ones when more is left than a piece
    xor(a5, t1, t2)
    and_(a5, a5, t0)
    xor(t0, t1, a5)  # the smaller one of both
    sw(a3, 0(t3))
    addi(a5, t0, -1)
    sw(a5, 12(t3))
    add(a3, a3, t0)
    sub(t1, t1, t0)
    addi(t3, t3, 16)
    bne(t1, zero, piece)
    li(t0, -1)
    sw(t0, 0x10(a0))
    data(4, 0x0FF0000F)  # fence iorw, iorw
    lw(t0, 0(a2))
    sltiu(t1, a4, 1)
    and_(t0, t0, t1)
    sw(t0, 0x38(a0))
    mv(a0, a4)


# t1: whether it runs. t0: what is not well of a command that ended.
@micropython.asm_rv32
def ended(a0, a1, a2):
    li(t2, 500)
    label(look)
    lw(t1, 0x38(a0))
    andi(t1, t1, 1)
    addi(t2, t2, -1)
    sltu(t0, zero, t2)
    and_(t0, t0, t1)
    bne(t0, zero, look)
    data(4, 0x0FF0000F)
    lw(t0, 0x20(a0))
    andi(t0, t0, 0xA9)
    lw(t2, 8(a2))
    lw(t3, 4(a1))
    xor(t3, t3, t2)
    sltu(t2, zero, t2)
    sub(t2, zero, t2)
    and_(t3, t3, t2)  # not 0 when not all bytes came
    lw(t2, 0(a1))
    srli(t2, t2, 6)
    andi(t2, t2, 1)
    addi(t2, t2, -1)  # all ones for a read
    and_(t3, t3, t2)
    or_(t0, t0, t3)
    addi(t2, t1, -1)  # all ones when it ended
    and_(t0, t0, t2)
    lw(t2, 0x10(a0))
    srli(t2, t2, 24)
    andi(t2, t2, 0x7D)
    or_(t0, t0, t2)
    sltu(t0, zero, t0)
    slli(t0, t0, 1)
    or_(t1, t1, t0)
    lw(t0, 0(a2))
    sltiu(t0, t0, 1)
    slli(t0, t0, 2)
    or_(a0, t1, t0)
