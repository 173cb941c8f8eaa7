"""compare of evidence.py in RISC-V inline assembler: 17 instructions a byte."""

# Registers and instructions are no names that ruff knows.
# ruff: noqa: F821

import micropython


# Word by word over [a0, a0 + a2), not empty. The bits of a word are counted in parallel: in pairs,
# fours and bytes, whose sum a multiplication brings to the top.
@micropython.asm_rv32
def _compare(a0, a1, a2, a3):
    add(a2, a2, a0)
    li(a4, 0x55555555)
    li(a5, 0x33333333)
    li(a6, 0x0F0F0F0F)
    li(a7, 0x01010101)
    label(loop)
    lw(t0, 0(a0))
    lw(t1, 0(a1))
    addi(a0, a0, 4)
    addi(a1, a1, 4)
    xor(t2, t0, t1)
    # Bits that are 1 and should be 0, t3; the other way round, t4.
    and_(t3, t2, t0)
    and_(t4, t2, t1)
    srli(t5, t3, 1)
    and_(t5, t5, a4)
    sub(t3, t3, t5)
    srli(t5, t4, 1)
    and_(t5, t5, a4)
    sub(t4, t4, t5)
    srli(t5, t3, 2)
    and_(t5, t5, a5)
    and_(t3, t3, a5)
    add(t3, t3, t5)
    srli(t5, t4, 2)
    and_(t5, t5, a5)
    and_(t4, t4, a5)
    add(t4, t4, t5)
    srli(t5, t3, 4)
    add(t3, t3, t5)
    and_(t3, t3, a6)
    srli(t5, t4, 4)
    add(t4, t4, t5)
    and_(t4, t4, a6)
    mul(t3, t3, a7)
    srli(t3, t3, 24)
    mul(t4, t4, a7)
    srli(t4, t4, 24)
    lw(t5, 0(a3))
    add(t5, t5, t3)
    sw(t5, 0(a3))
    lw(t5, 4(a3))
    add(t5, t5, t4)
    sw(t5, 4(a3))
    # Bytes that differ: their lowest bit becomes the OR of all.
    srli(t3, t2, 4)
    or_(t2, t2, t3)
    srli(t3, t2, 2)
    or_(t2, t2, t3)
    srli(t3, t2, 1)
    or_(t2, t2, t3)
    and_(t2, t2, a7)
    mul(t3, t2, a7)
    srli(t3, t3, 24)
    lw(t5, 8(a3))
    add(t5, t5, t3)
    sw(t5, 8(a3))
    # Those of them that are 0xFF: the AND of all.
    srli(t3, t0, 4)
    and_(t0, t0, t3)
    srli(t3, t0, 2)
    and_(t0, t0, t3)
    srli(t3, t0, 1)
    and_(t0, t0, t3)
    and_(t0, t0, t2)
    mul(t3, t0, a7)
    srli(t3, t3, 24)
    lw(t5, 12(a3))
    add(t5, t5, t3)
    sw(t5, 12(a3))
    bne(a0, a2, loop)


def compare(was, right, counts):
    _compare(was, right, len(was), counts)
