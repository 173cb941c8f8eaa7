"""The hot loops, each in the fastest form this machine can run, chosen once at import.

    crc32(buf, crc=0)                   CRC-32 (IEEE), continues from crc
    crc16(buf, crc=0)                   CRC-16 as SD cards use it (XMODEM: 0x1021, highest bit
                                        first, from 0), continues from crc
    blank(buf)                          True when every byte is 0xFF (and when there are none)
    poll32(addr, mask, want, spins)     reads the device register at addr up to `spins` times,
                                        until (word & mask) == want; says whether that came
    fence()                             orders memory and device accesses before and after it,
                                        where the kernels of the architecture can

Buffers are anything bytes-like with elements of one byte, of any length and alignment,
memory-mapped flash included. None of these checks that it stays inside its buffer or a device:
that is the caller's job.

The variants are modules of their own, so that a manifest can leave out what its architecture
does not need or can't compile, and so that tests can hold them equal: kernels_viper for every
architecture with a native emitter, with kernels_rv32 (inline assembler) on 32-bit RISC-V and
kernels_viper_crc elsewhere; kernels_plain where there is no emitter.
"""

# The names are for others to import.
# ruff: noqa: F401

import sys

from micropython import const

_RV32IMC = const(11)

# The native architecture that this interpreter runs, 0 for none (bits 10 to 13, see mpconfig's
# MPY_FILE_HEADER_INT).
arch = getattr(sys.implementation, "_mpy", 0) >> 10 & 15

if arch == _RV32IMC:
    from lifeboat.kernels_rv32 import blank, crc16, crc32, fence, poll32
elif arch:
    from lifeboat.kernels_viper import blank
    from lifeboat.kernels_viper_crc import crc16, crc32, fence, poll32
else:
    from lifeboat.kernels_plain import blank, crc16, crc32, fence, poll32
