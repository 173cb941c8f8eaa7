"""What ahci.py does for each command, in plain Python: where there is no faster form, for tests,
and to read what that does.

    begin(port, memory, own, buf)   makes the list of memory pieces (AHCI 1.3.1, 4.2) for the bytes
                                    from buf on, a buffer or an address, and tells the port to run
                                    the command. 0, or why it was not run: ODD (an address that DMA
                                    can't reach) and GONE (the link is not what it was)
    ended(port, memory, own)        looks for its end for a while. 0, or RUNNING, FAILED and GONE
                                    (the port is another's)

memory: the port's, in 32-bit words, with a command header without pieces and a command FIS without
its LBA mode: the bit is too high for MicroPython's small integers. own:

    0   1 while the port is ours, else 0
    1   the bits of PxSERR that say that the link is another
    2   how many bytes are moved
"""

from machine import mem32
from uctypes import addressof

from lifeboat.kernels import fence

RUNNING = 1
FAILED = 2
GONE = 4
ODD = 8

_IS = 0x10
_TFD = 0x20
_SERR = 0x30
_CI = 0x38
_WRITE = 0x40  # in the command header
_LBA = 321  # of the command FIS
_LBA_MODE = 0x40000000  # in Device, the highest byte
_PIECES = 352
_PIECE = 0x400000
_ERRORS = 0x7D000000  # TFES, HBFS, HBDS, IFS, INFS, OFS
_NOT_WELL = 0xA9  # BSY, DF, DRQ, ERR
_SPINS = 500


def begin(port, memory, own, buf):
    at = buf if isinstance(buf, int) else addressof(buf)
    said = (GONE if mem32[port + _SERR] & own[1] else 0) | (ODD if at & 1 else 0)
    left = own[2]
    memory[0] |= (left + _PIECE - 1) // _PIECE << 16
    memory[1] = 0
    memory[_LBA] |= _LBA_MODE
    piece = _PIECES
    while left:
        n = min(left, _PIECE)
        memory[piece] = at
        memory[piece + 3] = n - 1
        at += n
        left -= n
        piece += 4
    mem32[port + _IS] = 0xFFFFFFFF
    fence()  # the controller reads the tables as soon as it is told to
    mem32[port + _CI] = 0 if said else own[0]
    return said


def ended(port, memory, own):
    for _ in range(_SPINS):
        running = mem32[port + _CI] & 1
        if not running:
            break
    fence()
    # An error does not end a command: its bit in PxCI stays until the port is stopped.
    failed = mem32[port + _IS] & _ERRORS
    # How much of a read came is said beside its status (4.2.2); a short one left old bytes in the
    # buffer. Writes may be miscounted by controllers that fetch ahead.
    short = own[2] and not memory[0] & _WRITE and memory[1] != own[2]
    if not running and (short or mem32[port + _TFD] & _NOT_WELL):
        failed = True
    # A port that was started anew looks as if the command had ended well.
    return running | (FAILED if failed else 0) | (0 if own[0] else GONE)
